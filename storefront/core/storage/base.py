"""The interface of object storage, independent of S3 and disk.

An object has a key, bytes and a media type. Large objects are streamed, and clients transfer them by presigned URLs:

    # A client uploads exactly `size` bytes of this type to the presigned URL before it expires.
    permit = objects.presign_put("uploads/rows/0190…", content_type="text/csv", size=350_000_000, seconds=900)
    # A job reads the upload in chunks,
    async with objects.open("uploads/rows/0190…") as reading:
        async for chunk in reading.chunks: ...
    # and writes its result, whose length is not known in advance,
    await objects.put("exports/0190….csv", rows_as_chunks(), "text/csv")
    # which a client downloads by a presigned URL.
    url = objects.presign_get("exports/0190….csv", seconds=3_600, filename="products.csv")
    # Objects are listed by a prefix of their keys.
    async for found in objects.list("uploads/rows/"): ...

A presigned PUT may be reused until it expires: read an upload once, and store the result of processing it under another key.
"""

import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from storefront.core.streams import read_bounded

# Maximum bytes of a chunk.
CHUNK_BYTES = 262_144
# For objects whose content never changes.
IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"
# The longest expiry of a presigned request that S3 accepts.
MAX_PRESIGN_SECONDS = 604_800

_KEY_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*(/[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*)*")
_MEDIA_TYPE_PATTERN = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]*(; ?[a-z]+=[a-z0-9-]+)?")


class StorageError(Exception):
    """Object storage failed. The message has the step and the failure, never a URL or a signature."""


class StorageFullError(StorageError):
    """Object storage is full."""


class ObjectNotFoundError(Exception):
    """There is no object with this key."""


class SizeMismatchError(Exception):
    """The content has another number of bytes than declared."""


@dataclass(frozen=True, slots=True)
class PresignedRequest:
    """A presigned request: its method, URL and headers, valid until `expires_at` (UTC) for every client that has the URL."""

    method: str
    url: str
    headers: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Metadata of an object: key, size in bytes, media type (empty in lists), and time of the last write (UTC)."""

    key: str
    size: int
    content_type: str
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class ObjectStream:
    """An open object: its metadata, and its content in chunks of at most CHUNK_BYTES, to be read once."""

    stored_object: StoredObject
    chunks: AsyncIterator[bytes]


class ObjectStorage(Protocol):
    """Object storage. Every method raises StorageError where it is out of reach, and ValueError for an invalid key."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Connect. Everything but presigning works only inside this context."""

    def presign_put(self, key: str, *, content_type: str, size: int, seconds: int) -> PresignedRequest:
        """A presigned PUT of exactly `size` bytes of this media type, valid for `seconds`. It replaces an existing object."""

    def presign_get(self, key: str, *, seconds: int, filename: str | None = None) -> str:
        """A presigned URL for GET, valid for `seconds`. With `filename`, browsers save the object under that name."""

    def public_url(self, key: str) -> str | None:
        """The permanent public URL of an object; None where it has none."""

    async def put(
        self, key: str, content: bytes | AsyncIterable[bytes], content_type: str, *, cache_control: str | None = None
    ) -> int:
        """Write an object atomically; returns its size in bytes. Exceptions that `content` raises propagate."""

    def open(self, key: str) -> AbstractAsyncContextManager[ObjectStream]:
        """Open an object for reading; raises ObjectNotFoundError."""

    async def head(self, key: str) -> StoredObject | None:
        """The metadata of an object; None where there is none."""

    async def delete(self, key: str) -> None:
        """Delete an object if it exists."""

    def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """The objects under a prefix, in the order of their keys."""

    def describe(self) -> str:
        """A description for operators, without secrets."""


async def read_object(storage: ObjectStorage, key: str, max_bytes: int) -> bytes:
    """The whole content of an object. Raises ObjectNotFoundError, and SizeMismatchError beyond `max_bytes`."""
    async with storage.open(key) as stream:
        content = await read_bounded(stream.chunks, max_bytes)
    if content is None:
        raise SizeMismatchError(f"more than {max_bytes:,} bytes")
    return content


async def enforce_size(chunks: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """The same chunks. Raises SizeMismatchError as soon as they exceed `size` bytes, or where they end before."""
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > size:
            raise SizeMismatchError(f"more than {size:,} bytes")
        yield chunk
    if total < size:
        raise SizeMismatchError(f"{total:,} bytes of {size:,}")


async def delete_prefix(storage: ObjectStorage, prefix: str) -> int:
    """Delete all objects under a prefix; returns their number."""
    keys = [stored.key async for stored in storage.list(prefix)]
    for key in keys:
        await storage.delete(key)
    return len(keys)


def validate_key(key: str) -> str:
    """The key; raises ValueError where it is invalid.

    Keys are lower-case letters, digits, `_`, `-` and `.` in segments divided by `/`: the same on every file system, and without
    path traversal.
    """
    if len(key) > 500 or not _KEY_PATTERN.fullmatch(key):
        raise ValueError(f"{key[:100]!r} is not a valid object key.")
    return key


def validate_prefix(prefix: str) -> str:
    """The prefix: one or more segments of keys and a final `/`; raises ValueError where it is invalid."""
    if not prefix.endswith("/"):
        raise ValueError(f"{prefix[:100]!r} does not end in a slash.")
    validate_key(prefix[:-1])
    return prefix


def validate_media_type(content_type: str) -> str:
    """The media type; raises ValueError where it is invalid."""
    if len(content_type) > 100 or not _MEDIA_TYPE_PATTERN.fullmatch(content_type):
        raise ValueError(f"{content_type[:100]!r} is not a media type such as text/csv.")
    return content_type


def validate_presign_seconds(seconds: int) -> int:
    """The expiry of a presigned request in seconds; raises ValueError where it is out of range."""
    if not 1 <= seconds <= MAX_PRESIGN_SECONDS:
        raise ValueError(f"Requests are signed for 1 to {MAX_PRESIGN_SECONDS:,} seconds, not {seconds:,}.")
    return seconds
