"""Request batching over HTTP."""

from typing import Any

import httpx
import pytest
from graphql import get_introspection_query

from tests.client import Client
from tests.factories import count_statements, make_store, make_user

ADD = "mutation($input: CreateProductInput!) { createProduct(input: $input) { product { id } userErrors { message } } }"
LIST = "query($id: ID!) { products(configId: $id) { totalCount nodes { title } } }"
SIGN_OUT = "mutation { signOutEverywhere(input: {}) { userErrors { message } } }"


async def batch(client: Client, *requests: Any, **headers: str) -> httpx.Response:
    token = {"authorization": f"Bearer {client.token}"} if client.token else {}
    return await client.http.post("/graphql", json=[*requests], headers=token | headers)


def asked(query: str, **variables: Any) -> dict[str, Any]:
    return {"query": query, "variables": variables}


def codes(answer: httpx.Response) -> list[str | None]:
    return [one["errors"][0]["extensions"]["code"] if "errors" in one else None for one in answer.json()]


async def test_batch_responses_are_in_request_order(shopper: Client) -> None:
    stores = [await make_store(shopper.database) for _ in range(5)]
    answer = await batch(shopper, *(asked("query($id: ID!) { config(by: {id: $id}) { id } }", id=id_) for id_ in stores))
    assert answer.status_code == 200
    assert answer.json() == [{"data": {"config": {"id": id_}}} for id_ in stores]


@pytest.mark.parametrize("accept", ["application/json", "application/graphql-response+json"])
async def test_batch_isolates_failing_requests(shopper: Client, accept: str) -> None:
    good = asked("{ __typename }")
    bad = [
        asked("{"),
        asked("{ shoeSize }"),
        {"query": 1},
        "text",
        None,
        asked('subscription { productFeed(configId: "x") { __typename } }'),
        {"query": "query A { __typename } query B { __typename }"},
    ]
    answer = await batch(shopper, good, *bad, good, accept=accept)
    assert (answer.status_code, answer.headers["content-type"]) == (200, f"{accept}; charset=utf-8")
    failures = ["GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", *["BAD_REQUEST"] * 4, "BAD_USER_INPUT"]
    assert codes(answer) == [None, *failures, None]
    for one in answer.json()[1:-1]:
        assert one["errors"][0]["extensions"]["requestId"] == answer.headers["x-request-id"]
        assert "data" not in one


@pytest.mark.parametrize(("body", "received"), [([], "one to 10"), ([{"query": "{ __typename }"}] * 11, "one to 10")])
async def test_batch_has_one_to_ten_requests(shopper: Client, body: list[Any], received: str) -> None:
    answer = await batch(shopper, *body)
    assert answer.status_code == 400
    assert received in answer.json()["errors"][0]["message"]


PAGE = 'products(configId: "018f0000-0000-7000-8000-000000000001", filter: {ids: $x}) { totalCount }'
IDS = "id title handle price status version"
COSTLY = f"{{ configs(first: 100) {{ nodes {{ products(first: 100) {{ nodes {{ {IDS} }} }} }} }} }}"


@pytest.mark.parametrize(
    ("request_", "limit", "allowed"),
    [
        (asked(get_introspection_query()), "introspection", 1),
        (asked("query($x: [ID!]) { " + " ".join(f"a{n}: {PAGE}" for n in range(9)) + " }", x=["x"] * 100), "inputItems", 2),
        (asked(COSTLY), "cost", 1),
    ],
)
async def test_batch_is_limited_as_one_operation(shopper: Client, request_: Any, limit: str, allowed: int) -> None:
    answer = await batch(shopper, *[request_] * 4, asked("{ __typename }"))
    refused = [one["errors"][0]["extensions"].get("limit") if "errors" in one else None for one in answer.json()]
    assert refused == [None] * allowed + [limit] * (4 - allowed) + [None]
    assert "The operations of a batch are counted together" in answer.json()[allowed]["errors"][0]["message"]


async def test_batch_of_ten_pages_is_served(shopper: Client) -> None:
    store = await make_store(shopper.database)
    page = asked(
        "query($id: ID!) { " + " ".join(f"a{n}: products(configId: $id) {{ totalCount }}" for n in range(6)) + " }", id=store
    )
    assert codes(await batch(shopper, *[page] * 10)) == [None] * 10


async def test_batch_runs_mutations_in_order(client: Client) -> None:
    user = await make_user(client.database)
    store = await make_store(client.database, user_id=user)
    add = [asked(ADD, input={"configId": store, "title": f"Chair {n}", "price": "5"}) for n in range(3)]
    read = asked(LIST, id=store)
    answer = await batch(client.signed_in(user), read, add[0], read, add[1], add[2], read)
    assert codes(answer) == [None] * 6
    assert [answer.json()[n]["data"]["products"]["totalCount"] for n in (0, 2, 5)] == [0, 1, 3]
    assert [row["title"] for row in answer.json()[5]["data"]["products"]["nodes"]][::-1] == ["Chair 0", "Chair 1", "Chair 2"]


async def test_batch_sign_out_applies_to_later_requests(client: Client) -> None:
    user = await make_user(client.database)
    answer = await batch(client.signed_in(user), asked("{ me { id } }"), asked(SIGN_OUT), asked("{ me { id } }"))
    assert codes(answer) == [None, None, "UNAUTHENTICATED"]


async def test_batch_authenticates_once_with_separate_loaders(client: Client) -> None:
    user = await make_user(client.database)
    store = await make_store(client.database, user_id=user)
    query = asked("query($id: ID!) { config(by: {id: $id}) { id } }", id=store)
    costs = {}
    for who in (client, client.signed_in(user)):
        for size in (1, 3):
            with count_statements(client.database) as statements:
                assert codes(await batch(who, *[query] * size)) == [None] * size
            costs[who.token is None, size] = len(statements)
    assert costs[True, 3] == 3 * costs[True, 1] > 0
    assert costs[False, 3] - costs[False, 1] == costs[True, 3] - costs[True, 1]


async def test_batch_with_invalid_credentials_is_refused(shopper: Client) -> None:
    answer = await batch(Client(shopper.http, shopper.database, "nonsense"), asked("{ __typename }"), asked("{ __typename }"))
    assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (401, "UNAUTHENTICATED")


async def test_batch_response_is_json(shopper: Client) -> None:
    answer = await batch(shopper, asked("{ __typename }"), accept="text/event-stream")
    assert answer.status_code == 406
