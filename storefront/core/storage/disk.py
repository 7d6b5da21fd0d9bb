"""Object storage in a folder, with presigned URLs to this server. For one machine with any number of processes."""

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
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import IO, ParamSpec, TypeVar
from urllib.parse import urlencode

from storefront.core.ids import new_id
from storefront.core.private_files import open_private
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

# Path of the storage endpoint.
ROUTE_PREFIX = "/objects"
# Size of the write buffer: each write is a switch to another thread.
WRITE_BUFFER_BYTES = 1_048_576
STALE_DRAFT_SECONDS = 86_400
DEFAULT_MEDIA_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class PresignedGrant:
    """What a presigned URL grants: an upload of `size` bytes of a type, or a download under a file name."""

    key: str
    content_type: str = ""
    size: int = 0
    filename: str = ""


class DiskStorage:
    """Object storage in a folder with three subfolders: objects, their media types, and drafts of unfinished writes."""

    def __init__(self, folder: Path, base_url: str, secret: str) -> None:
        """`base_url`: the public URL of this server; `secret`: the key of the signatures."""
        self._folder = folder.absolute()
        self._base_url = base_url.rstrip("/")
        # A derived key (domain separation): a signature of a URL can never serve as a token, or vice versa.
        self._signing_key = hashlib.blake2b(b"storefront objects", key=hashlib.sha256(secret.encode()).digest()).digest()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Remove drafts that interrupted writes have left."""
        await asyncio.to_thread(self._remove_stale_drafts)
        yield

    def describe(self) -> str:
        """The path of the folder."""
        return f"the folder {self._folder}"

    # ------------------------------------------------------------------------------------------- presigned URLs

    def presign_put(self, key: str, *, content_type: str, size: int, seconds: int) -> PresignedRequest:
        """A presigned PUT to this server."""
        grant, expires_at = PresignedGrant(validate_key(key), validate_media_type(content_type), size), _compute_expiry(seconds)
        url = self._build_signed_url("PUT", grant, expires_at)
        return PresignedRequest("PUT", url, {"content-type": content_type}, datetime.fromtimestamp(expires_at, UTC))

    def presign_get(self, key: str, *, seconds: int, filename: str | None = None) -> str:
        """A presigned GET from this server."""
        return self._build_signed_url("GET", PresignedGrant(validate_key(key), filename=filename or ""), _compute_expiry(seconds))

    def public_url(self, key: str) -> str | None:
        """None: public objects are served by other endpoints of this server."""
        validate_key(key)
        return None

    def verify_grant(self, method: str, key: str, query: dict[str, str]) -> PresignedGrant | None:
        """The grant of a presigned URL; None where its signature is invalid or has expired."""
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
        # Each segment with its length: no two requests have the same canonical text.
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
        cache_control: str | None = None,  # noqa: ARG002  the endpoints that serve files set the header
    ) -> int:
        """Write a draft, then rename it atomically. Readers of a replaced object continue to read the old content."""
        path, media_type = self._object_path(key), validate_media_type(content_type)
        draft = await _open_in_thread(self._create_draft, _discard_draft)
        try:
            async for buffered in _buffer_chunks(content):
                await _run_in_thread(draft.write, buffered)
            return await _run_in_thread(_publish_draft, draft, path, self._type_path(key), media_type)
        finally:
            # Also where the caller is cancelled once more.
            await asyncio.shield(_run_in_thread(_discard_draft, draft))

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[ObjectStream]:
        """Open a file for reading; raises ObjectNotFoundError."""
        file = await _open_in_thread(partial(_open_file, self._object_path(key)), lambda opened: opened.close())
        try:
            media_type = await _run_in_thread(_read_media_type, self._type_path(key))
            yield ObjectStream(_build_stored_object(key, os.fstat(file.fileno()), media_type), _iterate_chunks(file))
        finally:
            file.close()

    async def head(self, key: str) -> StoredObject | None:
        """The metadata of a file; None where there is none."""
        path, type_path = self._object_path(key), self._type_path(key)

        def read_status() -> StoredObject | None:
            with suppress(FileNotFoundError, NotADirectoryError):
                status = path.stat()
                return _build_stored_object(key, status, _read_media_type(type_path)) if S_ISREG(status.st_mode) else None
            return None

        return await _run_in_thread(read_status)

    async def delete(self, key: str) -> None:
        """Delete a file and its media type, and folders that become empty."""
        for path in (self._object_path(key), self._type_path(key)):
            await _run_in_thread(_remove_file, path, self._folder)

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """The files of a folder, recursively, in the order of their keys."""
        root = self._folder / "objects"
        for stored in await _run_in_thread(lambda: [*_find_objects(root, validate_prefix(prefix))]):
            yield stored

    def get_file_path(self, key: str) -> Path:
        """The path of an object's file, which may not exist: for endpoints that serve files."""
        return self._object_path(key)

    def _object_path(self, key: str) -> Path:
        return self._folder / "objects" / validate_key(key)

    def _type_path(self, key: str) -> Path:
        return self._folder / "types" / validate_key(key)

    def _create_draft(self) -> IO[bytes]:
        drafts_folder = self._folder / "unfinished"
        drafts_folder.mkdir(parents=True, exist_ok=True)
        # Readable by this user only, like the rest of the data folder.
        return open(drafts_folder / new_id(), "xb", opener=open_private)

    def _remove_stale_drafts(self) -> None:
        for path in (self._folder / "unfinished").glob("*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - STALE_DRAFT_SECONDS:
                    path.unlink()


def _compute_expiry(seconds: int) -> int:
    return int(time.time()) + validate_presign_seconds(seconds)


async def _run_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run file system work in a thread; OSError becomes StorageError, a full disk StorageFullError."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError("the disk of the data folder is full") from error
        raise StorageError(f"the data folder: {error.strerror}") from error


async def _open_in_thread(open_: Callable[[], IO[bytes]], close: Callable[[IO[bytes]], object]) -> IO[bytes]:
    """Open a file in a thread; where the caller is cancelled meanwhile, close it."""
    opening = asyncio.ensure_future(_run_in_thread(open_))

    def close_opened(_: object) -> None:
        if not opening.cancelled() and not opening.exception():
            close(opening.result())

    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(close_opened)
        raise


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
    # The media type first: an existing object always has one.
    type_draft = Path(f"{draft.name}.type")
    type_draft.write_text(content_type)
    _move_file(type_draft, type_path)
    _move_file(Path(draft.name), path)
    return size


def _move_file(source: Path, target: Path) -> None:
    # A concurrent delete of the last object in the folder may remove the folder meanwhile.
    for _ in range(100):
        with suppress(FileNotFoundError, FileExistsError):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def _discard_draft(draft: IO[bytes]) -> None:
    # Flushing the buffer may fail where the disk is full.
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
    # Remove empty folders, too.
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
