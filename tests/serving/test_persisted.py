"""Documents by their hashes and ids: Apollo's automatic persisted queries, and manifests of trusted documents."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from storefront.cli.main import app
from storefront.core.ids import uuid7
from storefront.core.settings import Settings
from storefront.schema import build_document_store
from storefront.serving.documents.document_store import MAX_CACHED_CHARACTERS, PersistedQueryNotFoundError, PreparedDocument
from storefront.serving.documents.manifests import ManifestError, load_manifests
from storefront.serving.http.graphql_request import GraphQLRequest, hash_document
from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import make_store

NOT_FOUND = ("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound")
STORE = "query Store($id: ID!) { config(by: {id: $id}) { id } }"
OTHER = "query Other { me { id } }"
FEED = "subscription Feed($id: ID!) { productFeed(configId: $id) { __typename } }"


def new() -> str:
    """A document that nobody has sent before."""
    return f"# {uuid7()}\n{{ __typename }}"


def persisted(hash_: str, **more: Any) -> dict[str, Any]:
    return {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": hash_}}, **more}


async def post(client: Client, body: Any) -> httpx.Response:
    return await client.http.post("/graphql", json=body)


async def get(client: Client, given: dict[str, Any]) -> httpx.Response:
    encoded = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return await client.http.get("/graphql", params=encoded)


def refusal(answer: httpx.Response) -> tuple[str, str]:
    (error,) = answer.json()["errors"]
    return error["extensions"]["code"], error["message"]


# ------------------------------------------------------------------------------------------- automatic ones


@pytest.mark.parametrize("send", [post, get])
async def test_hash_is_known_after_its_text(shopper: Client, send: Callable[..., Any]) -> None:
    text = new()
    asked = persisted(hash_document(text))
    assert refusal(await send(shopper, asked)) == NOT_FOUND
    for given in (
        asked | {"query": text},
        asked,
        {"documentId": hash_document(text)},
        {"documentId": f"sha256:{hash_document(text)}"},
    ):
        assert (await send(shopper, given)).json() == {"data": {"__typename": "Query"}}


async def test_hash_accepts_variables_but_no_get_mutation(shopper: Client) -> None:
    store = await make_store(shopper.database)
    text = f"# {uuid7()}\n{STORE}"
    assert (await post(shopper, persisted(hash_document(text), query=text, variables={"id": store}))).status_code == 200
    answer = await get(shopper, persisted(hash_document(text), variables={"id": store}, operationName="Store"))
    assert answer.json() == {"data": {"config": {"id": store}}}
    mutation = f"# {uuid7()}\nmutation {{ __typename }}"
    await post(shopper, persisted(hash_document(mutation), query=mutation))
    assert (await get(shopper, persisted(hash_document(mutation)))).status_code == 405


async def test_hash_must_match_the_text(shopper: Client) -> None:
    text, other = new(), new()
    code, message = refusal(await post(shopper, persisted(hash_document(other), query=text)))
    assert code == "BAD_REQUEST" and "SHA-256" in message
    assert refusal(await post(shopper, persisted(hash_document(other)))) == NOT_FOUND


async def test_invalid_document_is_not_cached(shopper: Client) -> None:
    text = f"{{ nothing{uuid7().hex} }}"
    assert refusal(await post(shopper, persisted(hash_document(text), query=text)))[0] == "GRAPHQL_VALIDATION_FAILED"
    assert refusal(await post(shopper, persisted(hash_document(text)))) == NOT_FOUND


@pytest.mark.parametrize(
    "extensions",
    [{"persistedQuery": 1}, {"persistedQuery": {"sha256Hash": "a"}}, {"persistedQuery": {"version": 2, "sha256Hash": "a"}}, []],
)
async def test_malformed_hash_is_refused(shopper: Client, extensions: Any) -> None:
    assert refusal(await post(shopper, {"query": "{ __typename }", "extensions": extensions}))[0] == "BAD_REQUEST"


async def test_id_beside_a_query_is_ignored(shopper: Client) -> None:
    assert (await post(shopper, {"query": "{ __typename }", "id": 7})).json() == {"data": {"__typename": "Query"}}


async def test_batch_accepts_hashes(shopper: Client) -> None:
    text = new()
    answer = await post(shopper, [persisted(hash_document(text)), {"query": text}, persisted(hash_document(text))])
    assert [one.get("data") for one in answer.json()] == [None, {"__typename": "Query"}, {"__typename": "Query"}]
    assert (await post(shopper, [persisted(hash_document(text))])).json() == [{"data": {"__typename": "Query"}}]


@pytest.mark.parametrize(("accept", "status"), [("application/json", 200), ("application/graphql-response+json", 400)])
async def test_unknown_hash_has_status_of_media_type(shopper: Client, accept: str, status: int) -> None:
    answer = await shopper.http.post("/graphql", json=persisted(hash_document(new())), headers={"accept": accept})
    assert (answer.status_code, "data" in answer.json()) == (status, False)


def find(known: Any, **request: Any) -> PreparedDocument:
    found: PreparedDocument = known.find_document(GraphQLRequest(**{"query": None, **request}))
    return found


def test_document_cache_bounds_memory() -> None:
    known = build_document_store(Settings())
    texts = [f"query Q{n} {{ __typename }}".ljust(MAX_CACHED_CHARACTERS // 4, "#") for n in range(6)]
    for text in texts:
        find(known, query=text, document_id=hash_document(text))
    for text in texts[:2]:
        with pytest.raises(PersistedQueryNotFoundError):
            find(known, document_id=hash_document(text))
    assert [find(known, document_id=hash_document(text)).hash for text in texts[2:]] == [
        hash_document(text) for text in texts[2:]
    ]


async def test_persisted_queries_can_be_switched_off(postgres: str, template: str, tmp_path: Path) -> None:
    text = new()
    async with serving(fresh(postgres, template), tmp_path, persisted_queries=False) as client:
        for body in (persisted(hash_document(text)), persisted(hash_document(text), query=text)):
            assert refusal(await post(client, body)) == ("PERSISTED_QUERY_NOT_SUPPORTED", "PersistedQueryNotSupported")
        assert (await post(client, {"query": text})).status_code == 200


# ------------------------------------------------------------------------------------------------- trusted ones


def manifests(folder: Path) -> str:
    """Three manifests as three tools write them, with the ids relay, codegen and the hash of FEED."""
    apollo = {
        "format": "apollo-persisted-query-manifest",
        "version": 1,
        "operations": [{"id": hash_document(FEED), "name": "Feed", "type": "subscription", "body": FEED}],
    }
    contents = {"relay.json": {"relay": STORE}, "codegen.json": {"codegen": OTHER}, "apollo.json": apollo}
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    return ", ".join(str(folder / name) for name in contents)


@pytest_asyncio.fixture(scope="module")
async def strict(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server that runs trusted documents only."""
    folder = tmp_path_factory.mktemp("trusted")
    options: dict[str, Any] = {"trusted_documents": "only", "trusted_manifests": manifests(folder)}
    async with serving(fresh(postgres, template), folder, **options) as client:
        yield client


