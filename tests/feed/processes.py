"""A server in its own processes, started by the CLI, and listeners that reconnect."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from storefront.core.ids import uuid7
from storefront.core.net.tls import load_tls_context
from tests.client import SECRET
from tests.feed.served import run_command
from tests.forks import FORK_SERVER
from tests.ports import free_port

PROGRAM = Path(sys.executable).with_name("storefront")
FEED = """subscription($c: ID!, $after: Position) { productFeed(configId: $c, after: $after) { __typename position
  ... on FeedReset { reason } } }"""


class ForkedProcess:
    """A process of the fork server, with the methods of a Popen."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        process.start()
        assert process.pid is not None
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_to_end(folder: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `storefront` with these words until it exits, in a process that is forked. Its output passes through the folder."""
    log, output = folder / f"{uuid7()}.log", folder / f"{uuid7()}.out"
    arguments = [["storefront", *words], os.environ | environment, str(log), str(output)]
    code = ForkedProcess(FORK_SERVER.Process(target=run_command, args=arguments)).wait(60)
    return subprocess.CompletedProcess(words, code, output.read_text(), log.read_text())


class Server:
    """A server, with the processes that serve."""

    def __init__(self, process: "subprocess.Popen[bytes] | ForkedProcess", port: int) -> None:
        self.process, self.port = process, port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_address(self) -> str:
        return f"ws://127.0.0.1:{self.port}/graphql"

    def workers(self) -> list[int]:
        """The ids of the worker processes, of a server that has several."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(id_) for id_ in children if b"resource_tracker" not in Path(f"/proc/{id_}/cmdline").read_bytes()]

    def sockets(self, worker: int) -> int:
        """How many sockets a worker has open."""
        count = 0
        for link in Path(f"/proc/{worker}/fd").iterdir():
            with suppress(OSError):
                count += os.readlink(link).startswith("socket:")
        return count

    def memory(self) -> int:
        """Bytes that the process holds."""
        [line] = [line for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if "VmRSS" in line]
        return int(line.split()[1]) * 1024


@contextmanager
def running(
    url: str,
    folder: Path,
    workers: int = 1,
    log: IO[bytes] | int = subprocess.DEVNULL,
    *,
    is_forked: bool = True,
    program: Path = PROGRAM,
    arguments: Sequence[str] = (),
    **options: str,
) -> Iterator[Server]:
    """A server on a free port, which writes its log there. It is stopped at the end, unless that was done before.

    Its processes are forked from one that has imported all modules, which takes seconds, unless `is_forked` is false.
    """
    port = free_port()
    given = {
        "DATABASE_URL": url,
        "SECRET": SECRET,
        "DATA_DIR": str(folder),
        "POPULARITY_INTERVAL": "0",
        "POOL_SIZE": "5",
        "POOL_TIMEOUT": "30",
    }
    environment = os.environ | {f"STOREFRONT_{name}": value for name, value in (given | options).items()}
    command = [str(program), "serve", "--port", str(port), "--workers", str(workers), *arguments]
    process = _fork(command, environment, log) if is_forked else _spawn(command, environment, log, folder)
    server = Server(process, port)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _spawn(command: list[str], environment: dict[str, str], log: IO[bytes] | int, folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=log)


def _fork(command: list[str], environment: dict[str, str], log: IO[bytes] | int) -> ForkedProcess:
    path = os.devnull if isinstance(log, int) else log.name
    return ForkedProcess(FORK_SERVER.Process(target=run_command, args=(command, environment, path)))


def _wait_until_ready(server: Server) -> None:
    end = time.monotonic() + 240
    # One client, because each loads certificate authorities: that would take much of the time in which the server starts.
    with httpx.Client(base_url=server.address, timeout=20, verify=load_tls_context()) as http:
        while time.monotonic() < end:
            assert server.process.poll() is None, "the server ended by itself"
            with suppress(httpx.TransportError):
                if http.get("/graphql", params={"query": "{ __typename }"}).status_code == 200:
                    return
            time.sleep(0.05)
    raise AssertionError("the server does not answer")


class Follower:
    """A listener as a good client has it: whenever its socket ends, it connects again and goes on after what it saw last."""

    def __init__(self, address: str, store: str) -> None:
        self._address, self._store = address, store
        self.seen: list[int] = []
        self.others: list[Any] = []
        self.connections = 0

    async def follow(self) -> None:
        while True:
            with suppress(ConnectionClosed, InvalidHandshake, InvalidMessage, OSError, EOFError):
                await self._listen()
            await asyncio.sleep(0.1)

    async def _listen(self) -> None:
        async with connect(self._address, subprotocols=["graphql-transport-ws"], compression=None) as socket:  # type: ignore[list-item]
            await socket.send(json.dumps({"type": "connection_init"}))
            await socket.recv()
            variables = {"c": self._store, "after": str(self.seen[-1] if self.seen else 0)}
            await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": FEED, "variables": variables}}))
            self.connections += 1
            async for text in socket:
                self._take(json.loads(text))

    def _take(self, message: Any) -> None:
        event = (message.get("payload") or {}).get("data", {}).get("productFeed") if message["type"] == "next" else None
        if event is None or event["__typename"] != "ProductUpdated":
            self.others.append(message)
        else:
            self.seen.append(int(event["position"]))


@dataclass(slots=True)
class StreamFollower:
    """A listener over server-sent events that connects again after what it saw last, whenever its stream ends."""

    address: str
    store: str
    seen: list[int] = field(default_factory=list)

    async def follow(self) -> None:
        while True:
            with suppress(httpx.TransportError):
                async for event in self._events():
                    self.seen.append(int(event["position"]))
            await asyncio.sleep(0.1)

    async def _events(self) -> AsyncIterator[Any]:
        body = {"query": FEED, "variables": {"c": self.store, "after": str(self.seen[-1] if self.seen else 0)}}
        async with httpx.AsyncClient(timeout=httpx.Timeout(20, read=60), verify=load_tls_context()) as http:
            headers = {"accept": "text/event-stream"}
            async with http.stream("POST", f"{self.address}/graphql", json=body, headers=headers) as answer:
                if answer.status_code != 200:
                    return
                async for line in answer.aiter_lines():
                    found = json.loads(line[5:]) if line.startswith("data:") and line[5:].strip() else {}
                    if event := (found.get("data") or {}).get("productFeed"):
                        yield event
                    elif found.get("errors"):
                        return


class PatientFollower(Follower):
    """A listener on a WebSocket that connects again when its subscription ends, for whatever reason."""

    def _take(self, message: Any) -> None:
        if message["type"] in ("error", "complete"):
            raise EOFError
        super()._take(message)
