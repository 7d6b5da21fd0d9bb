"""Which release this is: what one of them has worked out is not to be taken for the work of another."""

from functools import cache
from hashlib import blake2b
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


@cache
def fingerprint() -> bytes:
    """32 bytes that are the same wherever the same code runs. A version would not do: it stays while the code is worked on."""
    found = blake2b(digest_size=32)
    for path in sorted(_PACKAGE.rglob("*.py")):
        found.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + blake2b(path.read_bytes()).digest())
    return found.digest()
