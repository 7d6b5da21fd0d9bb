"""Reads request bodies with limits on size, time (slow bodies) and number of JSON values."""

import asyncio
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from starlette.requests import ClientDisconnect, Request

from storefront.core.errors import LimitExceeded, RequestError
from storefront.serving.http import lone_surrogates
from storefront.serving.http.headers import join_header_lines
from storefront.serving.run.cancellation import ClientDisconnectedError


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of a body: bytes, seconds until it is complete, and values in its JSON.

    A value of a megabyte fits, so that it is rejected by the limit of its own input and not as a body.
    """

    max_bytes: int = 1_500_000
    timeout_seconds: float = 10.0
    max_values: int = 20_000


DEFAULT_BODY_LIMITS = BodyLimits()


class HTTPError(RequestError):
    """Raised for a request that HTTP itself rejects, with its status and response headers."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


async def read_body(request: Request, limits: BodyLimits = DEFAULT_BODY_LIMITS) -> bytes:
    """Read the body. Raises HTTPError if it is too large, encoded or too slow, and ClientDisconnectedError."""
    check_content_coding(request)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.max_bytes:
                    raise HTTPError(413, f"The body must have at most {limits.max_bytes:,} bytes.")
    except ClientDisconnect:
        raise ClientDisconnectedError from None
    except TimeoutError:
        raise HTTPError(408, f"The body must come within {limits.timeout_seconds:g} s.", connection="close") from None
    return bytes(body)


def check_content_coding(request: Request) -> None:
    """Raise HTTPError 415 for a body with a content coding, such as gzip: none is supported."""
    codings = (join_header_lines(request.headers, "content-encoding") or "").lower().split(",")
    if unsupported := [coding.strip() for coding in codings if coding.strip() not in ("", "identity")]:
        message = f"Send the body as it is, without content-encoding: {unsupported[0][:40]} is not read here."
        raise HTTPError(415, message, accept_encoding="identity")


def parse_lenient_json(text: bytes | str, label: str, max_values: int = DEFAULT_BODY_LIMITS.max_values) -> tuple[Any, bool]:
    """Parse JSON. Returns the value, and whether it may have lone surrogates or numbers that are too large.

    Raises HTTPError if it is not JSON, and LimitExceeded if it has too many values. `label` names it in messages.
    """
    check_value_count(text, label, max_values)
    try:
        return lone_surrogates.loads(text)
    except ValueError:
        raise HTTPError(400, f"{label} is not JSON.") from None


# Strings, which may have commas too, and commas between values.
_STRING_OR_COMMA = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|(,)', re.DOTALL)


def check_value_count(text: bytes | str, label: str, max_values: int) -> None:
    """Count the scalar values before parsing: there is one more than there are commas between values. Raises LimitExceeded."""
    encoded = text if isinstance(text, bytes) else text.encode(errors="replace")
    # Commas outside of strings are counted only if there are many in total, and only up to the limit.
    if encoded.count(b",") >= max_values:
        commas = (match for match in _STRING_OR_COMMA.finditer(encoded) if match.lastindex)
        if next(islice(commas, max_values - 1, None), None) is not None:
            raise LimitExceeded("values", max_values, None, f"{label} is too full", "values")
