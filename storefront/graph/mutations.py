"""The base of all mutations: common input and payload fields, and the execution of commands."""

from decimal import Decimal
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, TypeVar

import strawberry
from strawberry.types import get_object_definition

from storefront.core.casing import to_camel_case
from storefront.graph import arguments
from storefront.graph.context import Info
from storefront.graph.cost_hints import ERROR_COSTS
from storefront.graph.errors import UserError, build_user_error
from storefront.graph.limits import limits
from storefront.graph.scalars import Position
from storefront.writes.transaction import Command, MutationRequest, MutationResult, execute_mutation

P = TypeVar("P", bound="Payload")
D = TypeVar("D", bound="DeletePayload")

EXPECTED_VERSION_DESCRIPTION = (
    "Optimistic locking: reject the write if the row has another version. Without it the last write wins."
)
INVENTORY_DESCRIPTION = "Default 0; null means not tracked, never out of stock."

MAX_KEY_CHARACTERS = 255

# Not part of the request that an idempotency key identifies: a retry may differ in these.
_REQUEST_FIELDS = {"clientMutationId", "idempotencyKey", "dryRun"}


@strawberry.input
class MutationInput:
    client_mutation_id: str | None = strawberry.field(
        default=None,
        description="Chosen by the client: the resulting change carries it in the log and the live feed.",
        metadata=limits(characters=MAX_KEY_CHARACTERS),
    )
    idempotency_key: str | None = strawberry.field(
        default=None,
        description="A retry with the same key and input returns the first result. Valid for 24 hours.",
        metadata=limits(characters=MAX_KEY_CHARACTERS),
    )


@strawberry.input
class ExistingRowInput:
    """The row that a mutation updates or deletes."""

    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.type
class Payload:
    user_errors: list[UserError] = strawberry.field(
        description="Why nothing was written; empty on success.", metadata=ERROR_COSTS
    )
    position: Position | None = strawberry.field(
        description="Log position of the store after this change; null without a change."
    )
    client_mutation_id: str | None
    replayed: bool = strawberry.field(
        description="Whether this is the result of an earlier request with the same idempotency key."
    )


@strawberry.type
class DeletePayload(Payload):
    deleted_id: strawberry.ID | None


async def mutate(info: Info, input_: MutationInput, command: Command) -> MutationResult:
    """Execute a command with the input as the viewer, then notify subscribers. Raises Unauthenticated and InvalidInput."""
    viewer = info.context.require_viewer()
    values = {name: value for name, value in to_dict(input_).items() if name not in _REQUEST_FIELDS}
    request = MutationRequest(
        actor_id=viewer.id,
        operation=info.field_name,
        input_values=values,
        idempotency_key=_check_optional_text(input_.idempotency_key, "input.idempotencyKey"),
        client_mutation_id=_check_optional_text(input_.client_mutation_id, "input.clientMutationId"),
        dry_run=getattr(input_, "dry_run", False),
    )
    result = await execute_mutation(info.context.database, request, command)
    info.context.clear_loaders()
    for config_id in result.moved_store_ids:
        info.context.feed.wakeups.publish(config_id)
    return result


async def mutation_payload(info: Info, input_: MutationInput, command: Command, payload: type[P], entity_name: str) -> P:
    """The payload of a mutation of one entity: the row in the field `entity_name`, or null and the errors."""
    result = await mutate(info, input_, command)
    entity_field: dict[str, Any] = {entity_name: result.rows[0] if result.rows else None}
    return payload(**entity_field, **common_payload_fields(result, input_))


async def deletion_payload(info: Info, input_: MutationInput, command: Command, payload: type[D]) -> D:
    """The payload of a deletion: the id of the deleted row, or null and the errors."""
    result = await mutate(info, input_, command)
    row = result.rows[0] if result.rows else None
    return payload(deleted_id=strawberry.ID(row.id) if row else None, **common_payload_fields(result, input_))


def common_payload_fields(result: MutationResult, input_: MutationInput) -> dict[str, Any]:
    """The fields that every payload has."""
    return {
        "user_errors": [build_user_error(failure) for failure in result.field_errors],
        "position": result.position,
        "client_mutation_id": input_.client_mutation_id,
        "replayed": result.is_replayed,
    }


def to_dict(value: Any) -> Any:
    """An input as plain values by GraphQL name, without the fields that were left out."""
    type_: Any = type(value)
    if type_ is list:
        return [to_dict(item) for item in value]
    field_names = _get_field_names(type_)
    if field_names is None:
        return value.value if isinstance(value, Enum) else value
    field_values = ((name, getattr(value, python_name)) for name, python_name in field_names)
    return {
        name: field_value if type(field_value) in _SCALAR_TYPES else to_dict(field_value)
        for name, field_value in field_values
        if field_value is not strawberry.UNSET
    }


_SCALAR_TYPES = {NoneType, bool, int, str, Decimal}


@cache
def _get_field_names(type_: Any) -> list[tuple[str, str]] | None:
    definition = get_object_definition(type_)
    if definition is None:
        return None
    return [(field.graphql_name or to_camel_case(field.python_name), field.python_name) for field in definition.fields]


def _check_optional_text(value: str | None, field: str) -> str | None:
    return arguments.check_text(value, field) if value else None
