"""How results are set apart in a response that goes on: as server-sent events, or as the parts of a multipart body."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Framing:
    """A media type for results as they come. A client has to name its `parameters`, too.

    `result` frames an answer, {data, errors} as JSON; `failure` one of {errors}, after which nothing comes; `silence` says that
    nothing has happened for a while.
    """

    media_type: str
    content_type: str
    opening: bytes
    result: Callable[[bytes], bytes]
    failure: Callable[[bytes], bytes]
    silence: bytes
    ending: bytes
    parameters: frozenset[tuple[str, str]] = field(default=frozenset())


def _event(result: bytes) -> bytes:
    # Lines end in LF alone: some clients cannot split CRLF.
    return b"event: next\ndata: %b\n\n" % result


# The protocol of graphql-sse, with a connection for each operation.
EVENT_STREAM = Framing(
    media_type="text/event-stream",
    content_type="text/event-stream; charset=utf-8",
    opening=b":\n\n",
    result=_event,
    failure=_event,
    silence=b":\n\n",
    ending=b"event: complete\ndata:\n\n",
)


def _part(content: bytes) -> bytes:
    # What ends a part comes with it: a client knows a part only by what follows.
    return b"\r\ncontent-type: application/json; charset=utf-8\r\n\r\n%b\r\n---" % content


def _broken(failure: bytes) -> bytes:
    # The envelope has the errors beside it: they are the transport's own, and not those of a result.
    return _part(b'{"payload":null,%b' % failure.removeprefix(b"{"))


# Apollo's protocol for subscriptions over multipart: results in envelopes.
MULTIPART = Framing(
    media_type="multipart/mixed",
    content_type='multipart/mixed; boundary="-"; subscriptionSpec=1.0',
    opening=b"\r\n---" + _part(b"{}"),
    result=lambda result: _part(b'{"payload":%b}' % result),
    failure=_broken,
    silence=_part(b"{}"),
    ending=b"--\r\n",
    parameters=frozenset({("subscriptionspec", "1.0")}),
)
