"""graphql-transport-ws: malformed messages are answered as by the protocol's reference server."""

import asyncio
import json
import logging
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
import strawberry
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from storefront.serving.documents.document_store import DocumentStore
from storefront.serving.observability.request_id import RequestIdMiddleware
from storefront.serving.protection.revocations import Revocations
from storefront.serving.run.operations import Operations
from storefront.serving.server import websocket_protocol
from storefront.serving.websocket.connections import SocketLimits, Sockets
from storefront.serving.websocket.protocol import SUBPROTOCOL
from tests.client import Client
from tests.clients.npm import CLIENTS, environment, installed
from tests.factories import make_product, make_store, make_user
from tests.feed.test_limits import Anyone

log = logging.getLogger("storefront")

# Seconds that any answer may take.
TIMEOUT_SECONDS = 20

INIT = '{"type":"connection_init"}'
# An operation that goes on beside what is tried.
WAITING = '{"id":"waiting","type":"subscribe","payload":{"query":"subscription { wait }"}}'

TWO = "query A { hello } query B { hello }"
INT, FLOAT, TEXT = (f"query(${name}: {name}) {{ hello({name.lower()}: ${name}) }}" for name in ("Int", "Float", "Text"))
TEXT = TEXT.replace(": Text)", ": String)")
LONG = "é" * 201
DEEP = '{"a":' * 400 + "1" + "}" * 400


@strawberry.type
class Query:
    @strawberry.field
    def hello(self, text: str | None = None, int: int | None = None, float: float | None = None) -> str | None:  # noqa: ARG002
        log.warning("hello to %s", text)
        return "world"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def wait(self, first: int | None = None) -> AsyncGenerator[int, None]:  # noqa: ARG002
        yield 0
        await asyncio.Event().wait()


# ---------------------------------------------------------------------------------------------------- the table


Answer = int | tuple[str, ...]
RUNS = ("next 1", "complete 1")
ERROR = ("error 1",)
PONG = ("pong",)


@dataclass(frozen=True, slots=True)
class Row:
    """What a client sends, and the answer: a close code, or messages by type and id. The socket is initialised if `inits`.

    `theirs` is the other server's answer where we differ on purpose, and `why`.
    """

    name: str
    sends: tuple[str | bytes, ...]
    answer: Answer
    theirs: Answer | None = None
    why: str = ""
    inits: bool = True


def row(name: str, sends: Any, answer: Answer, theirs: Answer | None = None, why: str = "", *, inits: bool = True) -> Row:
    sent = sends if isinstance(sends, tuple) else (sends,)
    return Row(name, tuple(one if isinstance(one, str | bytes) else json.dumps(one) for one in sent), answer, theirs, why, inits)


def subscribe(query: Any = "{ hello }", id_: Any = "1", **payload: Any) -> dict[str, Any]:
    return {"id": id_, "type": "subscribe", "payload": {"query": query, **payload}}


def raw_variable(query: str, name: str, value: str) -> str:
    """A subscribe message whose variable's JSON Python would not write."""
    return json.dumps(subscribe(query, variables={name: "?"})).replace('"?"', value)


SERVERS_ONLY = "the protocol has it from the server to the client alone, so it is a type that it does not name here"
NOT_UTF8 = "what is no Unicode text can neither be stored nor be answered in UTF-8"
NOT_JSON_TEXT = "messages are JSON text; theirs accepts binary frames by a side effect of its adapter"
DOCUMENT = "documents may be named by documentId instead of query"
SYNTAX = "a document that does not parse is its operation's error; theirs ends all others on the socket"
NAME = "an empty operationName counts as absent, as over HTTP"
EARLY = "a subscription that cannot begin has no result"
BOUND = "what is held per operation is bounded"
DEPTH = "nesting is bounded"
HUGE = "a number beyond a double cannot be handed on, and is refused before anything runs"

