"""Peers: servers on other stacks with the same operations over the same rows, each in the idiom of its own community."""

import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg

from benchmarks.contest import Contestant
from benchmarks.peers import setup
from benchmarks.peers.apis import Catalogue, PostGraphile, Trpc
from benchmarks.stage import Stage, free_port, process
from benchmarks.works import Api, Facts
from storefront.serving.graphiql.assets import find_node_and_npm

STRAWBERRY, TRPC = "Strawberry + ORM", "tRPC + Drizzle"
POSTGRAPHILE, MERCURIUS = "PostGraphile 5", "Mercurius + jit"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server: the file that it is, and how it is asked."""

    name: str
    file: str
    api: type[Api]


PEERS = (
    Peer(STRAWBERRY, "strawberry_orm", Catalogue),
    Peer(TRPC, "trpc.mjs", Trpc),
    Peer(POSTGRAPHILE, "postgraphile.mjs", PostGraphile),
    Peer(MERCURIUS, "mercurius.mjs", Catalogue),
)

NAMES = tuple(peer.name for peer in PEERS)


def node_version() -> str:
    """Which Node the peers in JavaScript run on."""
    said = subprocess.run([find_node_and_npm()[0], "--version"], capture_output=True, text=True, check=True).stdout
    return f"Node {said.strip().removeprefix('v')}"


@contextmanager
def running(stage: Stage, facts: Facts, chosen: Collection[str] = NAMES) -> Iterator[list[Contestant]]:
    """All of them or those of these names, each a process of its own."""
    folder, url = setup.install_peers(), setup.database(stage)
    node = str(find_node_and_npm()[0])
    database = setup.environment(url) | {"NODE_ENV": "production", "GRAPHILE_ENV": "production"}

    def clean() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DELETE FROM products WHERE title LIKE 'Bench product %'")

    with ExitStack() as stack:
        found = []
        for peer in (peer for peer in PEERS if peer.name in chosen):
            port = free_port()
            command = [node, str(folder / peer.file)] if peer.file.endswith(".mjs") else _uvicorn(peer.file, port)
            server = stack.enter_context(process(command, port, PORT=str(port), **database))
            found.append(Contestant(peer.name, port, server.pid, peer.api(facts), clean))
        yield found


def _uvicorn(module: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.peers.{module}:app", "--port", str(port)]
    return [*command, "--no-access-log", "--log-level", "warning", "--lifespan", "off"]
