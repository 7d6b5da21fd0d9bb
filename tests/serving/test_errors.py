"""Error messages about invalid variables have the path and the expected type, and never the value."""

from typing import Any

import pytest
from graphql import OperationDefinitionNode, parse
from graphql.execution import get_variable_values

from storefront.schema import schema
from storefront.serving.errors import format_errors
from tests.client import Client

SECRET = "shpat_0123456789"
INPUT = "UpdateProductInput!"
UNKNOWN = "Expected value of type 'UpdateProductInput' not to include unknown field"
ENUM = "Value does not exist in 'ProductStatus' enum"

NO_DECIMAL = ": it is not of the form: digits, a point and more digits, perhaps after a minus sign."
UNUSABLE: list[tuple[str, Any, str]] = [
    ("String", [SECRET], ": String cannot represent a non string value."),
    ("Int", SECRET, ": Int cannot represent non-integer value."),
    ("Int", 10**30, ": Int cannot represent non 32-bit signed integer value."),
    ("Float", 10**400, ": Float cannot represent non numeric value."),
    ("Boolean", SECRET, ": Boolean cannot represent a non boolean value."),
    ("ID", {"is": SECRET}, ": ID cannot represent value."),
    ("Int!", None, ": Expected value of non-null type 'Int!' not to be None."),
    ("Decimal", SECRET, f': Decimal must be text such as "19.90"{NO_DECIMAL}'),
    (
        "Position",
        f", not {SECRET}",
        ': Position must be a non-negative integer as text such as "42": it is not of the form: digits alone.',
    ),
    (
        "DateTime",
        SECRET,
        ': DateTime must be RFC 3339 text with a time zone such as "2026-11-22T10:00:00Z": it is not of the form: '
        "YYYY-MM-DDThh:mm:ss, perhaps a fraction, and Z or an offset such as +02:00.",
    ),
    (INPUT, SECRET, ": Expected value of type 'UpdateProductInput' to be an object."),
    (INPUT, {"title": SECRET}, ": Expected value of type 'UpdateProductInput' to include required field 'id'."),
    (INPUT, {"id": "1", "titel": SECRET}, f": {UNKNOWN} 'titel'. Did you mean 'title'?"),
    (INPUT, {"id": "1", "zzzzz": SECRET}, f": {UNKNOWN} 'zzzzz'."),
    (INPUT, {"id": "1", f"no name, but {SECRET}": 1}, f": {UNKNOWN}."),
    (INPUT, {"id": "1", "tags": ["ok", {"is": SECRET}]}, " at .tags[1]: String cannot represent a non string value."),
    (INPUT, {"id": "1", "status": SECRET}, f" at .status: {ENUM}."),
    (INPUT, {"id": "1", "status": f"x\n' does not exist in '{SECRET}' enum"}, f" at .status: {ENUM}."),
    (INPUT, {"id": "1", "status": "ACTIV"}, f" at .status: {ENUM}. Did you mean the enum value 'ACTIVE' or 'INACTIVE'?"),
    (INPUT, {"id": "1", "status": [SECRET]}, " at .status: Enum 'ProductStatus' cannot represent non-string value."),
    (
        "BulkUpdateProductsInput!",
        {"rows": [{"id": "1", "price": SECRET}]},
        f' at .rows[0].price: Decimal must be text such as "19.90"{NO_DECIMAL}',
    ),
]


@pytest.mark.parametrize(("kind", "value", "received"), UNUSABLE)
def test_invalid_variable_is_not_quoted(kind: str, value: Any, received: str) -> None:
    (operation,) = parse(f"query($input: {kind}) {{ __typename }}").definitions
    assert isinstance(operation, OperationDefinitionNode)
    errors = get_variable_values(schema._schema, operation.variable_definitions or (), {"input": value})
    assert isinstance(errors, list)
    (error,) = format_errors(errors, "a request")
    assert error["message"] == f"Variable '$input' has invalid value{received}"
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "requestId": "a request"}


@pytest.mark.parametrize(
    "request_",
    [{"query": "{ __typename }", "operationName": "a" * 100_000}, {"query": "a" * 90_000}, {"query": f"{{ {'a' * 90_000} }}"}],
)
async def test_messages_do_not_repeat_long_names(shopper: Client, request_: Any) -> None:
    answer = await shopper.http.post("/graphql", json=request_)
    assert answer.json()["errors"][0]["message"]
    assert len(answer.content) < 2_000
