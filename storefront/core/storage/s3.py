"""Object storage in an S3-compatible bucket: AWS, Cloudflare R2, MinIO and others. Needs the extra `s3`."""

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

from storefront.core.net.tls import load_tls_context
from storefront.core.storage.base import (
    CHUNK_BYTES,
    ObjectNotFoundError,
    ObjectStream,
    PresignedRequest,
    StorageError,
    StoredObject,
    validate_key,
    validate_media_type,
    validate_prefix,
    validate_presign_seconds,
)

# Part size of multipart uploads. At most 10,000 parts are allowed: 160 GB.
PART_BYTES = 16_777_216
MAX_ATTEMPTS = 3
# Transient failures, which are retried.
_RETRYABLE_STATUSES = (429, 500, 502, 503, 504)
_ANY_NAMESPACE = "{*}"

QueryParameters = Mapping[str, str]
EMPTY_MAPPING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket and its credentials. `endpoint` is the URL of the service, without the bucket."""

    endpoint: str
    name: str
    region: str
    access_key_id: str
    secret_access_key: str
    addressing: Literal["path", "virtual"] = "path"
    public_url: str | None = None

    def build_url(self, key: str = "") -> str:
        """The URL of an object, or of the bucket itself."""
        parts = urlsplit(self.endpoint)
        if self.addressing == "virtual":
            return f"{parts.scheme}://{self.name}.{parts.netloc}/{quote(key)}"
        return f"{parts.scheme}://{parts.netloc}/{quote(self.name)}" + (f"/{quote(key)}" if key else "")


class _Response(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes


class S3Storage:
    """Object storage in a bucket. Requests are signed (SigV4); objects longer than PART_BYTES are multipart uploads."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._credentials = Credentials(bucket.access_key_id, bucket.secret_access_key)
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run with a pool of connections to the service."""
        limits, timeout = httpx.Limits(max_connections=50), httpx.Timeout(30, connect=5)
        async with httpx.AsyncClient(verify=load_tls_context(), limits=limits, timeout=timeout) as self._client:
            yield

    def describe(self) -> str:
        """The name of the bucket and its endpoint."""
        return f"the bucket {self._bucket.name} at {self._bucket.endpoint}"

    # ------------------------------------------------------------------------------------------- presigned URLs

    def presign_put(self, key: str, *, content_type: str, size: int, seconds: int) -> PresignedRequest:
        """A presigned PUT to the service. Media type and length are signed headers: the service rejects others."""
        headers = {"content-type": validate_media_type(content_type)}
        url = self._presign_url("PUT", key, {**headers, "content-length": str(size)}, {}, seconds)
        return PresignedRequest("PUT", url, headers, datetime.now(UTC) + timedelta(seconds=seconds))

    def presign_get(self, key: str, *, seconds: int, filename: str | None = None) -> str:
        """A presigned GET from the service, whose response has the signed Content-Disposition."""
        query = {"response-content-disposition": build_content_disposition(filename)} if filename else {}
        return self._presign_url("GET", key, {}, query, seconds)

    def public_url(self, key: str) -> str | None:
        """The public URL of an object, where the bucket is public."""
        base = self._bucket.public_url
        return f"{base.rstrip('/')}/{quote(validate_key(key))}" if base else None

    def _presign_url(self, method: str, key: str, headers: QueryParameters, query: QueryParameters, seconds: int) -> str:
        request = AWSRequest(method, _append_query(self._bucket.build_url(validate_key(key)), query), headers=dict(headers))
        S3SigV4QueryAuth(self._credentials, "s3", self._bucket.region, expires=validate_presign_seconds(seconds)).add_auth(
            request
        )
        return str(request.url)

    # --------------------------------------------------------------------------------------------- objects

    async def put(
        self, key: str, content: bytes | AsyncIterable[bytes], content_type: str, *, cache_control: str | None = None
    ) -> int:
        """One request for content of one part; else a multipart upload, which is completed atomically."""
        headers = {"content-type": validate_media_type(content_type)} | (
            {"cache-control": cache_control} if cache_control else {}
        )
        parts = _split_into_parts(content)
        validate_key(key)
        first = await anext(parts)
        second = await anext(parts, None)
        if second is None:
            await self._send_expecting_ok("PUT", key, headers=headers, body=first)
            return len(first)
        return await self._put_multipart(key, headers, _chain_parts(first, second, parts))

    async def _put_multipart(self, key: str, headers: Mapping[str, str], parts: AsyncIterator[bytes]) -> int:
        initiated = await self._send_expecting_ok("POST", key, {"uploads": ""}, headers)
        upload = {"uploadId": _find_text(initiated.body, "UploadId")}
        size, tags = 0, list[str]()
        try:
            async for part in parts:
                part_query = {**upload, "partNumber": str(len(tags) + 1)}
                tags.append((await self._send_expecting_ok("PUT", key, part_query, body=part)).headers["etag"])
                size += len(part)
            completed = await self._send_expecting_ok(
                "POST", key, upload, {"content-type": "application/xml"}, _build_completion_xml(tags)
            )
            # The service sends status 200 before it assembles the parts: success is in the body.
            _find_text(completed.body, "ETag")
        except BaseException:
            # Parts of incomplete uploads cost storage: abort the upload, also where the caller is cancelled once more.
            await asyncio.shield(self._abort_multipart(key, upload))
            raise
        return size

    async def _abort_multipart(self, key: str, upload: QueryParameters) -> None:
        with suppress(StorageError):
            await self._send_with_retry("DELETE", key, upload)

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[ObjectStream]:
        """Stream an object; raises ObjectNotFoundError."""
        request = self._sign_request("GET", validate_key(key), {}, {}, b"")
        try:
            async with self._open_client.stream("GET", str(request.url), headers=dict(request.headers.items())) as response:
                if response.status_code == 404:
                    raise ObjectNotFoundError
                if response.status_code != 200:
                    raise _build_error("GET", response.status_code, await response.aread())
                yield ObjectStream(_build_stored_object(key, response.headers), response.aiter_raw(CHUNK_BYTES))
        except httpx.HTTPError as error:
            raise StorageError(f"GET of an object: {type(error).__name__}") from error

    async def head(self, key: str) -> StoredObject | None:
        """The metadata in the headers; None where there is no object."""
        response = await self._send_with_retry("HEAD", validate_key(key))
        if response.status == 404:
            return None
        if response.status != 200:
            raise _build_error("HEAD", response.status, b"")
        return _build_stored_object(key, response.headers)

    async def delete(self, key: str) -> None:
        """Delete an object. Services respond likewise where there is none."""
        response = await self._send_with_retry("DELETE", validate_key(key))
        if response.status not in (200, 204, 404):
            raise _build_error("DELETE", response.status, response.body)

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """The objects under a prefix, in pages of a thousand."""
        query = {"list-type": "2", "prefix": validate_prefix(prefix)}
        while True:
            page = ET.fromstring((await self._send_expecting_ok("GET", "", query)).body)  # noqa: S314  the service is trusted
            for element in page.iterfind(f"{_ANY_NAMESPACE}Contents"):
                fields = {name: element.findtext(f"{_ANY_NAMESPACE}{name}") or "" for name in ("Key", "Size", "LastModified")}
                yield StoredObject(fields["Key"], int(fields["Size"]), "", datetime.fromisoformat(fields["LastModified"]))
            token = page.findtext(f"{_ANY_NAMESPACE}NextContinuationToken")
            if not token:
                return
            query["continuation-token"] = token

    # -------------------------------------------------------------------------------------------- requests

    @property
    def _open_client(self) -> httpx.AsyncClient:
        if self._client is None:
            raise RuntimeError("S3Storage is used outside of running().")
        return self._client

    async def _send_expecting_ok(
        self,
        method: str,
        key: str,
        query: QueryParameters = EMPTY_MAPPING,
        headers: Mapping[str, str] = EMPTY_MAPPING,
        body: bytes = b"",
    ) -> _Response:
        response = await self._send_with_retry(method, key, query, headers, body)
        if response.status != 200:
            raise _build_error(method, response.status, response.body)
        return response

    async def _send_with_retry(
        self,
        method: str,
        key: str,
        query: QueryParameters = EMPTY_MAPPING,
        headers: Mapping[str, str] = EMPTY_MAPPING,
        body: bytes = b"",
    ) -> _Response:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            response = await self._send_once(method, key, query, headers, body, is_last=attempt == MAX_ATTEMPTS)
            if response is not None:
                return response
            await asyncio.sleep(0.2 * 4**attempt)
        raise AssertionError("unreachable")

    async def _send_once(
        self, method: str, key: str, query: QueryParameters, headers: Mapping[str, str], body: bytes, *, is_last: bool
    ) -> _Response | None:
        request = self._sign_request(method, key, query, headers, body)
        try:
            signed_headers = dict(request.headers.items())
            response = await self._open_client.request(method, str(request.url), headers=signed_headers, content=body)
        except httpx.HTTPError as error:
            if is_last:
                raise StorageError(f"{method} of an object: {type(error).__name__}") from error
            return None
        return None if response.status_code in _RETRYABLE_STATUSES and not is_last else _parse_response(response)

    def _sign_request(self, method: str, key: str, query: QueryParameters, headers: Mapping[str, str], body: bytes) -> AWSRequest:
        # The signature is in a header rather than in the URL: URLs get into logs.
        request = AWSRequest(method, _append_query(self._bucket.build_url(key), query), headers=dict(headers), data=body)
        S3SigV4Auth(self._credentials, "s3", self._bucket.region).add_auth(request)
        return request


def build_content_disposition(filename: str) -> str:
    """A Content-Disposition header with this file name, in ASCII and in UTF-8 (RFC 6266)."""
    ascii_filename = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._- ") else "_" for letter in filename
    )
    return f"attachment; filename=\"{ascii_filename}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _append_query(url: str, query: QueryParameters) -> str:
    return f"{url}?{urlencode(query, quote_via=quote, safe='-_.~')}" if query else url


def _parse_response(response: httpx.Response) -> _Response:
    return _Response(response.status_code, response.headers, response.content)


def _build_stored_object(key: str, headers: httpx.Headers) -> StoredObject:
    modified_at = parsedate_to_datetime(headers["last-modified"])
    return StoredObject(key, int(headers["content-length"]), headers.get("content-type", ""), modified_at)


def _build_error(method: str, status: int, body: bytes) -> StorageError:
    # Only the service's error code: its message may quote the request.
    try:
        code = ET.fromstring(body).findtext("Code") or ""  # noqa: S314  the service is trusted
    except ET.ParseError:
        code = ""
    return StorageError(f"{method} of an object: {f'status {status} {code}'.strip()}")


def _find_text(body: bytes, name: str) -> str:
    text = ET.fromstring(body).findtext(f"{_ANY_NAMESPACE}{name}")  # noqa: S314  the service is trusted
    if not text:
        raise _build_error("POST", 200, body)
    return text


def _build_completion_xml(tags: list[str]) -> bytes:
    root = ET.Element("CompleteMultipartUpload")
    for number, tag in enumerate(tags, 1):
        part = ET.SubElement(root, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = tag
    return ET.tostring(root)


async def _split_into_parts(content: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The content in parts of PART_BYTES, except for the last one; at least one part."""
    if isinstance(content, bytes):
        yield content
        return
    buffer = bytearray()
    async for chunk in content:
        buffer += chunk
        while len(buffer) > PART_BYTES:
            yield bytes(buffer[:PART_BYTES])
            del buffer[:PART_BYTES]
    yield bytes(buffer)


async def _chain_parts(first: bytes, second: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    yield second
    async for other in others:
        yield other
