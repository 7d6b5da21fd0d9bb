"""A volume of Postgres fills up under writers and a listener: what cannot be written is refused, until there is room."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import psycopg
import pytest

from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import build_database_url, build_superuser_url, create_database, embedded_server
from storefront.core.db.migrations import migrate
from storefront.core.net.tls import load_tls_context
from tests.client import token_of
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import PatientFollower, Server, running
from tests.feed.test_faults import UPDATE, until

MEGABYTES, PRODUCTS = 128, 4
READ = "query($id: ID!) { product(by: {id: $id}) { id } }"


@contextmanager
def small_volume(folder: Path) -> Iterator[None]:
    """Move a folder of a stopped Postgres to a small file system of its own."""
    kept, owner = folder.with_name(f"{folder.name}.kept"), folder.stat()
    options = f"size={MEGABYTES}m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    folder.rename(kept)
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk here")
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(folder)], check=True)  # noqa: S607
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607


def fill(folder: Path) -> Path:
    """Fill the file system of the folder; returns the file to remove."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(65_536)):
            pass
    return filler


class Writers:
    """Write without a pause. `positions` were acknowledged; every other answer says that it may be sent again."""

    def __init__(self, server: Server, token: str) -> None:
        self._server, self._headers = server, {"authorization": f"Bearer {token}"}
        self.positions: list[int] = []
        self.refusals = 0
        self.is_stopped = False

    async def write(self, product: str) -> None:
        """Write until stopped."""
        async with httpx.AsyncClient(
            base_url=self._server.address, timeout=30, verify=load_tls_context(), headers=self._headers
        ) as http:
            while not self.is_stopped:
                # Not compressible: each version needs more room.
                given = {"id": product, "description": token_hex(4_000), "idempotencyKey": token_hex(8)}
                answer = await http.post("/graphql", json={"query": UPDATE, "variables": {"i": given}})
                received = answer.json()
                if answer.status_code == 200:
                    assert "errors" not in received and received["data"]["updateProduct"]["userErrors"] == [], answer.text
                    self.positions.append(int(received["data"]["updateProduct"]["position"]))
                else:
                    codes = [error["extensions"]["code"] for error in received["errors"]]
                    assert (answer.status_code, codes) == (503, ["SERVICE_UNAVAILABLE"]) and answer.headers["retry-after"]
                    self.refusals += 1
                await asyncio.sleep(0.01)


async def use_up_log(url: str) -> None:
    """Begin new segments of the write-ahead log until Postgres has no room for one."""
    with suppress(psycopg.OperationalError):
        async with await psycopg.AsyncConnection.connect(build_superuser_url(url), autocommit=True) as connection:
            while True:
                await connection.execute("SELECT pg_switch_wal(), pg_logical_emit_message(false, 'fill', 'log')")


@pytest.mark.soak
@pytest.mark.parametrize("volume", ["tables", "log"])
async def test_full_volume_refuses_writes_until_there_is_room(tmp_path: Path, volume: str) -> None:
    folder = tmp_path / "postgres"
    with embedded_server(folder) as uri:
        create_database(uri, "full")
        url = build_database_url(uri, "full")
        migrate(url)
        with psycopg.connect(url) as connection:
            [(number,)] = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchall()
    full = folder / "postgres" / ("pg_wal" if volume == "log" else f"base/{number}")
    with small_volume(full), ExitStack() as servers:
        url = build_database_url(servers.enter_context(embedded_server(folder)), "full")
        async with Database(url) as database:
            user = await make_user(database)
            store = await make_store(database, user_id=user)
            products = [await make_product(database, store) for _ in range(PRODUCTS)]
            with running(url, tmp_path, workers=2, POOL_TIMEOUT="5") as server:
                writers, follower = Writers(server, token_of(user)), PatientFollower(server.socket_address, store)
                tasks = [asyncio.create_task(work) for work in (follower.follow(), *map(writers.write, products))]
                try:
                    await until(lambda: len(writers.positions) > 20)
                    filler = fill(full)
                    if volume == "log":
                        await use_up_log(url)
                    await until(lambda: writers.refusals > 20)
                    await expect_report(server, products[0], is_readable=volume == "tables")
                    filler.unlink()
                    if volume == "log":
                        # It has ended itself, rather than lose what it acknowledged.
                        await asyncio.to_thread(servers.enter_context, embedded_server(folder))
                    acknowledged = len(writers.positions)
                    await until(lambda: len(writers.positions) > acknowledged + 20)
                finally:
                    writers.is_stopped = True
                    await asyncio.gather(*tasks[1:])
                async with database.transaction() as transaction:
                    rows = await (await transaction.raw.execute("SELECT position FROM changes ORDER BY position")).fetchall()
                written = [int(position) for (position,) in rows]
                await until(lambda: len(follower.seen) >= len(written))
                tasks[0].cancel()
                await asyncio.gather(tasks[0], return_exceptions=True)
    # Nothing that was acknowledged is lost, and the log has no gap.
    assert set(writers.positions) <= set(written) and len(set(writers.positions)) == len(writers.positions)
    assert follower.seen == written == list(range(1, len(written) + 1))


async def expect_report(server: Server, product: str, *, is_readable: bool) -> None:
    """The health check says what is the matter, and reads go on where Postgres does."""
    async with httpx.AsyncClient(base_url=server.address, timeout=30, verify=load_tls_context()) as http, asyncio.timeout(60):
        parts: dict[str, Any] = {}
        # Each worker shows what it has met itself, so each is to be asked.
        while "no disk space left" not in parts.get("writes", "") and parts.get("database", "ok") == "ok":
            answer = await http.get("/readyz", headers={"connection": "close"})
            parts = answer.json()["parts"]
            await asyncio.sleep(0.05)
        assert answer.status_code == (200 if is_readable else 503), answer.text
        read = await http.post("/graphql", json={"query": READ, "variables": {"id": product}})
        assert read.status_code == (200 if is_readable else 503), read.text
