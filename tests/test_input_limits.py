"""Input limits apply to every list, string and JSON value in the inputs of the schema.

The inputs are read from the schema, so that new arguments are covered, too.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
import pytest
import strawberry
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLNamedType,
    get_named_type,
    get_nullable_type,
    is_composite_type,
    is_input_object_type,
    is_list_type,
    is_object_type,
    is_required_argument,
    is_required_input_field,
)

from storefront.core.errors import InputTooLarge
from storefront.execution.batch_field import get_batch_resolver
from storefront.execution.strawberry_adapter import DEFINITION_EXTENSION_KEY, get_plain_method
from storefront.graph.limits import declare_limits
from storefront.schema import schema
from storefront.serving.documents.document_store import DocumentStore, NotExecutableError
from storefront.serving.documents.input_limits import LIMIT_EXTENSION_KEY
from storefront.serving.documents.limits import DocumentLimits
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.run.operations import Operations

SCHEMA = schema._schema
ROOTS = [type_ for type_ in (SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type) if type_]
KEY = "018f0000-0000-7000-8000-000000000000"

SAMPLES: Mapping[str, Any] = {
    "ID": KEY,
    "String": "x",
    "Int": 1,
    "Float": 1.5,
    "Boolean": True,
    "Decimal": "1",
    "Position": "1",
    "CurrencyCode": "EUR",
    "FileSize": 1,
    "DateTime": "2026-11-22T10:00:00Z",
    "JSON": {},
}


@dataclass(frozen=True)
class Place:
    """An input: the fields that lead to its field, the argument, and the path through input objects."""

    fields: tuple[tuple[GraphQLNamedType, str], ...]
    argument: str
    path: tuple[str, ...]
    definition: Any

    def __str__(self) -> str:
        """The name of its test."""
        return ".".join((self.fields[-1][0].name, self.fields[-1][1], self.argument, *self.path))

    @property
    def name(self) -> str:
        """As errors name it."""
        return ".".join((self.argument, *self.path))


def fields_of(type_: Any) -> Mapping[str, GraphQLField]:
    return type_.fields if is_object_type(type_) else {}


@cache
def ways() -> Mapping[str, tuple[tuple[GraphQLNamedType, str], ...]]:
    """The shortest path from a root type to each object type."""
    found: dict[str, tuple[tuple[GraphQLNamedType, str], ...]] = {root.name: () for root in ROOTS}
    left: deque[Any] = deque(ROOTS)
    while left:
        type_ = left.popleft()
        for name, field in fields_of(type_).items():
            inner = get_named_type(field.type)
            if is_object_type(inner) and inner.name not in found:
                found[inner.name] = (*found[type_.name], (type_, name))
                left.append(inner)
    return found


def places() -> Iterator[Place]:
    """All inputs of the schema; each input type occurs once."""
    for type_ in SCHEMA.type_map.values():
        for name, field in ({} if type_.name.startswith("__") else fields_of(type_)).items():
            for argument, one in field.args.items():
                yield from _inside(Place((*ways()[type_.name], (type_, name)), argument, (), one), frozenset())


def _inside(place: Place, around: frozenset[str]) -> Iterator[Place]:
    yield place
    inner = get_named_type(place.definition.type)
    if is_input_object_type(inner) and inner.name not in around:
        step = ("0",) if is_list_type(get_nullable_type(place.definition.type)) else ()
        for name, field in inner.fields.items():
            yield from _inside(Place(place.fields, place.argument, (*place.path, *step, name), field), around | {inner.name})


def sample(type_: Any) -> Any:
    """A minimal value of an input type: required fields only."""
    inner: Any = get_nullable_type(type_)
    if is_list_type(inner):
        return [sample(inner.of_type)]
    if isinstance(inner, GraphQLEnumType):
        return Name(next(iter(inner.values)))
    if isinstance(inner, GraphQLInputObjectType):
        found = {name: sample(field.type) for name, field in inner.fields.items() if is_required_input_field(field)}
        return found or ({"id": KEY} if inner.is_one_of else {})
    return SAMPLES[inner.name]


class Name(str):
    """The name of an enum's value."""

    __slots__ = ()


