"""What an object store does, whatever is in its objects: images, files of rows, reports. Knows no S3 and no disk.

An object has a key, bytes and a media type. Large ones never pass through memory, and need not pass through this server:

    # A client uploads: it sends exactly so many bytes of this type to the address, before it expires.
    permit = objects.presign_put("uploads/rows/0190…", content_type="text/csv", size=350_000_000, seconds=900)
    # A job reads what came, a chunk at a time,
    async with objects.open("uploads/rows/0190…") as reading:
        async for chunk in reading.chunks: ...
    # and writes what it makes, of a length that nobody knows before its end,
    await objects.put("exports/0190….csv", rows_as_chunks(), "text/csv")
    # for whoever is given the address to download it.
    url = objects.presign_get("exports/0190….csv", seconds=3_600, filename="products.csv")
    # What nobody wants any more is found by the beginning of its key.
    async for found in objects.list("uploads/rows/"): ...

A presigned PUT may be used again until it expires: read what was uploaded once, and keep what you made of it under another key.
"""

import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

# Bytes of what is read at a time.
CHUNK_BYTES = 262_144
# Longest time for which a request can be signed ahead: S3 takes no more.
MAX_PRESIGN_SECONDS = 604_800

_KEY_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*(/[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*)*")
_MEDIA_TYPE_PATTERN = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]*(; ?[a-z]+=[a-z0-9-]+)?")


class StorageError(Exception):
    """The store did not do it. Says which step failed and how, never an address or a signature."""


class StorageFullError(StorageError):
    """There is no room left in the store."""


class ObjectNotFoundError(Exception):
    """There is no object with this key."""


class SizeMismatchError(Exception):
    """Not as many bytes as were announced."""


@dataclass(frozen=True, slots=True)
class PresignedRequest:
    """A request that its bearer may send: this method to this address with these headers, until `expires_at` (UTC)."""

    method: str
    url: str
    headers: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object: its bytes counted, its media type (empty in lists), and when it was last written (UTC)."""

    key: str
    size: int
    content_type: str
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class ObjectStream:
    """An object that is being read: once, from its beginning, at most `CHUNK` bytes at a time."""

    stored_object: StoredObject
    chunks: AsyncIterator[bytes]


class ObjectStorage(Protocol):
    """The store. Every method raises StorageFailed where the store is out of reach, and ValueError for what is no key."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Has to last while anything but signing is done."""

    def presign_put(self, key: str, *, content_type: str, size: int, seconds: int) -> PresignedRequest:
        """An upload of exactly `size` bytes as this media type within so many seconds. An object that is there is replaced."""

    def presign_get(self, key: str, *, seconds: int, filename: str | None = None) -> str:
        """The address to download an object from within so many seconds; browsers save it, by this name where one is given."""

    def public_url(self, key: str) -> str | None:
        """Where everybody can always read the object; None: nowhere."""

    async def put(
        self, key: str, content: bytes | AsyncIterable[bytes], content_type: str, *, cache_control: str | None = None
    ) -> int:
        """Write an object, whole or not at all; returns its size. What is raised by `content` is raised on."""

    def open(self, key: str) -> AbstractAsyncContextManager[ObjectStream]:
        """Read an object; raises Missing."""

    async def head(self, key: str) -> StoredObject | None:
        """What there is to know of an object without reading it; None: it is not there."""

    async def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

    def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """The objects whose keys begin so, in the order of their keys."""

    def describe(self) -> str:
        """Which store this is, without its secrets."""


async def read_object(storage: ObjectStorage, key: str, max_bytes: int) -> bytes:
    """A whole object of at most so many bytes; raises Missing, and WrongSize where it is longer."""
    content = bytearray()
    async with storage.open(key) as stream:
        async for chunk in stream.chunks:
            content += chunk
            if len(content) > max_bytes:
                raise SizeMismatchError(f"more than {max_bytes:,} bytes")
    return bytes(content)


async def enforce_size(chunks: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """The same chunks; raises WrongSize as soon as they are more than so many bytes, or end before."""
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > size:
            raise SizeMismatchError(f"more than {size:,} bytes")
        yield chunk
    if total < size:
        raise SizeMismatchError(f"{total:,} bytes of {size:,}")


async def delete_prefix(storage: ObjectStorage, prefix: str) -> int:
    """Delete all objects whose keys begin so; returns how many there were."""
    keys = [stored.key async for stored in storage.list(prefix)]
    for key in keys:
        await storage.delete(key)
    return len(keys)


def validate_key(key: str) -> str:
    """The key; raises ValueError where it is none.

    Keys are lower-case letters, digits, `_`, `-` and `.` in parts divided by `/`: the same on every disk, and never a way out.
    """
    if len(key) > 500 or not _KEY_PATTERN.fullmatch(key):
        raise ValueError(f"{key[:100]!r} is no key of an object.")
    return key


def validate_prefix(prefix: str) -> str:
    """The beginning of keys: one or more whole parts of them, and a `/`."""
    if not prefix.endswith("/"):
        raise ValueError(f"{prefix[:100]!r} does not end in a slash.")
    validate_key(prefix[:-1])
    return prefix


def validate_media_type(content_type: str) -> str:
    """The media type; raises ValueError where it is none."""
    if len(content_type) > 100 or not _MEDIA_TYPE_PATTERN.fullmatch(content_type):
        raise ValueError(f"{content_type[:100]!r} is no media type such as text/csv.")
    return content_type


def validate_presign_seconds(seconds: int) -> int:
    """A time for which a request can be signed ahead."""
    if not 1 <= seconds <= MAX_PRESIGN_SECONDS:
        raise ValueError(f"Requests are signed for 1 to {MAX_PRESIGN_SECONDS:,} seconds, not {seconds:,}.")
    return seconds
