"""Whether a server says when it can answer, and when it cannot, and what is wrong then."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from storefront.serving.observability import health
from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import running

FINE = {"database": "ok", "migrations": "ok", "feed": "ok", "disk": "ok"}


async def ready(client: Client) -> tuple[int, dict[str, str]]:
    answer = await client.http.get("/readyz")
    assert (answer.json()["status"] == "ok") == (answer.status_code == 200)
    return answer.status_code, answer.json()["parts"]


@pytest.fixture(autouse=True)
def looked_up_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CACHE_SECONDS", -1.0)


async def test_a_server_that_can_answer_is_alive_and_ready(shopper: Client) -> None:
    assert (await shopper.http.get("/healthz")).json() == {"status": "ok"}
    assert await ready(shopper) == (200, FINE)
    assert (await shopper.http.get("/readyz")).headers["cache-control"] == "no-store"


async def test_older_migrations_are_not_ready_and_newer_ones_are(client: Client) -> None:
    for revision, status, word in (("20261122_catalogue", 503, "storefront migrate"), ("20991231_from_later", 200, "ok")):
        async with client.database.transaction() as connection:
            await connection.raw.execute("UPDATE alembic_version SET version_num = %s", [revision])
        found, parts = await ready(client)
        assert found == status and word in parts["migrations"]


async def test_a_database_that_does_not_answer_is_told_by_the_kind_of_failure(client: Client) -> None:
    await client.database._pool.close()
    status, parts = await ready(client)
    assert status == 503 and parts["database"] not in ("ok", "") and parts["feed"] == "ok"
    assert (await client.http.get("/healthz")).status_code == 200


FULL = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON changes EXECUTE FUNCTION refuse()
"""


async def test_full_disk_of_postgres_is_shown(client: Client, empty_url: str) -> None:
    user = await make_user(client.database)
    product = await make_product(client.database, await make_store(client.database, user_id=user))
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute(FULL)
    document = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { position } }"
    refused = await client.signed_in(user).post(document, i={"id": product, "title": "New"})
    assert refused.status_code == 503 and refused.headers["retry-after"]
    assert [error["extensions"]["code"] for error in refused.json()["errors"]] == ["SERVICE_UNAVAILABLE"]
    # It is shown, and the server goes on: what reads still works.
    status, parts = await ready(client)
    assert status == 200 and "no room" in parts["disk"]
    assert (await client.ask("query($i: ID!) { product(by: {id: $i}) { id } }", i=product))["product"] == {"id": product}


async def test_little_room_for_files_is_shown(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.observability.MIN_FREE_BYTES", 10**18)
    status, parts = await ready(client)
    assert status == 200 and "MB are left" in parts["disk"]


async def test_a_replica_is_a_part_of_its_own(postgres: str, template: str, tmp_path: Path) -> None:
    replica = fresh(postgres, template)
    async with serving(fresh(postgres, template), tmp_path, database_read_url=SecretStr(replica)) as shopper:
        assert await ready(shopper) == (200, {**FINE, "replica": "ok"})


async def test_many_who_ask_are_answered_at_the_cost_of_one(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CACHE_SECONDS", 60.0)
    seen: list[str] = []
    client.database.observers.append(seen.append)
    await asyncio.gather(*(client.http.get("/readyz") for _ in range(20)))
    client.database.observers.remove(seen.append)
    assert sum("alembic_version" in sql for sql in seen) == 1


def test_on_sigterm_a_server_is_ready_no_longer_and_answers_for_a_while(empty_url: str, tmp_path: Path) -> None:
    with running(empty_url, tmp_path, SHUTDOWN_DELAY="2") as server:
        with httpx.Client(base_url=server.address) as http:
            assert http.get("/readyz").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            answer: Any = None
            end = time.monotonic() + 1.5
            while (answer is None or answer.status_code == 200) and time.monotonic() < end:
                answer = http.get("/readyz")
            assert answer.status_code == 503 and answer.json()["parts"]["server"] == "leaving"
            assert http.get("/graphql", params={"query": "{ __typename }"}).status_code == 200
        server.process.wait(20)
