"""Errors of custom scalars name the expected format, the problem and its location, and never quote the value."""

from typing import Any

import pytest
import pytest_asyncio
from graphql import GraphQLScalarType

from storefront.core.ids import parse_id
from storefront.schema import schema
from storefront.serving.documents.document_store import DocumentStore, NotExecutableError
from storefront.serving.http.graphql_request import GraphQLRequest
from tests.client import Client
from tests.factories import make_user

SCHEMA = schema._schema
EXPECTED = {
    "Decimal": 'Decimal must be text such as "19.90": ',
    "DateTime": 'DateTime must be RFC 3339 text with a time zone such as "2026-11-22T10:00:00Z": ',
    "CurrencyCode": 'CurrencyCode must be an ISO 4217 code such as "EUR": ',
    "Position": 'Position must be a non-negative integer as text such as "42": ',
    "FileSize": "FileSize must be an integer number of bytes such as 1048576: ",
}

# fmt: off
ANY_KIND: list[tuple[Any, str]] = [
    ("", "it is empty"), ("１２", "not ASCII"), ("١٢", "not ASCII"), ("²", "not ASCII"), (" 1", "white space"),
    ("1 ", "white space"),
    ("1\n", "white space"), ("1_0", "not of the form"), ("+1", "not of the form"), ("NaN", "not of the form"),
    ("Infinity", "not of the form"), ("1e999999", "not of the form"), ("a\0b", "not of the form"), ("0x1", "not of the form"),
    (True, "it is a boolean"), ([], "it is a list"), ({}, "it is an object"),
]
OF_KINDS: list[tuple[str, Any, str]] = [
    *(
        (kind, value, problem)
        for kind in EXPECTED
        for value, problem in ANY_KIND
        if (kind, value) != ("CurrencyCode", "NaN") and not (kind == "FileSize" and isinstance(value, str))
    ),
    ("Decimal", 1.5, "floating-point"), ("Decimal", 1.0, "floating-point"), ("Decimal", "1" * 21, "too large: at most 20 digits"),
    ("Decimal", 10**30, "too large"), ("Decimal", "0.12345678901", "too precise: at most 10 digits"), ("Decimal", ".5", "form"),
    ("Position", -1, "it is negative"), ("Position", "-1", "it is negative"), ("Position", 1.0, "floating-point"),
    ("Position", str(10**18), "too large: at most 999999999999999999"), ("Position", "1.0", "digits alone"),
    ("DateTime", 5, "it is a number"), ("DateTime", 1.5, "it is a number"), ("DateTime", "2026-11-22T10:00:00", "no time zone"),
    ("DateTime", "2026-02-30T00:00:00Z", "no such day"), ("DateTime", "2026-11-22T10:00:60Z", "no such day or time"),
    ("DateTime", "0001-01-01T00:00:00+10:00", "outside of the years"), ("DateTime", "２026-11-22T10:00:00Z", "not ASCII"),
    ("FileSize", -1, "it is negative"), ("FileSize", 2**53, "too large: at most 9007199254740991"),
    ("FileSize", 10**30, "too large"),
    ("FileSize", "1", "it is text"), ("FileSize", 1.5, "floating-point"),
    ("FileSize", True, "it is a boolean"), ("FileSize", [], "it is a list"), ("FileSize", {}, "it is an object"),
    ("DateTime", "2026-11-22🏮10:00:00Z", "not ASCII"), ("DateTime", "2026-W47-7T10:00:00Z", "YYYY-MM-DD"),
    ("CurrencyCode", 978, "it is a number"), ("CurrencyCode", "EURO", "three letters"), ("CurrencyCode", "E1R", "three letters"),
]
USABLE = [
    ("Decimal", "19.90"), ("Decimal", "-0"), ("Decimal", 7), ("Decimal", "007"), ("Decimal", "9" * 20 + "." + "9" * 10),
    ("Position", "0"), ("Position", 42), ("Position", "042"), ("Position", "9" * 18),
    ("DateTime", "2026-11-22T10:00:00Z"), ("DateTime", "2026-11-22t10:00:00.123456789+02:00"),
    ("DateTime", "2026-11-22 10:00:00z"),
    ("CurrencyCode", "EUR"), ("CurrencyCode", "XXX"), ("CurrencyCode", "usd"),
    ("FileSize", 0), ("FileSize", 2**31), ("FileSize", 2**53 - 1),
]
# fmt: on


