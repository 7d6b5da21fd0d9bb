"""Client libraries over HTTP, the graphql-http audit, and typed documents generated from the schema."""

import asyncio
import json
import re
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from gql import Client as GQLClient
from gql import gql
from gql.client import AsyncClientSession
from gql.graphql_request import GraphQLRequest
from gql.transport.exceptions import TransportQueryError
from gql.transport.httpx import HTTPXAsyncTransport
from graphql import (
    FragmentDefinitionNode,
    FragmentSpreadNode,
    NameNode,
    OperationDefinitionNode,
    Visitor,
    parse,
    print_ast,
    visit,
)

from storefront.core.ids import uuid7
from tests.client import Client
from tests.clients.npm import CLIENTS, TIMEOUT_SECONDS, environment, installed, lines, marked
from tests.conftest import fresh, serving
from tests.factories import make_product, make_store, make_user
from tests.test_documents import PAGES, find_documents

ROOT = CLIENTS.parent
EXAMPLES = CLIENTS / "http"
GRAPHIQL_EXAMPLES = sorted((ROOT / "storefront" / "examples").glob("*.graphql"))
STORE = "query Store($id: ID!) { config(by: { id: $id }) { id storeName } }"
UPDATE = "mutation($input: UpdateProductInput!) { updateProduct(input: $input) { userErrors { message } } }"
JSON, NEW = "application/json", "application/graphql-response+json"


@pytest.fixture(scope="module")
def node() -> Path:
    return installed(EXAMPLES)


def address(client: Client) -> str:
    return str(client.http.base_url).rstrip("/") + "/graphql"


# ---------------------------------------------------------------------------------------------------- the audits


async def test_graphql_http_audit_passes(shopper: Client, node: Path) -> None:
    audits = await lines(node, str(EXAMPLES / "audit.mjs"), address(shopper))
    assert len(audits) == 61
    assert [audit for audit in audits if audit["status"] != "ok"] == []


async def test_newer_audit_fails_only_known_checks(postgres: str, template: str, node: Path, tmp_path: Path) -> None:
    async with serving(fresh(postgres, template), tmp_path, status_codes="2026-09") as client:
        audits = await lines(node, str(EXAMPLES / "audit.mjs"), address(client))
    differing = {audit["id"] for audit in audits if audit["status"] != "ok" and not audit["name"].startswith("MAY")}
    # Nothing that is a MUST. 422 for 400, the new type where the choice is left, and no 200 for what never ran.
    assert differing == {"86EE", "47DE", "80D8", "572B", "FDE2", "7B9B"}


# ----------------------------------------------------------------------------------------------------- npm clients


class Shop:
    """A store, its owner and a product of it."""

    def __init__(self, owner: Client, store: str, product: str) -> None:
        self.owner, self.store, self.product = owner, store, product

    async def change(self) -> None:
        """Send an event to the feed's listeners."""
        await self.owner.ask(UPDATE, input={"id": self.product, "description": str(uuid7())})


@pytest_asyncio.fixture
async def shop(shopper: Client) -> Shop:
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user, store_name="First name")
    product = await make_product(shopper.database, store)
    return Shop(shopper.signed_in(user), store, product)


async def driven(node: Path, name: str, shop: Shop, **more: str) -> tuple[Any, list[Any]]:
    """The result of an example and its requests. While it subscribes, a product is updated repeatedly."""
    options = {"url": address(shop.owner), "token": shop.owner.token, "id": shop.store, **more}
    command = [str(node), str(EXAMPLES / "drive.mjs"), name, json.dumps(options)]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environment())
    assert process.stdout and process.stderr
    changes = asyncio.create_task(_changed_for_ever(shop, process.stdout))
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            said = await changes
        assert said, (await process.stderr.read()).decode()
        return said["result"], said["sent"]
    finally:
        changes.cancel()
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _changed_for_ever(shop: Shop, output: asyncio.StreamReader) -> Any:
    coming = asyncio.create_task(output.readline())
    said = json.loads(await coming or "null")
    if said != {"ready": True}:
        return said
    coming = asyncio.create_task(output.readline())
    while not coming.done():
        await shop.change()
        await asyncio.wait({coming}, timeout=0.2)
    return json.loads(coming.result() or "null")


