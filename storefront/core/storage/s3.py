"""Objects in a bucket of S3's kind: AWS, Cloudflare R2, MinIO and others that speak its protocol. Needs the extra `s3`."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree as ET

import httpx
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from storefront.core.storage.base import (
    CHUNK,
    Missing,
    Presigned,
    Reading,
    StorageFailed,
    Stored,
    checked_key,
    checked_prefix,
    checked_seconds,
    checked_type,
)

# Bytes of a part of what is longer than one part. There may be 10,000 of them: 160 GB.
PART = 16_777_216
ATTEMPTS = 3
# What another attempt may mend.
_BUSY = (429, 500, 502, 503, 504)
_NAMESPACE = "{*}"

Query = Mapping[str, str]
NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where a bucket is and who may use it. `endpoint` is the service's address, without the bucket."""

    endpoint: str
    name: str
    region: str
    access_key_id: str
    secret_access_key: str
    addressing: Literal["path", "virtual"] = "path"
    public_url: str | None = None

    def address(self, key: str = "") -> str:
        """Of an object, or of the bucket itself."""
        parts = urlsplit(self.endpoint)
        if self.addressing == "virtual":
            return f"{parts.scheme}://{self.name}.{parts.netloc}/{quote(key)}"
        return f"{parts.scheme}://{parts.netloc}/{quote(self.name)}" + (f"/{quote(key)}" if key else "")