@pytest.mark.parametrize(
    "given",
    [
        {"documentId": "relay"},
        {"id": "relay"},
        {"documentId": hash_document(STORE)},
        {"documentId": f"sha256:{hash_document(STORE)}"},
        persisted(hash_document(STORE)),
        persisted(hash_document(STORE), query=STORE),
        {"query": STORE},
        {"documentId": "relay", "query": STORE},
    ],
    ids=str,
)
@pytest.mark.parametrize("send", [post, get])
async def test_trusted_document_runs_by_any_kind_of_id(strict: Client, send: Callable[..., Any], given: Any) -> None:
    store = await make_store(strict.database)
    assert (await send(strict, {**given, "variables": {"id": store}})).json() == {"data": {"config": {"id": store}}}


@pytest.mark.parametrize(
    ("given", "code", "received"),
    [
        ({"query": "{ me { id } }"}, "PERSISTED_QUERY_NOT_IN_LIST", "trusted documents are run here"),
        ({"query": "query { __typename }"}, "PERSISTED_QUERY_NOT_IN_LIST", "trusted documents are run here"),
        ({"query": "{"}, "PERSISTED_QUERY_NOT_IN_LIST", "trusted documents are run here"),
        ({"documentId": "other"}, "PERSISTED_QUERY_NOT_IN_LIST", "'other'"),
        (
            persisted(hash_document("{ me { id } }"), query="{ me { id } }"),
            "PERSISTED_QUERY_NOT_IN_LIST",
            hash_document("{ me { id } }"),
        ),
        ({"documentId": "relay", "query": OTHER}, "BAD_REQUEST", "SHA-256"),
    ],
    ids=str,
)
async def test_untrusted_document_is_refused(strict: Client, given: Any, code: str, received: str) -> None:
    for send in (post, get):
        found, message = refusal(await send(strict, given))
        assert found == code and received in message
    events = await strict.http.post("/graphql", json=given, headers={"accept": "text/event-stream"})
    assert code in events.text and 'data: {"data"' not in events.text


async def test_trusted_documents_apply_to_sockets_and_events(strict: Client) -> None:
    store = await make_store(strict.database)
    address = str(strict.http.base_url).replace("http", "ws").rstrip("/") + "/graphql"
    async with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")]) as socket:
        await socket.send('{"type": "connection_init"}')
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        for payload, kind in (
            ({"query": "{ me { id } }"}, "error"),
            ({"query": FEED.replace("__typename", "... on FeedReset { position }"), "variables": {"id": store}}, "error"),
            ({"documentId": "relay", "variables": {"id": store}}, "next"),
            (persisted(hash_document(OTHER)), "next"),
        ):
            await socket.send(json.dumps({"type": "subscribe", "id": str(uuid7()), "payload": payload}))
            message = json.loads(await socket.recv())
            assert message["type"] == kind
            if kind == "error":
                assert message["payload"][0]["extensions"]["code"] == "PERSISTED_QUERY_NOT_IN_LIST"
            else:
                assert json.loads(await socket.recv())["type"] == "complete"
    asked = persisted(hash_document(FEED), variables={"id": store})
    async with strict.http.stream("POST", "/graphql", json=asked, headers={"accept": "text/event-stream"}) as response:
        assert response.status_code == 200


