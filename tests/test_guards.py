"""Mutations without a viewer are refused before any of their input is coerced."""

from typing import Any

import pytest

from benchmarks.attacks import KEY
from storefront.execution.guards import GUARD_EXTENSION_KEY
from storefront.schema import schema
from tests.client import Client
from tests.factories import count_statements, make_store, make_user

UPDATE = "mutation($i: UpdateProfileInput!) { updateProfile(input: $i) { userErrors { message } } }"
# Each would be an error of coercion.
INVALID_INPUTS: list[Any] = [None, {}, {"name": 5}, {"unknown": 1}, [], "x", {"clientMutationId": {"a": [1]}}]


def test_all_mutations_but_track_events_are_guarded() -> None:
    mutation_type = schema._schema.mutation_type
    assert mutation_type
    unguarded = [name for name, field in mutation_type.fields.items() if GUARD_EXTENSION_KEY not in field.extensions]
    assert unguarded == ["trackEvents"]


@pytest.mark.parametrize("value", INVALID_INPUTS)
async def test_input_of_anonymous_mutation_is_not_coerced(shopper: Client, value: Any) -> None:
    with count_statements(shopper.database) as statements:
        answer = (await shopper.post(UPDATE, i=value)).json()
    (error,) = answer["errors"]
    assert (error["extensions"]["code"], error["path"]) == ("UNAUTHENTICATED", ["updateProfile"])
    assert answer["data"] == {"updateProfile": None} and error["locations"] and not statements


@pytest.mark.parametrize(
    "query",
    [
        "mutation($i: UpdateProfileInput!, $e: TrackEventsInput!) { a: trackEvents(input: $e) { recorded } ...F } "
        "fragment F on Mutation { b: updateProfile(input: $i) { replayed } }",
        "mutation($i: UpdateProfileInput!, $e: TrackEventsInput!) { ... on Mutation { b: updateProfile(input: $i) { replayed } } "
        "... { a: trackEvents(input: $e) { recorded } } }",
    ],
)
async def test_other_mutations_of_the_operation_are_executed(shopper: Client, query: str) -> None:
    events = {"configId": await make_store(shopper.database), "consent": True, "events": [{"event": "seen"}]}
    answer = (await shopper.post(query, i={"name": 5}, e=events)).json()
    (error,) = answer["errors"]
    assert (error["extensions"]["code"], error["path"]) == ("UNAUTHENTICATED", ["b"])
    assert answer["data"] == {"a": {"recorded": 1}, "b": None}
    # Their own input is coerced as ever.
    refused = (await shopper.post(query, i={"name": 5}, e={**events, "events": 5})).json()
    assert refused["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT" and "data" not in refused


async def test_conditions_of_refused_mutations_apply(shopper: Client) -> None:
    query = (
        "mutation($i: UpdateProfileInput!, $b: Boolean!) { updateProfile(input: $i) @include(if: $b) { replayed } __typename }"
    )
    assert await shopper.ask(query, i={}, b=False) == {"__typename": "Mutation"}


async def test_input_of_a_viewer_is_coerced_after_a_refusal(shopper: Client) -> None:
    viewer = shopper.signed_in(await make_user(shopper.database))
    for _ in range(2):
        assert (await shopper.refusal(UPDATE, i={"name": "A"}))["extensions"]["code"] == "UNAUTHENTICATED"
        assert (await viewer.refusal(UPDATE, i={"name": 5}))["extensions"]["code"] == "BAD_USER_INPUT"
        assert (await viewer.ask(UPDATE, i={"name": "A"}))["updateProfile"]["userErrors"] == []


async def test_guard_holds_for_an_unknown_store(shopper: Client) -> None:
    query = f'mutation {{ deleteConfig(input: {{id: "{KEY}"}}) {{ deletedId }} }}'
    assert (await shopper.refusal(query))["extensions"]["code"] == "UNAUTHENTICATED"
