"""A process of many listeners: `python -m benchmarks.listeners PORT CHANGES`.

On raw sockets, so that it is never what is slow. The first line of its input is JSON: the name of the document, and the
variables of each listener. It prints `ready` once all have subscribed, listens until all have received so many changes or its
input ends, and then prints what it received as one line of JSON.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from array import array
from collections.abc import Mapping
from typing import Any

DOCUMENTS = {
    "feed": """subscription Feed($configId: ID!) {
  productFeed(configId: $configId) {
    __typename
    position
    ... on ProductCreated { clientMutationId product { id title price version } }
    ... on ProductUpdated { clientMutationId changedFields product { id title price version } }
    ... on ProductDeleted { clientMutationId productId }
    ... on FeedReset { reason }
  }
}""",
    "list": """subscription List($configId: ID!, $filter: ProductFilterInput, $first: Int! = 20) {
  productList(configId: $configId, filter: $filter, first: $first) {
    __typename
    position
    totalCount
    ... on ProductListSnapshot { products { id title price version } }
    ... on ProductListEnter { index clientMutationId product { id title price version } }
    ... on ProductListLeave { index productId reason }
    ... on ProductListMove { fromIndex toIndex clientMutationId product { id title price version } }
    ... on ProductListUpdate { index changedFields clientMutationId product { id title price version } }
  }
}""",
}
SNAPSHOT = b'"__typename":"ProductListSnapshot"'
HANDSHAKE = (
    "GET /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
)
POSITION = b'"position":"'
TEXT, PING = 0x81, 0x89


class Listener:
    """One socket: what has come in of it, and the positions that it has received, each with the moment."""

    def __init__(self, port: int, document: str, variables: Mapping[str, Any]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.positions, self.moments = array("q"), array("d")
        self._buffer = b""
        self.socket.sendall(HANDSHAKE.encode())
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self.socket.recv(4096)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head:
            raise RuntimeError(head.decode(errors="replace"))
        self._send({"type": "connection_init"})
        while not self._buffer:
            self._buffer += self.socket.recv(4096)
        if b"connection_ack" not in self._buffer:
            raise RuntimeError(self._buffer.decode(errors="replace"))
        self._buffer = b""
        self._send({"id": "1", "type": "subscribe", "payload": {"query": DOCUMENTS[document], "variables": variables}})
        if document == "list":
            # It begins with a snapshot, which is not a change.
            while _end(self._buffer, 0) > len(self._buffer):
                self._buffer += self.socket.recv(65_536)
            if SNAPSHOT not in self._buffer:
                raise RuntimeError(self._buffer.decode(errors="replace"))
            self._buffer = self._buffer[_end(self._buffer, 0) :]
        self.socket.setblocking(False)

    def _send(self, message: object) -> None:
        self._frame(TEXT, json.dumps(message).encode())

    def _frame(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        head = struct.pack("!BB", kind, 0x80 | size) if size < 126 else struct.pack("!BBH", kind, 0x80 | 126, size)
        # A mask of zeros leaves the payload as it is.
        self.socket.sendall(head + bytes(4) + payload)

    def read(self, now: float) -> int:
        """Take what has arrived; how many changes that was."""
        data = self.socket.recv(65_536)
        if not data:
            raise RuntimeError("the server closed a socket")
        buffer, start, before = self._buffer + data, 0, len(self.positions)
        while (end := _end(buffer, start)) <= len(buffer):
            self._take(buffer, start, end, now)
            start = end
        self._buffer = buffer[start:]
        return len(self.positions) - before

    def _take(self, buffer: bytes, start: int, end: int, now: float) -> None:
        if buffer[start] == PING:
            self._frame(0x8A, buffer[start + 2 : end])
            return
        found = buffer.find(POSITION, start, end)
        if found < 0:
            raise RuntimeError(f"not an event: {buffer[start:end]!r}")
        found += len(POSITION)
        self.positions.append(int(buffer[found : buffer.index(b'"', found)]))
        self.moments.append(now)


def _end(buffer: bytes, start: int) -> int:
    """Where the frame that begins here ends; beyond the buffer if that is not known yet."""
    if len(buffer) < start + 4:
        return len(buffer) + 1 if len(buffer) < start + 2 or buffer[start + 1] > 125 else start + 2 + buffer[start + 1]
    size = buffer[start + 1]
    if size < 126:
        return start + 2 + size
    if size == 126:
        return start + 4 + int.from_bytes(buffer[start + 2 : start + 4], "big")
    return start + 10 + int.from_bytes(buffer[start + 2 : start + 10], "big")


def listen(listeners: list[Listener], most: int) -> None:
    """Until so much was heard in all, or the input ends."""
    by_number = {listener.socket.fileno(): listener for listener in listeners}
    poll = select.epoll()
    for number in (*by_number, sys.stdin.fileno()):
        poll.register(number, select.EPOLLIN)
    while most > 0:
        for number, _ in poll.poll():
            if number not in by_number:
                return
            most -= by_number[number].read(time.monotonic())


def main(port: int, changes: int) -> None:
    """Connect, print `ready`, listen, print what was received."""
    audience = json.loads(sys.stdin.readline())
    listeners = [Listener(port, audience["document"], variables) for variables in audience["variables"]]
    print("ready", flush=True)
    listen(listeners, len(listeners) * changes)
    used = os.times()
    heard = [[listener.positions.tolist(), listener.moments.tolist()] for listener in listeners]
    print(json.dumps({"heard": heard, "cpu": used.user + used.system}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
