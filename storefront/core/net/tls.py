"""TLS to other servers."""

import ssl
from functools import cache

import httpx


@cache
def load_tls_context() -> ssl.SSLContext:
    """The context that verifies the servers this process connects to. Shared: loading the authorities takes 50 ms of CPU."""
    return httpx.create_ssl_context()