NO_OBJECTS: list[Any] = [False, True, 0, 1, "", "{}", [], [{}]]
NO_TYPES: list[Any] = [None, 1, True, "", [], {}, ["ping"], {"a": 1}]
NO_IDS: list[Any] = [None, "", 0, 1, True, [], ["1"], {}]
NO_PAYLOADS: list[Any] = [None, False, 0, 1, "", "{ hello }", [], [{"query": "{ hello }"}]]
NO_QUERIES: list[Any] = [None, False, 1, [], {}, ["{ hello }"]]
NO_NAMES: list[Any] = [False, 0, [], {}]

TABLE = [
    # What is no JSON object.
    row("text that is no JSON", "{", 4400),
    row("empty text", "", 4400),
    row("NaN", '{"type":"ping","payload":{"n":NaN}}', 4400),
    row("a byte order mark", "\ufeff" + '{"type":"ping"}', 4400),
    *[row(f"JSON that is no object: {text}", text, 4400) for text in ("null", "1", '"ping"', "[]", "true", '[{"type":"ping"}]')],
    row("a binary frame", b"\x00\xff", 4400),
    row("a binary frame of JSON", b'{"type":"ping"}', 4400, PONG, NOT_JSON_TEXT),
    row("lists nested 50,000 deep", '{"type":"ping","payload":{"a":' + "[" * 50_000 + "]" * 50_000 + "}}", 4400, None, DEPTH),
    # Types.
    *[row(f"type {value!r}", {"type": value, "id": "1"}, 4400) for value in NO_TYPES],
    row("no type", {}, 4400),
    row("an unknown type", {"type": "start", "id": "1"}, 4400),
    row("a type in capitals", {"type": "PING"}, 4400),
    row("a type that is a lone surrogate", {"type": "\ud800"}, 4400),
    row("connection_ack from the client", {"type": "connection_ack"}, 4400, 4500, SERVERS_ONLY),
    row("next from the client", {"type": "next", "id": "1", "payload": {}}, 4400, 4500, SERVERS_ONLY),
    row("error from the client", {"type": "error", "id": "1", "payload": [{"message": "x"}]}, 4400, 4500, SERVERS_ONLY),
    # ping, pong, connection_init.
    *[
        row(f"{kind} with the payload {value!r}", {"type": kind, "payload": value}, 4400, inits=kind != "connection_init")
        for kind in ("ping", "pong", "connection_init")
        for value in NO_OBJECTS
    ],
    row("ping", {"type": "ping"}, PONG),
    row("ping with null", {"type": "ping", "payload": None}, PONG),
    row("ping with an object", {"type": "ping", "payload": {"n": 1}}, ('pong {"n": 1}',)),
    row("ping with an empty object", {"type": "ping", "payload": {}}, ("pong {}",)),
    row("ping with a lone surrogate", {"type": "ping", "payload": {"a": "\ud83d"}}, ('pong {"a": "\\ud83d"}',)),
    row("ping with 1e400", '{"type":"ping","payload":{"a":1e400}}', ('pong {"a": null}',)),
    row("ping with -1e400 and a lone surrogate", '{"type":"ping","payload":{"\\udc00":-1e400}}', ('pong {"\\udc00": null}',)),
    row("ping with nested objects", f'{{"type":"ping","payload":{DEEP}}}', (f"pong {DEEP.replace(':', ': ')}",)),
    row("pong", {"type": "pong"}, ()),
    row("pong with null", {"type": "pong", "payload": None}, ()),
    row("connection_init with null", {"type": "connection_init", "payload": None}, ("connection_ack",), inits=False),
    row("connection_init with an object", {"type": "connection_init", "payload": {"a": 1}}, ("connection_ack",), inits=False),
    row("connection_init twice", INIT, 4429),
    row("connection_init twice, malformed", {"type": "connection_init", "payload": 0}, 4400),
    # Ids.
    *[
        row(f"{kind} with the id {value!r}", {"type": kind, "id": value, "payload": {"query": "{ hello }"}}, 4400)
        for kind in ("subscribe", "complete")
        for value in NO_IDS
    ],
    row("subscribe without an id", {"type": "subscribe", "payload": {"query": "{ hello }"}}, 4400),
    row("complete without an id", {"type": "complete"}, 4400),
    row("complete of what does not run", {"type": "complete", "id": "never"}, ()),
    row("complete with a lone surrogate as id", {"type": "complete", "id": "\ud83d"}, ()),
    row("an id of 200 characters", subscribe(id_="é" * 200), ("next " + "é" * 200, "complete " + "é" * 200)),
    row(
        "an id of 201 characters",
        subscribe(id_=LONG),
        ("error " + "é" * 201,),
        ("next " + "é" * 201, "complete " + "é" * 201),
        BOUND,
    ),
    row("a lone surrogate as id", subscribe(id_="\ud83d"), ("error \ud83d",), ("next \ud83d", "complete \ud83d"), NOT_UTF8),
    row("an id that runs", WAITING, 4409),
    row(
        "a long id that runs",
        (subscribe("subscription { wait }", "i" * 200), subscribe("subscription { wait }", "i" * 200)),
        4409,
        4500,
        "theirs names the whole id in the reason, for which a close frame has no room",
    ),
    row("an id that every object has", subscribe(id_="constructor"), ("next constructor", "complete constructor")),
    # subscribe before connection_init: a malformed one is malformed first.
    row("subscribe before connection_init", subscribe(), 4401, inits=False),
    row("malformed subscribe before connection_init", subscribe(id_=""), 4400, inits=False),
    row("complete before connection_init", {"type": "complete", "id": "1"}, (), inits=False),
    row("ping before connection_init", {"type": "ping"}, PONG, inits=False),
    # The payload of subscribe.
    *[
        row(f"subscribe with the payload {value!r}", {"type": "subscribe", "id": "1", "payload": value}, 4400)
        for value in NO_PAYLOADS
    ],
    row("subscribe without a payload", {"type": "subscribe", "id": "1"}, 4400),
    row("subscribe without a query", {"type": "subscribe", "id": "1", "payload": {}}, 4400),
    row("subscribe without a query, variables", {"type": "subscribe", "id": "1", "payload": {"variables": {}}}, 4400),
    *[row(f"the query {value!r}", subscribe(value), 4400) for value in NO_QUERIES],
    *[row(f"the variables {value!r}", subscribe(variables=value), 4400) for value in NO_OBJECTS],
    *[row(f"the operationName {value!r}", subscribe(operationName=value), 4400) for value in NO_NAMES],
    *[row(f"the extensions {value!r}", subscribe(extensions=value), 4400) for value in NO_OBJECTS],
    row("null for what may be null", subscribe(variables=None, operationName=None, extensions=None), RUNS),
    row("a part that is unknown", subscribe(unknown=[1]), RUNS),
    row("an unknown document", {"type": "subscribe", "id": "1", "payload": {"documentId": "0" * 64}}, ERROR, 4400, DOCUMENT),
    row("no query and a malformed documentId", {"type": "subscribe", "id": "1", "payload": {"documentId": 5}}, 4400),
    row("a malformed documentId beside the query", subscribe(documentId=5), ERROR, RUNS, DOCUMENT),
    row("a malformed hash beside the query", subscribe(extensions={"persistedQuery": 5}), ERROR, RUNS, DOCUMENT),
    # What cannot be run is the error of its operation.
    row("an unknown operationName", subscribe(TWO, operationName="C"), ERROR),
    row("an unknown operationName of one operation", subscribe("query A { hello }", operationName="B"), ERROR),
    row("an ambiguous operationName", subscribe(TWO), ERROR),
    row("a known operationName", subscribe(TWO, operationName="B"), RUNS),
    row("an empty operationName", subscribe("query A { hello }", operationName=""), RUNS, ERROR, NAME),
    row("an empty operationName of two", subscribe(TWO, operationName=""), ERROR),
    row("an unknown field", subscribe("{ nothing }"), ERROR),
    row("a fragment alone", subscribe("fragment F on Query { hello }"), ERROR),
    row("a mutation where there are none", subscribe("mutation { hello }"), ERROR),
    row("a document that does not parse", subscribe("{"), ERROR, 4500, SYNTAX),
    row("an empty document", subscribe(""), ERROR, 4500, SYNTAX),
    # Lone surrogates.
    row("a lone surrogate in a variable", subscribe(TEXT, variables={"Text": "\ud83d"}), ERROR, RUNS, NOT_UTF8),
    row("a lone low surrogate", subscribe(TEXT, variables={"Text": "a\udc00b"}), ERROR, RUNS, NOT_UTF8),
    row("lone surrogates in a variable's list", subscribe(variables={"a": [{"b": "\ud83d"}]}), ERROR, RUNS, NOT_UTF8),
    row("a lone surrogate as a variable's name", subscribe(variables={"\ud83d": 1}), ERROR, RUNS, NOT_UTF8),
    row("a lone surrogate in the query", subscribe('{ hello(text: "\ud83d") }'), ERROR, 4500, SYNTAX),
    row("a lone surrogate in operationName", subscribe(operationName="\ud83d"), ERROR),
    row("a lone surrogate in extensions", subscribe(extensions={"a": "\ud83d"}), ERROR, RUNS, NOT_UTF8),
    row("a lone surrogate beside the payload", {**subscribe(), "\ud83d": "\ud83d"}, RUNS),
    row("a whole surrogate pair", json.dumps(subscribe(TEXT, variables={"Text": "😀"})), RUNS),
    # Numbers beyond a double.
    row("1e400 as an Int", raw_variable(INT, "Int", "1e400"), ERROR, RUNS, HUGE),
    row("1e400 as a Float", raw_variable(FLOAT, "Float", "1e400"), ERROR, RUNS, HUGE),
    row("-1e400 as a String", raw_variable(TEXT, "Text", "-1e400"), ERROR, RUNS, HUGE),
    row("5,000 digits as an Int", raw_variable(INT, "Int", "9" * 5_000), ERROR, RUNS, HUGE),
    row("5,000 digits as a Float", raw_variable(FLOAT, "Float", "9" * 5_000), ERROR, RUNS, HUGE),
    row("30 digits as a Float", raw_variable(FLOAT, "Float", "9" * 30), RUNS),
    row("30 digits where nothing takes them", raw_variable("{ hello }", "unused", "9" * 30), RUNS),
    row("1e400 where nothing takes it", raw_variable("{ hello }", "unused", "1e400"), ERROR, RUNS, HUGE),
    row("nested variables", json.dumps(subscribe(variables={"a": "?"})).replace('"?"', DEEP), RUNS),
    row("a number that is none", raw_variable(INT, "Int", "1e"), 4400),
    row(
        "1e400 for a subscription",
        raw_variable("subscription($n: Int) { wait(first: $n) }", "n", "1e400"),
        ERROR,
        ("next 1", "complete 1"),
        EARLY,
    ),
    *[
        row(f"{what} where a subscription does not use it", raw_variable("subscription { wait }", "unused", value), ("next 1",))
        for what, value in (("30 digits", "9" * 30), ("nesting", DEEP))
    ],
    row(
        "1e400 where a subscription does not use it",
        raw_variable("subscription { wait }", "unused", "1e400"),
        ERROR,
        ("next 1",),
        HUGE,
    ),
    # More than we take.
    row("a ping with 30,000 values", {"type": "ping", "payload": {"n": [0] * 30_000}}, 4400, None, BOUND),
    row("variables with 30,000 values", subscribe(variables={"n": [0] * 30_000}), ERROR, RUNS, BOUND),
    row("a message that is too large", {"type": "ping", "payload": {"text": "x" * 262_144}}, 4400, None, BOUND),
]


