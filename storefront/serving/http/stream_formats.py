"""Formats of streamed results: server-sent events (graphql-sse), and multipart/mixed (Apollo)."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """A media type for a stream of results. `required_parameters`: those that the Accept header must name.

    `encode_result` encodes a result, {data, errors} as JSON; `encode_error` encodes {errors} that end the stream; `heartbeat`
    keeps an idle connection open.
    """

    media_type: str
    content_type: str
    preamble: bytes
    encode_result: Callable[[bytes], bytes]
    encode_error: Callable[[bytes], bytes]
    heartbeat: bytes
    terminator: bytes
    required_parameters: frozenset[tuple[str, str]] = field(default=frozenset())


def _encode_event(result: bytes) -> bytes:
    # Lines end in LF alone: some clients cannot split CRLF.
    return b"event: next\ndata: %b\n\n" % result


# The protocol of graphql-sse, with a connection for each operation.
EVENT_STREAM = StreamFormat(
    media_type="text/event-stream",
    content_type="text/event-stream; charset=utf-8",
    preamble=b":\n\n",
    encode_result=_encode_event,
    encode_error=_encode_event,
    heartbeat=b":\n\n",
    terminator=b"event: complete\ndata:\n\n",
)


def _encode_multipart_segment(content: bytes) -> bytes:
    # With the delimiter that ends the part: a client parses a part only once it has read the delimiter.
    return b"\r\ncontent-type: application/json; charset=utf-8\r\n\r\n%b\r\n---" % content


def _encode_multipart_error(error: bytes) -> bytes:
    # Apollo's protocol has errors of the transport beside the payload, not in it.
    return _encode_multipart_segment(b'{"payload":null,%b' % error.removeprefix(b"{"))


# Apollo's protocol for subscriptions over multipart: results in envelopes.
MULTIPART = StreamFormat(
    media_type="multipart/mixed",
    content_type='multipart/mixed; boundary="-"; subscriptionSpec=1.0',
    preamble=b"\r\n---" + _encode_multipart_segment(b"{}"),
    encode_result=lambda result: _encode_multipart_segment(b'{"payload":%b}' % result),
    encode_error=_encode_multipart_error,
    heartbeat=_encode_multipart_segment(b"{}"),
    terminator=b"--\r\n",
    required_parameters=frozenset({("subscriptionspec", "1.0")}),
)
