"""A server of S3's protocol (moto's) in a process of its own, with a bucket."""

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

KEY, SECRET = "an-access-key", "a secret of the bucket"


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where it is; each bucket is made when it is asked for."""

    endpoint: str

    def bucket(self, name: str) -> S3Storage:
        """The store of a new bucket."""
        httpx.put(f"{self.endpoint}/{name}", headers={"authorization": _AUTHORIZATION}).raise_for_status()
        return S3Storage(Bucket(self.endpoint, name, "us-east-1", KEY, SECRET))

    def let_in(self, name: str, origin: str) -> None:
        """Let pages of an origin send files."""
        parts = {"AllowedOrigin": origin, "AllowedMethod": "PUT", "AllowedHeader": "content-type"}
        rule = "".join(f"<{name}>{value}</{name}>" for name, value in parts.items())
        rules = f"<CORSConfiguration><CORSRule>{rule}</CORSRule></CORSConfiguration>"
        answer = httpx.put(f"{self.endpoint}/{name}?cors", content=rules, headers={"authorization": _AUTHORIZATION})
        answer.raise_for_status()

    def open(self, name: str, prefix: str) -> None:
        """Let everybody read what begins so."""
        allowed = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{name}/{prefix}*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        answer = httpx.put(f"{self.endpoint}/{name}?policy", content=policy, headers={"authorization": _AUTHORIZATION})
        answer.raise_for_status()

    def settings(self, name: str) -> dict[str, Any]:
        """What makes a server of ours use the bucket."""
        self.bucket(name)
        given = {"s3_endpoint": self.endpoint, "s3_bucket": name, "s3_access_key_id": KEY}
        return {**given, "s3_secret_access_key": SecretStr(SECRET)}


# It tells by this that it is S3 that is asked for; signatures it does not check.
_AUTHORIZATION = f"AWS4-HMAC-SHA256 Credential={KEY}/20261126/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start it on a free port; stop it at the end."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # Short pages of lists, so that there are several; and pages of other origins as the bucket says.
    environment = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "5", "MOTO_DISABLE_GLOBAL_CORS": "true"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield S3Server(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, "the S3 server did not start"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the S3 server did not start")
