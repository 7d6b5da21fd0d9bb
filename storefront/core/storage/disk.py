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
    CHUNK,
    Missing,
    Presigned,
    Reading,
    StorageFailed,
    StorageFull,
    Stored,
    checked_key,
    checked_prefix,
    checked_seconds,
    checked_type,
)

P = ParamSpec("P")
T = TypeVar("T")

# Where the routes are that take and give objects.
MOUNT = "/objects"
# Bytes that are gathered before they are written: each write is a trip to another thread.
GATHERED = 1_048_576
DAY = 86_400
UNKNOWN = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Permit:
    """What a signed address allows: an upload of so many bytes of a type, or a download under a name."""

    key: str
    content_type: str = ""
    size: int = 0
    filename: str = ""


class Disk:
    """A folder with three others: the objects, their media types, and what is still being written."""

    def __init__(self, folder: Path, base_url: str, secret: str) -> None:
        """`base_url` is where clients reach this server; `secret` signs."""
        self._folder = folder.absolute()
        self._base = base_url.rstrip("/")
        # A key of its own: what is signed here is never taken for a token, nor the other way round.
        self._secret = hashlib.blake2b(b"storefront objects", key=hashlib.sha256(secret.encode()).digest()).digest()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Nothing has to be open; what was cut off while it was written is cleared away."""
        await asyncio.to_thread(self._clear)
        yield

    def describe(self) -> str:
        """The folder."""
        return f"the folder {self._folder}"

    # ------------------------------------------------------------------------------------------- addresses

    def presign_put(self, key: str, *, content_type: str, size: int, seconds: int) -> Presigned:
        """An address of ours that takes the object."""
        permit, expires = Permit(checked_key(key), checked_type(content_type), size), _until(seconds)
        url = self._signed("PUT", permit, expires)
        return Presigned("PUT", url, {"content-type": content_type}, datetime.fromtimestamp(expires, UTC))

    def presign_get(self, key: str, *, seconds: int, filename: str | None = None) -> str:
        """An address of ours that gives the object."""
        return self._signed("GET", Permit(checked_key(key), filename=filename or ""), _until(seconds))

    def public_url(self, key: str) -> str | None:
        """Nowhere: what is public is served by routes of its own."""
        checked_key(key)
        return None

    def permit(self, method: str, key: str, query: dict[str, str]) -> Permit | None:
        """What a request is allowed by the signature in its address; None: nothing, or no longer."""
        try:
            expires, size = int(query["expires"]), int(query.get("size", "0"))
            permit = Permit(checked_key(key), query.get("type", ""), size, query.get("filename", ""))
        except (KeyError, ValueError):
            return None
        signature = self._signature(method, permit, expires)
        is_ours = hmac.compare_digest(signature.encode(), query.get("signature", "").encode(errors="replace"))
        return permit if is_ours and time.time() < expires else None

    def _signed(self, method: str, permit: Permit, expires: int) -> str:
        said = {"type": permit.content_type, "size": str(permit.size or ""), "filename": permit.filename}
        query = {name: value for name, value in said.items() if value}
        query |= {"expires": str(expires), "signature": self._signature(method, permit, expires)}
        return f"{self._base}{MOUNT}/{permit.key}?{urlencode(query)}"

    def _signature(self, method: str, permit: Permit, expires: int) -> str:
        # Each part with its length: no two requests are the same text.
        parts = (method, permit.key, permit.content_type, str(permit.size), permit.filename, str(expires))
        text = "".join(f"{len(part)}:{part}" for part in parts)
        return hmac.new(self._secret, text.encode(errors="replace"), hashlib.sha256).hexdigest()

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
        place, kind = self._path(key), checked_type(content_type)
        draft = await _in_thread(self._begun)
        try:
            async for gathered in _gathered(content):
                await _in_thread(draft.write, gathered)
            return await _in_thread(_finished, draft, place, self._type_of(key), kind)
        finally:
            await _in_thread(_dropped, draft)

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[Reading]:
        """Read a file; raises Missing."""
        file = await _in_thread(_opened, self._path(key))
        try:
            kind = await _in_thread(_text_of, self._type_of(key))
            yield Reading(_stored(key, os.fstat(file.fileno()), kind), _chunks(file))
        finally:
            await _in_thread(file.close)

    async def head(self, key: str) -> Stored | None:
        """What the folder says of it."""
        place, kind = self._path(key), self._type_of(key)

        def look() -> Stored | None:
            with suppress(FileNotFoundError, NotADirectoryError):
                status = place.stat()
                return _stored(key, status, _text_of(kind)) if S_ISREG(status.st_mode) else None
            return None

        return await _in_thread(look)

    async def delete(self, key: str) -> None:
        """Remove the file."""
        for path in (self._path(key), self._type_of(key)):
            await _in_thread(_removed, path, self._folder)

    async def list(self, prefix: str) -> AsyncIterator[Stored]:
        """The files of a folder and of those in it."""
        root = self._folder / "objects"
        for stored in await _in_thread(lambda: [*_found(root, checked_prefix(prefix))]):
            yield stored

    def file(self, key: str) -> Path:
        """Where an object's bytes are, if it is there: for those who serve files."""
        return self._path(key)

    def _path(self, key: str) -> Path:
        return self._folder / "objects" / checked_key(key)

    def _type_of(self, key: str) -> Path:
        return self._folder / "types" / checked_key(key)

    def _begun(self) -> IO[bytes]:
        aside = self._folder / "unfinished"
        aside.mkdir(parents=True, exist_ok=True)
        # For this user's eyes only, as what else is in the data folder.
        return open(aside / new_id(), "xb", opener=_private)

    def _clear(self) -> None:
        for path in (self._folder / "unfinished").glob("*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - DAY:
                    path.unlink()


def _until(seconds: int) -> int:
    return int(time.time()) + checked_seconds(seconds)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


async def _in_thread(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Work on the file system, its failures as those of any object store."""
    try:
        return await asyncio.to_thread(work, *given, **named)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the disk of the data folder is full") from error
        raise StorageFailed(f"the data folder: {error.strerror}") from error


async def _gathered(content: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    waiting = bytearray()
    async for chunk in content:
        waiting += chunk
        if len(waiting) >= GATHERED:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)


def _finished(draft: IO[bytes], place: Path, type_place: Path, content_type: str) -> int:
    draft.flush()
    os.fsync(draft.fileno())
    size = draft.tell()
    # The type first: an object that is there has one.
    aside = Path(f"{draft.name}.type")
    aside.write_text(content_type)
    _moved(aside, type_place)
    _moved(Path(draft.name), place)
    return size


def _moved(source: Path, target: Path) -> None:
    # Its folder may be removed meanwhile, by whoever deletes the last object in it.
    for _ in range(100):
        with suppress(FileNotFoundError, FileExistsError):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def _dropped(draft: IO[bytes]) -> None:
    # What is left in its buffer may find no room on the disk.
    with suppress(OSError):
        draft.close()
    for path in (Path(draft.name), Path(f"{draft.name}.type")):
        path.unlink(missing_ok=True)


def _opened(place: Path) -> IO[bytes]:
    try:
        return place.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise Missing from None


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return UNKNOWN


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    read: Callable[[int], bytes] = file.read
    while chunk := await _in_thread(read, CHUNK):
        yield chunk


def _stored(key: str, status: os.stat_result, content_type: str) -> Stored:
    return Stored(key, status.st_size, content_type, datetime.fromtimestamp(status.st_mtime, UTC))


def _removed(path: Path, root: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()
    # Folders that nothing is left in go too.
    with suppress(OSError):
        for folder in path.parents:
            if folder.parent == root:
                break
            folder.rmdir()


def _found(root: Path, prefix: str) -> Iterator[Stored]:
    for path in sorted((root / prefix).rglob("*")):
        with suppress(FileNotFoundError):
            if path.is_file():
                yield _stored(path.relative_to(root).as_posix(), path.stat(), "")
