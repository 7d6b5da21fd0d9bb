"""Writes: bulk updates against single ones, a product with variants, and contended stock."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.report import Cell, Table
from benchmarks.stage import STORE, Client, Stage, at, body_of, cpu_seconds
from storefront.core.auth.tokens import Claims, sign_token
from storefront.core.settings import get_settings

ROWS = 250
TIMES_FASTER = 10
BUYERS = 8
SECONDS = 4.0

ERRORS = "userErrors { code message }"
UPDATE = (
    f"mutation($i: UpdateProductInput!) {{ updateProduct(input: $i) {{ product {{ id price version }} position {ERRORS} }} }}"
)
BULK = f"""mutation($i: BulkUpdateProductsInput!) {{ bulkUpdateProducts(input: $i) {{
  results {{ product {{ id price version }} }} position {ERRORS} }} }}"""
CREATE = f"""mutation($i: CreateProductInput!) {{ createProduct(input: $i) {{
  product {{ id handle priceRange {{ min max }} variants {{ totalCount }} }} position {ERRORS} }} }}"""
ADJUST = (
    f"mutation($i: AdjustInventoryInput!) {{ adjustInventory(input: $i) {{ variants {{ id inventory }} position {ERRORS} }} }}"
)

_OWNER = """INSERT INTO user_identities (issuer, subject, user_id)
  SELECT 'storefront', 'benchmark', user_id FROM configs WHERE id = '{}'
  ON CONFLICT (issuer, subject) DO UPDATE SET user_id = excluded.user_id"""
_FACTS = "price, compare_at_price, inventory, version, updated_at"
_REMEMBER = (
    f"DROP TABLE IF EXISTS unwritten; CREATE TABLE unwritten AS SELECT id, {_FACTS} FROM products WHERE config_id = '{{0}}'"
)
_UNDO = (
    "DELETE FROM products WHERE config_id = '{0}' AND handle LIKE 'written-%'",
    "DELETE FROM changes WHERE config_id = '{0}'",
    "DELETE FROM store_positions WHERE config_id = '{0}'",
    f"""UPDATE products AS p SET ({_FACTS}) = (SELECT {_FACTS} FROM unwritten WHERE id = p.id)
    WHERE config_id = '{{0}}' AND version <> (SELECT version FROM unwritten WHERE id = p.id)""",
    "DROP TABLE unwritten",
    "VACUUM ANALYZE products",
)


class Writer(Client):
    """A connection of the store's owner."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._token = sign_token(Claims("benchmark"), get_settings().load_signing_secret(), seconds=3_600)

    def send(self, body: bytes) -> bytes:
        """Post a body as the owner; raises unless all was done."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._token}"}
        self._connection.request("POST", self._path, body, headers)
        answer = self._connection.getresponse().read()
        payload = next(iter((json.loads(answer).get("data") or {"": None}).values()))
        if not payload or payload["userErrors"]:
            raise RuntimeError(answer[:500].decode())
        return answer


def writes(stage: Stage) -> Iterator[Table]:
    """Writes of one product and of many, one after the other and all at once."""
    stage.run(_OWNER.format(STORE), _REMEMBER.format(STORE), "CREATE UNIQUE INDEX ON unwritten (id)")
    try:
        with stage.serving():
            yield _many(stage)
            yield _created(stage)
            yield _stock(stage)
    finally:
        # The next work finds the rows that it knows.
        stage.run(*(sql.format(STORE) for sql in _UNDO))


# -------------------------------------------------------------------------------------------- one and many


def _many(stage: Stage) -> Table:
    writer, ids = Writer(stage.port), _products(stage)
    costs: dict[str, list[float]] = {"one by one": [], "in bulk": []}
    for turn in range(3):
        singles = [body_of(UPDATE, i=row) for row in _rows(ids, f"{turn}1.00")]
        costs["one by one"].append(_timed(writer, singles))
        costs["in bulk"].append(_timed(writer, [body_of(BULK, i={"rows": _rows(ids, f"{turn}2.00")})]))
    one, bulk = min(costs["one by one"]), min(costs["in bulk"])
    rows: list[list[Cell]] = [[f"{ROWS} × updateProduct", one, one / ROWS], ["bulkUpdateProducts", bulk, bulk / ROWS]]
    note = f"The best of three. In bulk is {one / bulk:.1f} times as fast; it must be more than {TIMES_FASTER}."
    return Table("bulk", f"New prices for {ROWS} products", ("write", "ms", "ms per product"), rows, note)


def _products(stage: Stage) -> list[str]:
    asked = "query($s: ID!, $a: String) { products(configId: $s, first: 100, after: $a) { nodes { id } pageInfo { endCursor } } }"
    client, ids, after = Client(stage.port), list[str](), None
    while len(ids) < ROWS:
        page = client.ask(asked, s=STORE, a=after)["products"]
        ids += [node["id"] for node in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
    return ids[:ROWS]


def _rows(ids: Sequence[str], price: str) -> list[dict[str, Any]]:
    return [{"id": id_, "price": price, "compareAtPrice": None} for id_ in ids]


def _timed(writer: Writer, bodies: Sequence[bytes]) -> float:
    began = time.perf_counter()
    for body in bodies:
        writer.send(body)
    return 1000 * (time.perf_counter() - began)


# ------------------------------------------------------------------------------------------------ creating


def _created(stage: Stage) -> Table:
    writer = Writer(stage.port)
    rows = [_cost(stage, writer, f"with {count} variants", _forms(count)) for count in (0, 3)]
    note = "Milliseconds of CPU per request in the server and in Postgres, and by the clock."
    return Table("create", "createProduct", ("product", "server", "Postgres", "p50", "p99", "requests"), rows, note)


def _forms(count: int) -> list[dict[str, Any]]:
    return [{"name": f"Size {n}", "price": "12.50", "attributes": [{"name": "size", "value": str(n)}]} for n in range(count)]


def _cost(stage: Stage, writer: Writer, name: str, forms: list[dict[str, Any]]) -> list[Cell]:
    numbers = iter(range(10_000))

    def send(_: bytes) -> bytes:
        given = {"configId": STORE, "title": "A copper mug for two", "price": "12.50", "category": "Kitchen", "variants": forms}
        return writer.send(body_of(CREATE, i={**given, "handle": f"written-{len(forms)}-{next(numbers)}"}))

    cost = stage.cost(send, b"", stage.pid, seconds=3)
    return [name, cost.server, cost.postgres, cost.p50, cost.p99, cost.requests]


# --------------------------------------------------------------------------------------------------- stock


def _stock(stage: Stage) -> Table:
    ids = _products(stage)[:BUYERS]
    stage.run(
        "UPDATE products SET inventory = 1000000 WHERE config_id = '{}' AND id IN ({})".format(
            STORE, ", ".join(f"'{i}'" for i in ids)
        )
    )
    rows = [
        _throughput(stage, "one buyer", [ids[0]]),
        _throughput(stage, f"{BUYERS} buyers, each of another product", ids),
        _throughput(stage, f"{BUYERS} buyers of one product", [ids[0]] * BUYERS),
    ]
    note = "One server process. All are of one store, whose log has one end: its writers commit one after the other."
    columns = "adjustInventory", "per second", "server", "Postgres", "p50", "p99"
    return Table("stock", "Stock", columns, rows, note)


def _throughput(stage: Stage, name: str, ids: Sequence[str]) -> list[Cell]:
    waits: list[float] = []
    end = time.monotonic() + SECONDS

    def buy(id_: str) -> None:
        writer, body = Writer(stage.port), body_of(ADJUST, i={"changes": [{"id": id_, "delta": -1}]})
        while time.monotonic() < end:
            began = time.perf_counter()
            writer.send(body)
            waits.append(1000 * (time.perf_counter() - began))

    before, before_postgres = cpu_seconds(stage.pid), cpu_seconds(stage.postmaster)
    buyers = [threading.Thread(target=buy, args=[id_]) for id_ in ids]
    for buyer in buyers:
        buyer.start()
    for buyer in buyers:
        buyer.join()
    per = 1000 / len(waits)
    server, postgres = cpu_seconds(stage.pid) - before, cpu_seconds(stage.postmaster) - before_postgres
    return [name, len(waits) / SECONDS, server * per, postgres * per, at(waits, 0.5), at(waits, 0.99)]