async def test_dashboard_is_trusted_and_graphiql_is_off(strict: Client) -> None:
    page = await strict.http.get("/dashboard/some-store")
    settings = json.loads(page.text.partition('<script id="settings" type="application/json">')[2].partition("</script>")[0])
    assert set(settings["documents"]) == {"store", "report", "live"}
    for text in settings["documents"].values():
        first, *_ = (await post(strict, {"query": text})).json()["errors"]
        # It is known; its variables are missing, or who listens has to accept events.
        assert first["extensions"]["code"] in {"BAD_USER_INPUT", "BAD_REQUEST"}
    answer = await strict.http.get("/graphql", headers={"accept": "text/html,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json; charset=utf-8")


async def test_trusted_ids_work_beside_other_documents(postgres: str, template: str, tmp_path: Path) -> None:
    async with serving(fresh(postgres, template), tmp_path, trusted_manifests=manifests(tmp_path)) as client:
        assert (await post(client, {"id": "codegen"})).json() == {"data": {"me": None}}
        assert (await post(client, {"query": "{ me { id } }"})).json() == {"data": {"me": None}}
        assert refusal(await post(client, {"id": "other"})) == NOT_FOUND


def test_trusted_document_is_prepared_once(tmp_path: Path) -> None:
    known = build_document_store(Settings(trusted_manifests=manifests(tmp_path)))
    first = find(known, document_id="relay")
    for n in range(5):
        known.find_document(GraphQLRequest(f"query Q{n} {{ __typename }}".ljust(MAX_CACHED_CHARACTERS // 4, "#")))
    for request in ({"document_id": "relay"}, {"document_id": hash_document(STORE)}, {"query": STORE}):
        assert find(known, **request) is first


def test_invalid_trusted_documents_are_named_at_start(tmp_path: Path) -> None:
    file = tmp_path / "documents.json"
    file.write_text(json.dumps({"good": OTHER, "bad": "query Bad { shoeSize }", "worse": "query Worse {"}))
    with pytest.raises(ManifestError) as refused:
        build_document_store(Settings(trusted_manifests=str(file)))
    first, *rest = str(refused.value).splitlines()
    assert first == "Trusted documents do not fit the schema:"
    assert [line.split(": ")[0] for line in rest] == ["bad (query Bad)", "worse (query Worse)"]
    assert "Cannot query field 'shoeSize'" in rest[0] and "Syntax Error" in rest[1]


@pytest.mark.parametrize(
    ("content", "received"),
    [
        ("{", "is not JSON"),
        ("[]", "is no manifest"),
        ('{"a": 1}', "is no manifest"),
        ('{"format": "apollo-persisted-query-manifest", "version": 2, "operations": []}', "version 2"),
        ('{"format": "apollo-persisted-query-manifest", "version": 1, "operations": [{"id": "a"}]}', "is no manifest"),
        ('{"format": "apollo-persisted-query-manifest", "version": 1, "operations": [{"id": "a", "body": 1}]}', "is no manifest"),
        (
            '{"format": "apollo-persisted-query-manifest", "version": 1, '
            '"operations": [{"id": "a", "body": "{a}"}, {"id": "a", "body": "{b}"}]}',
            "two documents under the id 'a'",
        ),
    ],
)
def test_invalid_manifest_is_an_error(tmp_path: Path, content: str, received: str) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(content)
    with pytest.raises(ManifestError, match=received) as refused:
        load_manifests([file])
    assert str(file) in str(refused.value)


def test_manifests_must_exist_and_agree(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read: No such file"):
        load_manifests([tmp_path / "none.json"])
    for name, text in (("a.json", OTHER), ("b.json", STORE)):
        (tmp_path / name).write_text(json.dumps({"one": text}))
    with pytest.raises(ManifestError, match=r"b\.json: another manifest has another document under the id 'one'"):
        load_manifests([tmp_path / "a.json", tmp_path / "b.json"])


def test_trusted_only_mode_needs_manifests() -> None:
    with pytest.raises(ValidationError, match="must be set with STOREFRONT_TRUSTED_DOCUMENTS=only"):
        Settings(trusted_documents="only")
    assert Settings(database_url=SecretStr("x")).trusted_documents == "allow"


def test_server_refuses_to_start_with_invalid_manifest(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "documents.json"
    file.write_text(json.dumps({"bad": "query Bad { shoeSize }"}))
    options = Settings(database_url=SecretStr(empty_url), data_dir=tmp_path, trusted_manifests=str(file))
    monkeypatch.setattr("storefront.cli.support.get_settings", lambda: options)
    for command, received in (("serve", "bad (query Bad)"), ("doctor", "bad (query Bad)")):
        result = CliRunner().invoke(app, [command])
        assert result.exit_code == 1
        assert received in result.output