async def test_apollo_persisted_queries_send_the_text_once(node: Path, shop: Shop) -> None:
    result, sent = await driven(node, "apollo", shop)
    named = {"__typename": "Config", "id": shop.store}
    assert result["first"]["config"] == result["again"]["config"] == named | {"storeName": "First name"}
    assert result["renamed"]["updateConfig"]["userErrors"] == []
    # The answer of the mutation is what the cache has of the store.
    assert result["cached"]["config"] == named | {"storeName": "Renamed"}
    assert result["wrong"] == ["GRAPHQL_VALIDATION_FAILED"]
    expected = [("GET", False, 400), ("POST", True, 200), ("GET", False, 200), ("POST", True, 200), ("GET", False, 400)]
    assert [(one["method"], *one["texts"], one["status"]) for one in sent[:5]] == expected
    assert {one["type"] for one in sent} == {NEW}


async def test_apollo_batches_operations(node: Path, shop: Shop) -> None:
    result, sent = await driven(node, "apollo batching", shop)
    store = {"config": {"__typename": "Config", "id": shop.store, "storeName": "First name"}}
    user = {"me": {"__typename": "User", "id": await _me(shop)}}
    assert result["first"] == result["again"] == [store, user, ["GRAPHQL_VALIDATION_FAILED"]]
    # Three hashes that were not known, their texts, and again three, of which one is never known.
    assert sum(len(one["texts"]) for one in sent) == 3 + 3 + 3 + 1
    assert len(sent) < 10 and {one["status"] for one in sent} == {200}


async def test_apollo_subscribes_over_multipart(node: Path, shop: Shop) -> None:
    result, sent = await driven(node, "apollo subscription", shop)
    assert result == {"told": ["ProductUpdated"] * 2, "wrong": ["BAD_USER_INPUT"], "isProtocolError": False, "isGraphQL": True}
    assert [(one["status"], one["type"]) for one in sent] == [(200, "multipart/mixed")] * 2


async def test_urql_persisted_queries_and_sse_subscriptions(node: Path, shop: Shop) -> None:
    result, sent = await driven(node, "urql", shop)
    assert result["first"]["config"]["storeName"] == result["again"]["config"]["storeName"] == "First name"
    assert result["renamed"]["updateConfig"]["config"]["storeName"] == "Renamed"
    assert (result["wrong"], result["told"]) == (["GRAPHQL_VALIDATION_FAILED"], "ProductUpdated")
    assert ("GET", [False], 200) in [(one["method"], one["texts"], one["status"]) for one in sent]
    assert sent[-1]["type"] == "text/event-stream"


async def test_anonymous_apollo_and_urql_queries_are_cached(node: Path, postgres: str, template: str, tmp_path: Path) -> None:
    async with serving(fresh(postgres, template), tmp_path, response_cache_bytes=1_000_000) as shopper:
        store = await make_store(shopper.database, store_name="First name")
        result, sent = await driven(node, "by anybody", Shop(shopper, store, ""))
    assert result == ["First name"] * 4
    again = [one["kept"] for one in sent if one["method"] == "GET" and one["status"] == 200]
    assert again[-2:] == ["storefront; hit"] * 2


async def test_tanstack_query_paginates_by_cursor(node: Path, shop: Shop) -> None:
    for title in ("B", "C", "D", "E"):
        await make_product(shop.owner.database, shop.store, title=title)
    result, sent = await driven(node, "tanstack", shop)
    assert [len(page) for page in result["pages"]] == [2, 2, 1]
    assert {"B", "C", "D", "E"} < {title for page in result["pages"] for title in page}
    # A refusal is not tried again.
    assert (result["wrong"], len(sent)) == (["GRAPHQL_VALIDATION_FAILED"], 3 + 1 + 1)
    assert [one["config"]["id"] for one in result["batch"][:1]] == [shop.store]


