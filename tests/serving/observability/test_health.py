"""Health checks: liveness, readiness, and the state of each dependency."""

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

FINE = {"database": "ok", "migrations": "ok", "feed": "ok", "disk": "ok", "writes": "ok"}


async def ready(client: Client) -> tuple[int, dict[str, str]]:
    answer = await client.http.get("/readyz")
    assert (answer.json()["status"] == "ok") == (answer.status_code == 200)
    return answer.status_code, answer.json()["parts"]


@pytest.fixture(autouse=True)
def cache_seconds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For how long states are cached by servers of this test: not at all, unless it says so."""
    monkeypatch.setattr(health, "CACHE_SECONDS", getattr(request, "param", -1.0))


async def test_healthy_server_is_alive_and_ready(shopper: Client) -> None:
    assert (await shopper.http.get("/healthz")).json() == {"status": "ok"}
    assert await ready(shopper) == (200, FINE)
    assert (await shopper.http.get("/readyz")).headers["cache-control"] == "no-store"


async def test_readiness_needs_migrations_applied(client: Client) -> None:
    for revision, status, word in (("20261122_catalogue", 503, "storefront migrate"), ("20991231_from_later", 200, "ok")):
        async with client.database.transaction() as connection:
            await connection.raw.execute("UPDATE alembic_version SET version_num = %s", [revision])
        found, parts = await ready(client)
        assert found == status and word in parts["migrations"]


async def test_unavailable_database_is_reported_by_error_class(client: Client) -> None:
    await client.database._pool.close()
    status, parts = await ready(client)
    assert status == 503 and parts["database"] not in ("ok", "") and parts["feed"] == "ok"
    assert (await client.http.get("/healthz")).status_code == 200


FULL = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON changes EXECUTE FUNCTION refuse()
"""


async def test_full_postgres_disk_is_a_warning(client: Client, empty_url: str) -> None:
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
    assert status == 200 and "no disk space left" in parts["writes"]
    assert (await client.ask("query($i: ID!) { product(by: {id: $i}) { id } }", i=product))["product"] == {"id": product}


async def test_low_file_storage_is_a_warning(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.observability.MIN_FREE_BYTES", 10**18)
    status, parts = await ready(client)
    assert status == 200 and "MB are left" in parts["disk"]


async def test_replica_has_its_own_health_check(postgres: str, template: str, tmp_path: Path) -> None:
    replica = fresh(postgres, template)
    async with serving(fresh(postgres, template), tmp_path, database_read_url=SecretStr(replica)) as shopper:
        assert await ready(shopper) == (200, {**FINE, "replica": "ok"})


@pytest.mark.parametrize("cache_seconds", [60.0], indirect=True)
async def test_concurrent_health_checks_share_one_run(client: Client) -> None:
    seen: list[str] = []
    client.database.observers.append(seen.append)
    await asyncio.gather(*(client.http.get("/readyz") for _ in range(20)))
    client.database.observers.remove(seen.append)
    assert sum("alembic_version" in sql for sql in seen) == 1


def test_sigterm_ends_readiness_while_requests_are_served(empty_url: str, tmp_path: Path) -> None:
    with running(empty_url, tmp_path, is_forked=False, SHUTDOWN_DELAY="5") as server:
        with httpx.Client(base_url=server.address) as http:
            assert http.get("/readyz").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            answer: Any = None
            end = time.monotonic() + 4
            while (answer is None or answer.status_code == 200) and time.monotonic() < end:
                answer = http.get("/readyz")
            assert answer.status_code == 503 and answer.json()["parts"]["server"] == "draining"
            assert http.get("/graphql", params={"query": "{ __typename }"}).status_code == 200
        server.process.wait(20)