UPLOAD = '{ createImportUpload(input: {configId: 1, fileName: "a", size: # }) { clientMutationId } }'


@pytest_asyncio.fixture(scope="module")
async def signed_in(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database))


def scalar(name: str) -> GraphQLScalarType:
    found = SCHEMA.type_map[name]
    assert isinstance(found, GraphQLScalarType)
    return found


@pytest.mark.parametrize(("name", "value", "problem"), OF_KINDS, ids=ascii)
async def test_variable_errors_name_the_problem(signed_in: Client, name: str, value: Any, problem: str) -> None:
    arguments = {"Decimal": "filter: {minPrice: $v}", "DateTime": "filter: {updatedSince: $v}"}
    document = f"query($v: {name}) {{ products(configId: 1, {arguments.get(name)}) {{ totalCount }} }}"
    if name == "CurrencyCode":
        document = "mutation($v: CurrencyCode!) { updateConfig(input: {id: 1, currency: $v}) { position } }"
    if name == "Position":
        document = "query($v: Position!) { productChanges(configId: 1, after: $v) { position } }"
    if name == "FileSize":
        document = f"mutation($v: FileSize!) {UPLOAD.replace('#', '$v')}"
    # Only somebody who is signed in gets as far as the variables of a mutation.
    error = await signed_in.refusal(document, v=value)
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith(f"Variable '$v' has invalid value: {EXPECTED[name]}")
    assert problem in error["message"]
    assert error["message"].endswith(".") and not error["message"].endswith("..")


@pytest.mark.parametrize(
    ("name", "literal", "problem"),
    [
        ("Decimal", "1.5", "floating-point"),
        ("Decimal", "9" * 21, "too large"),
        ("Decimal", "CHEAP", "not quoted"),
        ("Decimal", "[1]", "a list"),
        ("Decimal", '"１２"', "not ASCII"),
        ("DateTime", "5", "a number"),
        ("DateTime", "{a: 1}", "an object"),
        ("DateTime", '"now"', "YYYY-MM-DD"),
        ("Position", "-1", "negative"),
        ("Position", "1e9", "floating-point"),
        ("Position", "true", "a boolean"),
        ("FileSize", "-1", "negative"),
        ("FileSize", "9007199254740992", "too large"),
        ("FileSize", "1.0", "floating-point"),
        ("FileSize", '"1"', "it is text"),
        ("FileSize", "HUGE", "not quoted"),
    ],
)
def test_literal_errors_have_locations(name: str, literal: str, problem: str) -> None:
    around = {
        "Decimal": "{ products(configId: 1, filter: {minPrice: # }) { totalCount } }",
        "DateTime": "{ products(configId: 1, filter: {updatedSince: # }) { totalCount } }",
        "Position": "{ productChanges(configId: 1, after: # ) { position } }",
        "FileSize": f"mutation {UPLOAD}",
    }[name]
    with pytest.raises(NotExecutableError) as refused:
        DocumentStore(SCHEMA).find_document(GraphQLRequest(around.replace("#", literal)))
    (error,) = refused.value.errors
    assert error.message.startswith(EXPECTED[name]) and problem in error.message
    assert [(one.line, one.column) for one in error.locations or ()] == [(1, around.index("#") + 1)]


@pytest.mark.parametrize(("name", "value"), USABLE, ids=str)
def test_valid_values_are_accepted(name: str, value: Any) -> None:
    assert scalar(name).coerce_input_value(value) is not None


def test_file_sizes_are_json_integers() -> None:
    assert scalar("FileSize").coerce_output_value(2**53 - 1) == 2**53 - 1


@pytest.mark.parametrize(
    "text",
    ["１" * 32, "١" * 32, "1_" * 16, " " + "1" * 31, "1" * 31 + "\n", "{" + "1" * 32 + "}", "0x" + "1" * 30, "1-" * 16, "-" * 36],
    ids=ascii,
)
def test_ids_have_one_ascii_form(text: str) -> None:
    assert parse_id(text) is None
    assert parse_id("018F0000000070008000000000000000") == "018f0000-0000-7000-8000-000000000000"