@pytest_asyncio.fixture(scope="module")
async def strict(postgres: str, template: str, node: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server that accepts only Relay's document and the generated documents of GraphiQL's examples."""
    folder = tmp_path_factory.mktemp("strict")
    generated = await generate_typed_documents(node, folder, GRAPHIQL_EXAMPLES)
    (folder / "relay.json").write_text(json.dumps({"5e1f": STORE}))
    manifests = f"{folder / 'relay.json'}, {generated / 'persisted-documents.json'}"
    options: dict[str, Any] = {"trusted_documents": "only", "trusted_manifests": manifests}
    async with serving(fresh(postgres, template), folder, **options) as client:
        yield client


async def test_relay_sends_persisted_document_ids(node: Path, strict: Client) -> None:
    user = await make_user(strict.database)
    store = await make_store(strict.database, user_id=user, store_name="First name")
    shop = Shop(strict.signed_in(user), store, await make_product(strict.database, store))
    result, sent = await driven(node, "relay", shop, documentId="5e1f")
    assert result["data"] == {"config": {"id": store, "storeName": "First name"}}
    assert (result["stored"], result["unknown"]) == ("First name", "PERSISTED_QUERY_NOT_IN_LIST")
    assert [(one["texts"], one["status"], one["type"]) for one in sent] == [([False], 200, NEW), ([False], 400, NEW)]


# ----------------------------------------------------------------------------------------------------- Python's gql


async def test_python_gql_sends_single_and_batched_queries(shop: Shop) -> None:
    headers = {"authorization": f"Bearer {shop.owner.token}"}
    transport = HTTPXAsyncTransport(address(shop.owner), headers=headers)
    async with GQLClient(transport=transport, fetch_schema_from_transport=True) as session:
        assert isinstance(session, AsyncClientSession)
        asked = gql(STORE)
        asked.variable_values = {"id": shop.store}
        received = {"config": {"id": shop.store, "storeName": "First name"}}
        assert await session.execute(asked) == received
        assert await session.execute_batch([asked, gql("{ me { id } }")]) == [received, {"me": {"id": await _me(shop)}}]
        wrong = GraphQLRequest("query($id: ID!) { config(by: { id: $id }) { id } }", variable_values={"id": 1.5})
        with pytest.raises(TransportQueryError) as refused:
            await session.execute(wrong)
        assert refused.value.errors and refused.value.errors[0]["extensions"]["code"] == "BAD_USER_INPUT"


async def _me(shop: Shop) -> str:
    return str((await shop.owner.ask("{ me { id } }"))["me"]["id"])


# -------------------------------------------------------------------------------------------------- typed documents

USE = """
import { GraphQLClient } from 'graphql-request';
import { ProductPageDocument } from './gql/graphql';
import documents from './gql/persisted-documents.json';

const server = new GraphQLClient('http://127.0.0.1:8000/graphql');
export const known: number = Object.keys(documents).length;

export async function page(configId: string, handle: string): Promise<string | undefined> {
  const { product } = await server.request(ProductPageDocument, { configId, handle });
  const title: string | undefined = product?.title;
  // @ts-expect-error nobody selected it
  const wrong: unknown = product?.shoeSize;
  return title ?? String(wrong);
}
// @ts-expect-error a variable is missing
export const refused = () => server.request(ProductPageDocument, { handle: 'x' });
"""


async def generate_typed_documents(node: Path, folder: Path, documents: Sequence[Path]) -> Path:
    """The folder with the typed documents of these files."""
    paths = [str(path) for path in documents]
    options = {"schema": str(ROOT / "schema.graphql"), "documents": paths, "folder": str(folder / "gql")}
    await lines(node, str(EXAMPLES / "codegen.mjs"), json.dumps(options))
    return folder / "gql"


class Renaming(Visitor):
    """Gives operations and fragments names that are unique among all pages: the generator takes one set of documents."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix
        self.operations: list[str] = []

    def enter_operation_definition(self, node: OperationDefinitionNode, *_: object) -> OperationDefinitionNode:
        own_name = node.name.value if node.name else f"Operation{len(self.operations) + 1}"
        self.operations.append(f"{self.prefix}{own_name}")
        return replace(node, name=NameNode(value=self.operations[-1]))

    def enter_fragment_definition(self, node: FragmentDefinitionNode, *_: object) -> FragmentDefinitionNode:
        return replace(node, name=NameNode(value=f"{self.prefix}{node.name.value}"))

    def enter_fragment_spread(self, node: FragmentSpreadNode, *_: object) -> FragmentSpreadNode:
        return replace(node, name=NameNode(value=f"{self.prefix}{node.name.value}"))


def write_documents_of_pages(folder: Path) -> dict[Path, list[str]]:
    """Write the documents in the documentation to files; returns these with the names of their operations."""
    folder.mkdir()
    files = {}
    for path in PAGES:
        for number, text in enumerate(find_documents(path.read_text()), 1):
            name = "".join(word.capitalize() for word in re.findall("[a-z]+", path.stem.lower())) + f"{number}"
            renaming = Renaming(name)
            document = visit(parse(text), renaming)
            # Others are definitions of types.
            if renaming.operations:
                file = folder / f"{name}.graphql"
                file.write_text(print_ast(document))
                files[file] = renaming.operations
    return files


async def test_typed_documents_compile_in_strict_mode(node: Path, tmp_path: Path) -> None:
    of_pages = write_documents_of_pages(tmp_path / "documents")
    generated = await generate_typed_documents(node, tmp_path, [*GRAPHIQL_EXAMPLES, *of_pages])
    typed = set(re.findall(r"export const (\w+)Document = ", (generated / "graphql.ts").read_text()))
    operations = [name for names in of_pages.values() for name in names]
    assert len(operations) >= 39 and typed >= {*operations, "ProductPage"}
    (tmp_path / "shop.ts").write_text(USE)
    # Where the packages are found.
    (tmp_path / "node_modules").symlink_to(EXAMPLES / "node_modules")
    options = {
        "strict": True,
        "noEmit": True,
        "noUncheckedIndexedAccess": True,
        "exactOptionalPropertyTypes": True,
        "module": "esnext",
        "moduleResolution": "bundler",
        "resolveJsonModule": True,
        "target": "es2022",
        "lib": ["es2022", "dom", "dom.iterable"],
        "types": [],
    }
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["shop.ts", "gql/*.ts"]}))
    compiler = str(EXAMPLES / "node_modules" / "typescript" / "bin" / "tsc")
    process = await asyncio.create_subprocess_exec(str(node), compiler, "-p", str(tmp_path), stdout=PIPE, stderr=PIPE)
    said, complaints = await process.communicate()
    assert process.returncode == 0, said.decode() + complaints.decode()


async def test_server_accepts_generated_document_ids(strict: Client, node: Path, tmp_path: Path) -> None:
    generated = await generate_typed_documents(node, tmp_path, GRAPHIQL_EXAMPLES)
    manifest = json.loads((generated / "persisted-documents.json").read_text())
    assert len(manifest) == len(GRAPHIQL_EXAMPLES)
    for id_, text in manifest.items():
        assert id_.startswith("sha256:")
        answer = await strict.http.post("/graphql", json={"documentId": id_}, headers={"accept": JSON})
        for error in answer.json().get("errors", []):
            # Variables are missing, and who listens has to accept events.
            assert error["extensions"]["code"] in {"BAD_USER_INPUT", "BAD_REQUEST", "UNAUTHENTICATED"}, text


@pytest.mark.parametrize("name", ["apollo", "urql", "tanstack", "relay", "codegen"])
def test_guide_contains_the_examples(name: str) -> None:
    assert f"```js\n{marked(EXAMPLES / f'{name}.mjs')}\n```\n" in (ROOT / "docs" / "http.md").read_text()
