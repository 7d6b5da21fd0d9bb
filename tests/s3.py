"""An S3-compatible server (moto) in a separate process."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from storefront.core.storage.s3 import Bucket, S3Storage
from tests.ports import free_port

KEY, SECRET = "an-access-key", "a secret of the bucket"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server; buckets are created on demand."""

    endpoint: str

    def bucket(self, name: str) -> S3Storage:
        """Object storage in a new bucket."""
        httpx.put(f"{self.endpoint}/{name}", headers={"authorization": _AUTHORIZATION}).raise_for_status()
        return S3Storage(Bucket(self.endpoint, name, "us-east-1", KEY, SECRET))

    def let_in(self, name: str, origin: str) -> None:
        """Allow uploads from an origin in the bucket's CORS rules."""
        parts = {"AllowedOrigin": origin, "AllowedMethod": "PUT", "AllowedHeader": "content-type"}
        rule = "".join(f"<{name}>{value}</{name}>" for name, value in parts.items())
        rules = f"<CORSConfiguration><CORSRule>{rule}</CORSRule></CORSConfiguration>"
        response = httpx.put(f"{self.endpoint}/{name}?cors", content=rules, headers={"authorization": _AUTHORIZATION})
        response.raise_for_status()

    def open(self, name: str, prefix: str) -> None:
        """Make the objects under a prefix publicly readable."""
        allowed = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{name}/{prefix}*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        response = httpx.put(f"{self.endpoint}/{name}?policy", content=policy, headers={"authorization": _AUTHORIZATION})
        response.raise_for_status()

    def settings(self, name: str) -> dict[str, Any]:
        """Create a bucket; returns the settings for it."""
        self.bucket(name)
        given = {"s3_endpoint": self.endpoint, "s3_bucket": name, "s3_access_key_id": KEY}
        return {**given, "s3_secret_access_key": SecretStr(SECRET)}


# Moto recognizes S3 requests by this header; it does not verify signatures.
_AUTHORIZATION = f"AWS4-HMAC-SHA256 Credential={KEY}/20261126/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run the server on a free port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # Short pages, so that lists have several; and CORS by the rules of the bucket.
    environment = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "5", "MOTO_DISABLE_GLOBAL_CORS": "true"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield S3Server(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the S3 server did not start"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the S3 server did not start")