class _Answer(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes


class S3:
    """A bucket. Each request of ours is signed by itself; what is longer than one part goes up in parts."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._credentials = Credentials(bucket.access_key_id, bucket.secret_access_key)
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep connections to the service open."""
        limits, timeout = httpx.Limits(max_connections=50), httpx.Timeout(30, connect=5)
        async with httpx.AsyncClient(limits=limits, timeout=timeout) as self._client:
            yield

    def describe(self) -> str:
        """The bucket and its service."""
        return f"the bucket {self._bucket.name} at {self._bucket.endpoint}"

    # ------------------------------------------------------------------------------------------- addresses

    def presign_put(self, key: str, *, content_type: str, size: int, seconds: int) -> Presigned:
        """An address of the service. Type and length are among the signed headers: it takes no other request for this one."""
        headers = {"content-type": checked_type(content_type)}
        url = self._presigned("PUT", key, {**headers, "content-length": str(size)}, {}, seconds)
        return Presigned("PUT", url, headers, datetime.now(UTC) + timedelta(seconds=seconds))

    def presign_get(self, key: str, *, seconds: int, filename: str | None = None) -> str:
        """An address of the service, which answers with what is signed here as the name to save by."""
        saved = {"response-content-disposition": attachment(filename)} if filename else {}
        return self._presigned("GET", key, {}, saved, seconds)

    def public_url(self, key: str) -> str | None:
        """Where the bucket is public, if it is."""
        base = self._bucket.public_url
        return f"{base.rstrip('/')}/{quote(checked_key(key))}" if base else None

    def _presigned(self, method: str, key: str, headers: Query, query: Query, seconds: int) -> str:
        request = AWSRequest(method, _with(self._bucket.address(checked_key(key)), query), headers=dict(headers))
        S3SigV4QueryAuth(self._credentials, "s3", self._bucket.region, expires=checked_seconds(seconds)).add_auth(request)
        return str(request.url)

    # --------------------------------------------------------------------------------------------- objects

    async def put(
        self, key: str, content: bytes | AsyncIterable[bytes], content_type: str, *, cache_control: str | None = None
    ) -> int:
        """One request for what fits into a part; else in parts, which only count once all of them are there."""
        headers = {"content-type": checked_type(content_type)} | ({"cache-control": cache_control} if cache_control else {})
        parts = _parts(content)
        checked_key(key)
        first = await anext(parts)
        second = await anext(parts, None)
        if second is None:
            await self._done("PUT", key, headers=headers, body=first)
            return len(first)
        return await self._put_in_parts(key, headers, _chained(first, second, parts))

    async def _put_in_parts(self, key: str, headers: Mapping[str, str], parts: AsyncIterator[bytes]) -> int:
        begun = await self._done("POST", key, {"uploads": ""}, headers)
        upload = {"uploadId": _text(begun.body, "UploadId")}
        size, tags = 0, list[str]()
        try:
            async for part in parts:
                numbered = {**upload, "partNumber": str(len(tags) + 1)}
                tags.append((await self._done("PUT", key, numbered, body=part)).headers["etag"])
                size += len(part)
            done = await self._done("POST", key, upload, {"content-type": "application/xml"}, _completed(tags))
            # The status is sent before the parts are put together.
            _text(done.body, "ETag")
        except BaseException:
            # Parts of what was never completed cost as much as what was.
            with suppress(StorageFailed):
                await self._send("DELETE", key, upload)
            raise
        return size

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[Reading]:
        """Read as it comes; raises Missing."""
        request = self._signed("GET", checked_key(key), {}, {}, b"")
        try:
            async with self._opened.stream("GET", str(request.url), headers=dict(request.headers.items())) as response:
                if response.status_code == 404:
                    raise Missing
                if response.status_code != 200:
                    raise _failed("GET", response.status_code, await response.aread())
                yield Reading(_stored(key, response.headers), response.aiter_raw(CHUNK))
        except httpx.HTTPError as error:
            raise StorageFailed(f"GET of an object: {type(error).__name__}") from error

    async def head(self, key: str) -> Stored | None:
        """What the headers say of it."""
        answer = await self._send("HEAD", checked_key(key))
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise _failed("HEAD", answer.status, b"")
        return _stored(key, answer.headers)

    async def delete(self, key: str) -> None:
        """Remove it. Of one that is not there services say the same."""
        answer = await self._send("DELETE", checked_key(key))
        if answer.status not in (200, 204, 404):
            raise _failed("DELETE", answer.status, answer.body)

    async def list(self, prefix: str) -> AsyncIterator[Stored]:
        """A thousand at a time."""
        query = {"list-type": "2", "prefix": checked_prefix(prefix)}
        while True:
            page = ET.fromstring((await self._done("GET", "", query)).body)  # noqa: S314  the service is trusted
            for one in page.iterfind(f"{_NAMESPACE}Contents"):
                found = {name: one.findtext(f"{_NAMESPACE}{name}") or "" for name in ("Key", "Size", "LastModified")}
                yield Stored(found["Key"], int(found["Size"]), "", datetime.fromisoformat(found["LastModified"]))
            token = page.findtext(f"{_NAMESPACE}NextContinuationToken")
            if not token:
                return
            query["continuation-token"] = token

    # -------------------------------------------------------------------------------------------- requests

    @property
    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            raise RuntimeError("The bucket is used outside of running().")
        return self._client

    async def _done(
        self, method: str, key: str, query: Query = NOTHING, headers: Mapping[str, str] = NOTHING, body: bytes = b""
    ) -> _Answer:
        answer = await self._send(method, key, query, headers, body)
        if answer.status != 200:
            raise _failed(method, answer.status, answer.body)
        return answer

    async def _send(
        self, method: str, key: str, query: Query = NOTHING, headers: Mapping[str, str] = NOTHING, body: bytes = b""
    ) -> _Answer:
        for attempt in range(1, ATTEMPTS + 1):
            answer = await self._sent(method, key, query, headers, body, is_last=attempt == ATTEMPTS)
            if answer is not None:
                return answer
            await asyncio.sleep(0.2 * 4**attempt)
        raise AssertionError("unreachable")

    async def _sent(
        self, method: str, key: str, query: Query, headers: Mapping[str, str], body: bytes, *, is_last: bool
    ) -> _Answer | None:
        request = self._signed(method, key, query, headers, body)
        try:
            named = dict(request.headers.items())
            response = await self._opened.request(method, str(request.url), headers=named, content=body)
        except httpx.HTTPError as error:
            if is_last:
                raise StorageFailed(f"{method} of an object: {type(error).__name__}") from error
            return None
        return None if response.status_code in _BUSY and not is_last else _answer(response)

    def _signed(self, method: str, key: str, query: Query, headers: Mapping[str, str], body: bytes) -> AWSRequest:
        # In a header rather than in the address: addresses get into logs.
        request = AWSRequest(method, _with(self._bucket.address(key), query), headers=dict(headers), data=body)
        S3SigV4Auth(self._credentials, "s3", self._bucket.region).add_auth(request)
        return request


def attachment(filename: str) -> str:
    """The header that has a browser save something by this name, whatever is in it."""
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._- ") else "_" for letter in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _with(url: str, query: Query) -> str:
    return f"{url}?{urlencode(query, quote_via=quote, safe='-_.~')}" if query else url


def _answer(response: httpx.Response) -> _Answer:
    return _Answer(response.status_code, response.headers, response.content)


def _stored(key: str, headers: httpx.Headers) -> Stored:
    modified = parsedate_to_datetime(headers["last-modified"])
    return Stored(key, int(headers["content-length"]), headers.get("content-type", ""), modified)


def _failed(method: str, status: int, body: bytes) -> StorageFailed:
    # The service's code for it; its message may quote the request.
    try:
        code = ET.fromstring(body).findtext("Code") or ""  # noqa: S314  the service is trusted
    except ET.ParseError:
        code = ""
    return StorageFailed(f"{method} of an object: {f'status {status} {code}'.strip()}")


def _text(body: bytes, name: str) -> str:
    found = ET.fromstring(body).findtext(f"{_NAMESPACE}{name}")  # noqa: S314  the service is trusted
    if not found:
        raise _failed("POST", 200, body)
    return found


def _completed(tags: list[str]) -> bytes:
    root = ET.Element("CompleteMultipartUpload")
    for number, tag in enumerate(tags, 1):
        part = ET.SubElement(root, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = tag
    return ET.tostring(root)


async def _parts(content: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The content in parts of one length, all but the last; one at least."""
    if isinstance(content, bytes):
        yield content
        return
    waiting = bytearray()
    async for chunk in content:
        waiting += chunk
        while len(waiting) > PART:
            yield bytes(waiting[:PART])
            del waiting[:PART]
    yield bytes(waiting)


async def _chained(first: bytes, second: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    yield second
    async for other in others:
        yield other