def with_value(type_: Any, path: tuple[str, ...], value: Any) -> Any:
    """A sample with a value at a path."""
    if not path:
        return value
    inner: Any = get_nullable_type(type_)
    if path[0] == "0":
        return [with_value(inner.of_type, path[1:], value)]
    around = {} if inner.is_one_of else sample(inner)
    return {**around, path[0]: with_value(inner.fields[path[0]].type, path[1:], value)}


def literal(value: Any) -> str:
    """The value as a GraphQL literal."""
    if isinstance(value, Name):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {literal(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return orjson.dumps(value).decode()


def request_of(place: Place, value: Any, *, as_variable: bool) -> GraphQLRequest:
    """A request with a value for an input, as a variable or as a literal."""
    document, variables = "", {}
    for type_, name in reversed(place.fields):
        field, arguments = fields_of(type_)[name], {}
        for argument, one in field.args.items():
            if (type_, name) == place.fields[-1] and argument == place.argument:
                whole = with_value(one.type, place.path, value)
                variables = {"v": whole} if as_variable else {}
                arguments[argument] = "$v" if as_variable else literal(whole)
                declared = f"($v: {one.type})" if as_variable else ""
            elif is_required_argument(one):
                arguments[argument] = literal(sample(one.type))
        argument_text = f"({', '.join(f'{one}: {text}' for one, text in arguments.items())})" if arguments else ""
        below = document or ("{ __typename }" if is_composite_type(get_named_type(field.type)) else "")
        document = f"{{ {name}{argument_text} {below} }}"
    root = place.fields[0][0]
    kind = next(word for word in ("query", "mutation", "subscription") if word == root.name.lower())
    return GraphQLRequest(f"{kind} {declared} {document}", orjson.loads(orjson.dumps(variables, default=str)))


DOCUMENT_LIMITS = DocumentLimits(characters=10**8, tokens=10**7, cost=10**9)


def refusal_of(request: GraphQLRequest) -> InputTooLarge | None:
    """The error for an input that is too large, raised before execution."""
    try:
        # New ones, as each of them belongs to an event loop.
        asyncio.run(Operations(DocumentStore(SCHEMA, limits=DOCUMENT_LIMITS)).prepare(request))
    except InputTooLarge as error:
        return error
    except NotExecutableError as refused:
        (first,) = refused.errors
        assert first.locations
        assert isinstance(first.original_error, InputTooLarge), first
        return first.original_error
    return None


PLACES = list(places())
LISTS = [place for place in PLACES if is_list_type(get_nullable_type(place.definition.type))]
TEXTS = [place for place in PLACES if get_named_type(place.definition.type).name in ("String", "ID", "JSON")]
WRITTEN = [place for place in TEXTS if place.fields[0][0] is SCHEMA.mutation_type]
# Parsing long literals is slow, and stored documents may be long: one case suffices.
IN_DOCUMENTS = [place for place in TEXTS if place not in WRITTEN or str(place) == "Mutation.createProduct.input.tags"]


def test_inputs_with_lists_and_texts_are_found() -> None:
    assert {"Product.variant.by.attributes", "Mutation.trackEvents.input.events"} <= set(map(str, LISTS))
    assert {"Config.predictiveSearch.search", "Mutation.trackEvents.input.events.0.properties"} <= set(map(str, TEXTS))


@pytest.mark.parametrize("as_variable", [True, False], ids=["variable", "literal"])
@pytest.mark.parametrize("place", LISTS, ids=str)
def test_lists_beyond_their_limit_are_rejected(place: Place, *, as_variable: bool) -> None:
    limit = place.definition.extensions[LIMIT_EXTENSION_KEY].items
    item = sample(get_nullable_type(place.definition.type).of_type)
    assert refusal_of(request_of(place, [item] * limit, as_variable=as_variable)) is None
    refused = refusal_of(request_of(place, [item] * (limit + 1), as_variable=as_variable))
    assert refused is not None
    assert str(refused) == f"{place.name}: must have at most {limit:,} items, not {limit + 1:,}."
    assert refused.code == "BAD_USER_INPUT"
    assert refused.details == {"field": place.name, "limit": "items", "maximum": limit, "found": limit + 1}
    assert f"{limit:,} items" in place.definition.description


def text_of(place: Place, characters: int) -> Any:
    name, text = get_named_type(place.definition.type).name, "x" * characters
    value = {"a": text} if name == "JSON" else text
    return [value] if is_list_type(get_nullable_type(place.definition.type)) else value


@pytest.mark.parametrize(
    ("place", "as_variable"), [*((place, True) for place in TEXTS), *((place, False) for place in IN_DOCUMENTS)], ids=str
)
def test_texts_beyond_their_limit_are_rejected(place: Place, *, as_variable: bool) -> None:
    # More than any limit of this type.
    text = text_of(place, 131_073 if place in WRITTEN else 2_001)
    refused = refusal_of(request_of(place, text, as_variable=as_variable))
    assert refused is not None
    assert (refused.code, refused.details["limit"]) == ("BAD_USER_INPUT", "characters")
    assert refused.details["field"] == (f"{place.name}.0" if place in LISTS else place.name)
    # The JSON syntax around strings counts, too.
    allowed = refused.details["maximum"] - (20 if get_named_type(place.definition.type).name == "JSON" else 0)
    assert refusal_of(request_of(place, text_of(place, allowed), as_variable=as_variable)) is None


def test_limit_applies_to_variable_defaults() -> None:
    names = '{name: "a", value: "b"} ' * 11
    document = (
        f"query($v: [AttributeInput!]! = [{names}]) {{ product(by: {{id: 1}}) {{ variant(by: {{attributes: $v}}) {{ id }} }} }}"
    )
    refused = refusal_of(GraphQLRequest(document))
    assert refused is not None and refused.details["field"] == "by.attributes"


def test_limit_applies_to_variables_in_fragments() -> None:
    fragments = "fragment F on Product { ...G } fragment G on Product { variant(by: {attributes: $v}) { id } }"
    document = f"query($v: [AttributeInput!]!) {{ product(by: {{id: 1}}) {{ ...F }} }} {fragments}"
    value = [{"name": "a", "value": "b"}] * 11
    refused = refusal_of(GraphQLRequest(document, {"v": value}))
    assert refused is not None and refused.details["field"] == "by.attributes"


def test_limits_apply_per_operation() -> None:
    document = """
    query A($v: String!) { config(by: {id: 1}) { product(by: {handle: $v}) { id } } }
    query B($v: String!) { configs(after: $v) { totalCount } }
    """
    value = "x" * 201
    assert refusal_of(GraphQLRequest(document, {"v": value}, "B")) is None
    assert refusal_of(GraphQLRequest(document, {"v": value}, "A")) is not None


def test_schema_requires_limits_on_lists() -> None:
    @strawberry.type
    class Query:
        @strawberry.field
        def found(self, names: list[str]) -> int:
            return len(names)

    with pytest.raises(TypeError, match=r"Query\.found\(names:\) is a list without a limit"):
        declare_limits(strawberry.Schema(Query)._schema)


def test_arguments_below_roots_are_read_once() -> None:
    """Such a field is resolved for all its parents at once, so that its arguments are read and checked once, not for each row."""
    per_row = [
        f"{type_.name}.{name}"
        for type_ in SCHEMA.type_map.values()
        if type_ not in ROOTS and not type_.name.startswith("__")
        for name, field in fields_of(type_).items()
        if field.args and get_batch_resolver(get_plain_method(field.extensions[DEFINITION_EXTENSION_KEY])) is None
    ]
    assert per_row == []
