"""Compatibility with the AWS SDK: equal signatures, and each reads the objects of the other."""

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from storefront.core.ids import uuid7
from storefront.core.storage import s3
from storefront.core.storage.base import read_object
from storefront.core.storage.s3 import Bucket, S3Storage
from tests.clients.npm import CLIENTS, installed, lines
from tests.s3 import KEY, SECRET, S3Server

EXAMPLES = CLIENTS / "s3"
ACCOUNT = {"key": KEY, "secret": SECRET, "region": "eu-central-1"}


@pytest.fixture(scope="module")
def node() -> Path:
    return installed(EXAMPLES)


async def run_sdk(node: Path, **given: Any) -> Any:
    [answer] = await lines(node, str(EXAMPLES / "check.mjs"), json.dumps({**ACCOUNT, **given}))
    return answer


ENDPOINTS = [
    ("https://s3.eu-central-1.amazonaws.com", "virtual"),
    ("https://s3.eu-central-1.amazonaws.com", "path"),
    ("https://account.r2.cloudflarestorage.com", "path"),
    ("http://minio.example:9000", "path"),
]


async def test_signatures_equal_those_of_the_sdk(node: Path) -> None:
    requests, ours = [], []
    for endpoint, addressing in ENDPOINTS:
        bucket = S3Storage(Bucket(endpoint, "shop", "eu-central-1", KEY, SECRET, addressing))  # type: ignore[arg-type]
        put = bucket.presign_put("uploads/images/one", content_type="image/png", size=123_456, seconds=900)
        for method, url, headers in (
            ("PUT", put.url, {**put.headers, "content-length": "123456"}),
            ("GET", bucket.presign_get("exports/a.csv", seconds=60, filename="Töpfe & 'Tassen'.csv"), {}),
        ):
            requests.append({"method": method, "url": url, "headers": headers})
            query = parse_qs(urlsplit(url).query)
            ours.append({"signature": query["X-Amz-Signature"][0], "headers": query["X-Amz-SignedHeaders"][0]})
    theirs = (await run_sdk(node, endpoint="http://unused", bucket="shop", requests=requests))["signed"]
    assert theirs == ours
    assert {request["headers"] for request in ours} == {"content-length;content-type;host", "host"}


async def test_signature_covers_type_size_key_and_time(node: Path) -> None:
    put = S3Storage(Bucket("https://s3.example", "shop", "eu-central-1", KEY, SECRET)).presign_put(
        "uploads/images/one", content_type="image/png", size=10, seconds=900
    )
    right = {"method": "PUT", "url": put.url, "headers": {"content-type": "image/png", "content-length": "10"}}
    others = [
        {**right, "headers": {**right["headers"], "content-type": "text/html"}},  # type: ignore[dict-item]
        {**right, "headers": {**right["headers"], "content-length": "11"}},  # type: ignore[dict-item]
        {**right, "method": "GET"},
        {**right, "url": put.url.replace("images/one", "images/two")},
        {**right, "url": put.url.replace("X-Amz-Expires=900", "X-Amz-Expires=901")},
    ]
    signed = (await run_sdk(node, endpoint="http://unused", bucket="shop", requests=[right, *others]))["signed"]
    assert len({request["signature"] for request in signed}) == 6 and signed[0]["signature"] in put.url


async def test_sdk_and_storage_read_each_other(node: Path, s3_server: S3Server) -> None:
    name = f"bucket-{uuid7().hex}"
    content = (bytes(range(256)) * 80_000)[: s3.PART_BYTES + 1_000_000]
    bucket = s3_server.bucket(name)
    async with bucket.running():

        async def chunks() -> Any:
            for start in range(0, len(content), 1_000_000):
                yield content[start : start + 1_000_000]

        await bucket.put("exports/large.csv", chunks(), "text/csv", cache_control="no-store")
        found = await run_sdk(node, endpoint=s3_server.endpoint, bucket=name, read="exports/large.csv", write="uploads/theirs")
        digest = hashlib.sha256(content).hexdigest()
        assert found["read"] == {"size": len(content), "type": "text/csv", "cache": "no-store", "digest": digest}
        assert found["listed"] == ["uploads/theirs"] and await read_object(bucket, "uploads/theirs", 100) == b"from the SDK"
