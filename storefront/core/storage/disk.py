"""Objects in a folder, under signed addresses of our own: no service to set up. For one machine, whatever its processes."""

import asyncio
import errno
import hashlib
import hmac
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import IO, ParamSpec, TypeVar
from urllib.parse import urlencode

from storefront.core.ids import new_id
from storefront.core.storage.base import (
    CHUNK_BYTES,
    ObjectNotFoundError,
    ObjectStream,
    PresignedRequest,
    StorageError,
    StorageFullError,
    StoredObject,
    validate_key,
    validate_media_type,
    validate_prefix,
    validate_presign_seconds,
)

P = ParamSpec("P")
T = TypeVar("T")

# Where the routes are that take and give objects.
ROUTE_PREFIX = "/objects"
# Bytes that are gathered before they are written: each write is a trip to another thread.
WRITE_BUFFER_BYTES = 1_048_576
STALE_DRAFT_SECONDS = 86_400
DEFAULT_MEDIA_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class PresignedGrant:
    """What a signed address allows: an upload of so many bytes of a type, or a download under a name."""

    key: str
    content_type: str = ""
    size: int = 0
    filename: str = ""


class DiskStorage:
    """A folder with three others: the objects, their media types, and what is still being written."""

    def __init__(self, folder: Path, base_url: str, secret: str) -> None:
        """`base_url` is where clients reach this server; `secret` signs."""
        self._folder = folder.absolute()
        self._base_url = base_url.rstrip("/")
        # A key of its own: what is signed here is never taken for a token, nor the other way round.
        self._signing_key = hashlib.blake2b(b"storefront objects", key=hashlib.sha256(secret.encode()).digest()).digest()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Nothing has to be open; what was cut off while it was written is cleared away."""
        await asyncio.to_thread(self._remove_stale_drafts)
        yield

    def describe(self) -> str:
        """The folder."""
        return f"the folder {self._folder}"

    # ------------------------------------------------------------------------------------------- addresses

    def presign_put(self, key: str, *, content_type: str, size: int, seconds: int) -> PresignedRequest:
        """An address of ours that takes the object."""
        grant, expires_at = PresignedGrant(validate_key(key), validate_media_type(content_type), size), _compute_expiry(seconds)
        url = self._build_signed_url("PUT", grant, expires_at)
        return PresignedRequest("PUT", url, {"content-type": content_type}, datetime.fromtimestamp(expires_at, UTC))

    def presign_get(self, key: str, *, seconds: int, filename: str | None = None) -> str:
        """An address of ours that gives the object."""
        return self._build_signed_url("GET", PresignedGrant(validate_key(key), filename=filename or ""), _compute_expiry(seconds))

    def public_url(self, key: str) -> str | None:
        """Nowhere: what is public is served by routes of its own."""
        validate_key(key)
        return None

    def verify_grant(self, method: str, key: str, query: dict[str, str]) -> PresignedGrant | None:
        """What a request is allowed by the signature in its address; None: nothing, or no longer."""
        try:
            expires_at, size = int(query["expires"]), int(query.get("size", "0"))
            grant = PresignedGrant(validate_key(key), query.get("type", ""), size, query.get("filename", ""))
        except (KeyError, ValueError):
            return None
        signature = self._compute_signature(method, grant, expires_at)
        is_ours = hmac.compare_digest(signature.encode(), query.get("signature", "").encode(errors="replace"))
        return grant if is_ours and time.time() < expires_at else None

    def _build_signed_url(self, method: str, grant: PresignedGrant, expires_at: int) -> str:
        parameters = {"type": grant.content_type, "size": str(grant.size or ""), "filename": grant.filename}
        query = {name: value for name, value in parameters.items() if value}
        query |= {"expires": str(expires_at), "signature": self._compute_signature(method, grant, expires_at)}
        return f"{self._base_url}{ROUTE_PREFIX}/{grant.key}?{urlencode(query)}"

    def _compute_signature(self, method: str, grant: PresignedGrant, expires_at: int) -> str:
        # Each part with its length: no two requests are the same text.
        segments = (method, grant.key, grant.content_type, str(grant.size), grant.filename, str(expires_at))
        text = "".join(f"{len(segment)}:{segment}" for segment in segments)
        return hmac.new(self._signing_key, text.encode(errors="replace"), hashlib.sha256).hexdigest()

    # --------------------------------------------------------------------------------------------- objects

    async def put(
        self,
        key: str,
        content: bytes | AsyncIterable[bytes],
        content_type: str,
        *,
        cache_control: str | None = None,  # noqa: ARG002  nobody gets a file but by a route, which says it itself
    ) -> int:
        """Write to a file aside and move it into its place. Whoever reads an object that is replaced reads on in the old one."""
        path, media_type = self._object_path(key), validate_media_type(content_type)
        draft = await _run_in_thread(self._create_draft)
        try:
            async for buffered in _buffer_chunks(content):
                await _run_in_thread(draft.write, buffered)
            return await _run_in_thread(_publish_draft, draft, path, self._type_path(key), media_type)
        finally:
            await _run_in_thread(_discard_draft, draft)

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[ObjectStream]:
        """Read a file; raises Missing."""
        file = await _run_in_thread(_open_file, self._object_path(key))
        try:
            media_type = await _run_in_thread(_read_media_type, self._type_path(key))
            yield ObjectStream(_build_stored_object(key, os.fstat(file.fileno()), media_type), _iterate_chunks(file))
        finally:
            await _run_in_thread(file.close)

    async def head(self, key: str) -> StoredObject | None:
        """What the folder says of it."""
        path, type_path = self._object_path(key), self._type_path(key)

        def read_status() -> StoredObject | None:
            with suppress(FileNotFoundError, NotADirectoryError):
                status = path.stat()
                return _build_stored_object(key, status, _read_media_type(type_path)) if S_ISREG(status.st_mode) else None
            return None

        return await _run_in_thread(read_status)

    async def delete(self, key: str) -> None:
        """Remove the file."""
        for path in (self._object_path(key), self._type_path(key)):
            await _run_in_thread(_remove_file, path, self._folder)

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """The files of a folder and of those in it."""
        root = self._folder / "objects"
        for stored in await _run_in_thread(lambda: [*_find_objects(root, validate_prefix(prefix))]):
            yield stored

    def get_file_path(self, key: str) -> Path:
        """Where an object's bytes are, if it is there: for those who serve files."""
        return self._object_path(key)

    def _object_path(self, key: str) -> Path:
        return self._folder / "objects" / validate_key(key)

    def _type_path(self, key: str) -> Path:
        return self._folder / "types" / validate_key(key)

    def _create_draft(self) -> IO[bytes]:
        drafts_folder = self._folder / "unfinished"
        drafts_folder.mkdir(parents=True, exist_ok=True)
        # For this user's eyes only, as what else is in the data folder.
        return open(drafts_folder / new_id(), "xb", opener=_open_private)

    def _remove_stale_drafts(self) -> None:
        for path in (self._folder / "unfinished").glob("*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - STALE_DRAFT_SECONDS:
                    path.unlink()


def _compute_expiry(seconds: int) -> int:
    return int(time.time()) + validate_presign_seconds(seconds)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


async def _run_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work on the file system, its failures as those of any object store."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError("the disk of the data folder is full") from error
        raise StorageError(f"the data folder: {error.strerror}") from error


async def _buffer_chunks(content: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    buffer = bytearray()
    async for chunk in content:
        buffer += chunk
        if len(buffer) >= WRITE_BUFFER_BYTES:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)


def _publish_draft(draft: IO[bytes], path: Path, type_path: Path, content_type: str) -> int:
    draft.flush()
    os.fsync(draft.fileno())
    size = draft.tell()
    # The type first: an object that is there has one.
    type_draft = Path(f"{draft.name}.type")
    type_draft.write_text(content_type)
    _move_file(type_draft, type_path)
    _move_file(Path(draft.name), path)
    return size


def _move_file(source: Path, target: Path) -> None:
    # Its folder may be removed meanwhile, by whoever deletes the last object in it.
    for _ in range(100):
        with suppress(FileNotFoundError, FileExistsError):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def _discard_draft(draft: IO[bytes]) -> None:
    # What is left in its buffer may find no room on the disk.
    with suppress(OSError):
        draft.close()
    for path in (Path(draft.name), Path(f"{draft.name}.type")):
        path.unlink(missing_ok=True)


def _open_file(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ObjectNotFoundError from None


def _read_media_type(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return DEFAULT_MEDIA_TYPE


async def _iterate_chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    read_chunk: Callable[[int], bytes] = file.read
    while chunk := await _run_in_thread(read_chunk, CHUNK_BYTES):
        yield chunk


def _build_stored_object(key: str, status: os.stat_result, content_type: str) -> StoredObject:
    return StoredObject(key, status.st_size, content_type, datetime.fromtimestamp(status.st_mtime, UTC))


def _remove_file(path: Path, root: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()
    # Folders that nothing is left in go too.
    with suppress(OSError):
        for folder in path.parents:
            if folder.parent == root:
                break
            folder.rmdir()


def _find_objects(root: Path, prefix: str) -> Iterator[StoredObject]:
    for path in sorted((root / prefix).rglob("*")):
        with suppress(FileNotFoundError):
            if path.is_file():
                yield _build_stored_object(path.relative_to(root).as_posix(), path.stat(), "")
