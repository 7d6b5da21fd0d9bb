"""How results are set apart in a response that goes on: as server-sent events, or as the parts of a multipart body."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """A media type for results as they come. A client has to name its `parameters`, too.

    `result` frames an answer, {data, errors} as JSON; `failure` one of {errors}, after which nothing comes; `silence` says that
    nothing has happened for a while.
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
    # What ends a part comes with it: a client knows a part only by what follows.
    return b"\r\ncontent-type: application/json; charset=utf-8\r\n\r\n%b\r\n---" % content


def _encode_multipart_error(error: bytes) -> bytes:
    # The envelope has the errors beside it: they are the transport's own, and not those of a result.
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