# -------------------------------------------------------------------------------------------------- the servers


@pytest_asyncio.fixture(scope="session")
async def ours() -> AsyncIterator[str]:
    """The address of our server, over a small schema."""

    async def none(_: Any) -> list[Any]:
        return []

    async def authenticate(websocket: WebSocket, payload: dict[str, Any]) -> Anyone:
        log.warning("a socket with %s and %s", websocket.headers.get("cookie"), payload)
        return Anyone()

    schema = strawberry.Schema(query=Query, subscription=Subscription)
    sockets = Sockets(Operations(DocumentStore(schema._schema)), authenticate, SocketLimits(), Revocations(none, 1.0))
    app = Starlette(routes=[WebSocketRoute("/graphql", sockets.serve)], middleware=[Middleware(RequestIdMiddleware)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", **websocket_protocol.UVICORN_OPTIONS))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)
    yield f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/graphql"
    server.should_exit = True
    await task


@pytest_asyncio.fixture(scope="session")
async def theirs() -> AsyncIterator[str]:
    """The address of the server that the protocol's author wrote, on Node."""
    command = [str(installed(CLIENTS)), str(CLIENTS / "reference" / "graphql-ws-server.mjs")]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env=environment())
    assert process.stdin and process.stdout
    async with asyncio.timeout(TIMEOUT_SECONDS):
        port = int(await process.stdout.readline())
    yield f"ws://127.0.0.1:{port}/graphql"
    process.stdin.close()
    await process.wait()


# ---------------------------------------------------------------------------------------------------- the tests


@asynccontextmanager
async def connected(address: str, *, inits: bool) -> AsyncIterator[ClientConnection]:
    """A socket, and where it is initialised an operation on it that goes on."""
    async with connect(address, subprotocols=[SUBPROTOCOL], max_size=None) as socket:  # type: ignore[list-item]
        if inits:
            for message, answer in ((INIT, "connection_ack"), (WAITING, "next waiting")):
                await socket.send(message)
                assert [await heard(socket)] == [answer]
        yield socket


async def heard(socket: ClientConnection) -> str | int:
    """The next message by its type and id, or the code of the close."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            message = json.loads(await socket.recv())
    except ConnectionClosed:
        return socket.close_code or 0
    if message["type"] == "pong" and "payload" in message:
        return f"pong {json.dumps(message['payload'])}"
    if message["type"] == "error":
        assert message["payload"] and all(error["message"] for error in message["payload"])
    return " ".join([message["type"], *([message["id"]] if "id" in message else [])])


async def answer_to(row: Row, address: str, expected: Answer) -> Answer:
    """What a server answers. Where that leaves the socket open, the operation beside it still runs."""
    async with connected(address, inits=row.inits) as socket:
        for message in row.sends:
            await socket.send(message)
        received = [await heard(socket) for _ in (() if isinstance(expected, int) else expected)]
        if not isinstance(expected, int):
            # Nothing else comes.
            await socket.send('{"type":"ping","payload":{"last":1}}')
        while (last := await heard(socket)) != 'pong {"last": 1}':
            if isinstance(last, int):
                return last
            received.append(last)
        if row.inits:
            # Its id is taken.
            await socket.send(WAITING)
            assert await heard(socket) == 4409
        return tuple(str(one) for one in received)


def named(row: Row) -> str:
    return ascii(row.name)[1:60]


@pytest.mark.parametrize("row", TABLE, ids=named)
async def test_server_follows_the_protocol_table(row: Row, ours: str) -> None:
    assert await answer_to(row, ours, row.answer) == row.answer


@pytest.mark.parametrize("row", [row for row in TABLE if row.theirs or not row.why], ids=named)
async def test_graphql_ws_follows_the_protocol_table(row: Row, theirs: str) -> None:
    assert bool(row.theirs) == bool(row.why)
    expected = row.answer if row.theirs is None else row.theirs
    assert await answer_to(row, theirs, expected) == expected


FEED = "subscription($c: ID!) { productFeed(configId: $c) { ... on ProductUpdated { product { title } } } }"
UPDATE = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { userErrors { message } } }"
SEARCH = "query($c: ID!, $s: String, $n: Int) { products(configId: $c, search: $s, first: $n) { totalCount } }"
FILTER = "query($c: ID!, $p: Decimal) { products(configId: $c, filter: { minPrice: $p }) { totalCount } }"


def shop_address(client: Client) -> str:
    return str(client.http.base_url).replace("http", "ws", 1).rstrip("/") + "/graphql"


async def test_feed_survives_operations_with_unusable_values(shopper: Client) -> None:
    user = await make_user(shopper.database)
    owner, store = shopper.signed_in(user), await make_store(shopper.database, user_id=user)
    product = await make_product(shopper.database, store)
    async with connect(shop_address(shopper), subprotocols=[SUBPROTOCOL]) as socket:  # type: ignore[list-item]
        await socket.send(INIT)
        assert await heard(socket) == "connection_ack"
        await socket.send(json.dumps(subscribe(FEED, "feed", variables={"c": store})))
        for id_, query, name, value in (
            ("1", SEARCH, "s", '"half \\ud83d"'),
            ("2", SEARCH, "c", '"\\udfff"'),
            ("3", SEARCH, "n", "1e400"),
            ("4", SEARCH, "n", "9" * 5_000),
            ("5", FILTER, "p", "-1e400"),
            ("6", FILTER, "p", "9" * 5_000),
            ("7", SEARCH, "s", DEEP),
        ):
            message = json.dumps(subscribe(query, id_, variables={"c": store, name: "?"} if name != "c" else {"c": "?"}))
            await socket.send(message.replace('"?"', value))
            answer = json.loads(await socket.recv())
            errors = answer["payload"] if answer["type"] == "error" else answer["payload"]["errors"]
            assert (answer["id"], [error["extensions"]["code"] for error in errors]) == (id_, ["BAD_USER_INPUT"]), answer
            assert name in errors[0]["message"]
            if answer["type"] == "next":
                assert await heard(socket) == f"complete {id_}"
        await owner.ask(UPDATE, i={"id": product, "title": "Still told"})
        event = json.loads(await socket.recv())
    assert (event["id"], event["payload"]["data"]["productFeed"]) == ("feed", {"product": {"title": "Still told"}})


async def test_long_id_is_answered_with_its_limit(ours: str) -> None:
    async with connected(ours, inits=True) as socket:
        await socket.send(json.dumps(subscribe(id_="i" * 1_000)))
        answer = json.loads(await socket.recv())
    [error] = answer["payload"]
    assert error["message"] == "The id of an operation is too long: at most 200 characters allowed, not 1,000."
    assert error["extensions"]["code"] == "LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        ('{"authorization":"Bearer \\ud83d"}', 4401),
        ('{"authorization":"\\ud83d"}', 4401),
        ('{"authorization":""}', "connection_ack"),
        ('{"authorization":1e400}', "connection_ack"),
        ('{"\\ud83d":"\\ud83d"}', "connection_ack"),
        (DEEP, "connection_ack"),
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_connection_init_answers_odd_credentials(shopper: Client, payload: str, answer: Answer) -> None:
    async with connect(shop_address(shopper), subprotocols=[SUBPROTOCOL]) as socket:  # type: ignore[list-item]
        await socket.send(f'{{"type":"connection_init","payload":{payload}}}')
        assert await heard(socket) == answer


async def test_socket_values_are_not_logged(ours: str, log_lines: list[dict[str, Any]]) -> None:
    cookie = {"cookie": "session=from-the-cookie"}
    async with connect(ours, subprotocols=[SUBPROTOCOL], additional_headers=cookie) as socket:  # type: ignore[list-item]
        await socket.send('{"type":"connection_init","payload":{"apiKey":"from-the-init"}}')
        assert await heard(socket) == "connection_ack"
        for id_, value in (("1", "from-a-variable"), ("2", "from-the-init"), ("3", "from-the-cookie")):
            await socket.send(json.dumps(subscribe(TEXT, id_, variables={"Text": value})))
            assert [await heard(socket), await heard(socket)] == [f"next {id_}", f"complete {id_}"]
    assert [line["message"] for line in log_lines if line["message"].startswith("hello")] == ["hello to [hidden]"] * 3
    assert "a socket with [hidden] and {'apiKey': '[hidden]'}" in [line["message"] for line in log_lines]
