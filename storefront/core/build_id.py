"""The build id: part of cache keys and cursors, so that results of one release are never used by another."""

from functools import cache
from hashlib import blake2b
from pathlib import Path

_PACKAGE_FOLDER = Path(__file__).parents[1]


@cache
def compute_build_id() -> bytes:
    """32 bytes, a hash of the source code. The version does not do: it stays the same during development."""
    digest = blake2b(digest_size=32)
    for path in sorted(_PACKAGE_FOLDER.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE_FOLDER).as_posix().encode() + b"\0" + blake2b(path.read_bytes()).digest())
    return digest.digest()
