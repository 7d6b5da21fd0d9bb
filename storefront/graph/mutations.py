"""The base of all mutations: common input and payload fields, and the execution of commands."""

from decimal import Decimal
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, TypeVar

import strawberry
from graphql import GraphQLSchema, get_named_type
from strawberry.types import get_object_definition

from storefront.core.casing import to_camel_case
from storefront.core.cooperative import count_input_steps, run_in_thread_if_long, yield_before_freeing
from storefront.graph import arguments
from storefront.graph.context import Info
from storefront.graph.cost_hints import ERROR_COSTS
from storefront.graph.errors import UserError, build_user_error
from storefront.graph.limits import limits
from storefront.graph.scalars import Position
from storefront.writes.transaction import IDEMPOTENCY_KEY_TTL_HOURS, Command, MutationRequest, MutationResult, execute_mutation

P = TypeVar("P", bound="MutationPayload")

EXPECTED_VERSION_DESCRIPTION = "Version that the change is based on; refused if there is a newer one. Omit to ignore the version."
HANDLE_FORM_DESCRIPTION = (
    "Stored in lower case as letters, digits and marks of any script, with hyphens in place of everything else: "
    '"Blue Mug™" becomes "blue-mug".'
)

MAX_KEY_CHARACTERS = 255

# The attributes that are not part of the request that an idempotency key identifies: a retry may differ in these.
_REQUEST_ATTRIBUTES = {"client_mutation_id", "idempotency_key", "dry_run"}


@strawberry.input
class ClientMutationInput:
    """The input of a mutation that changes nothing, and so is not stored and replayed."""

    client_mutation_id: str | None = strawberry.field(
        default=None, description="Returned in the payload.", metadata=limits(characters=MAX_KEY_CHARACTERS)
    )


@strawberry.input
class MutationInput(ClientMutationInput):
    client_mutation_id: str | None = strawberry.field(
        default=None,
        description="Chosen by the client. Returned in the payload, and in the events that the mutation causes.",
        metadata=limits(characters=MAX_KEY_CHARACTERS),
    )
    idempotency_key: str | None = strawberry.field(
        default=None,
        description="Makes retries safe: a request with the same key and input returns the first result. "
        f"Kept for {IDEMPOTENCY_KEY_TTL_HOURS} hours.",
        metadata=limits(characters=MAX_KEY_CHARACTERS),
    )


@strawberry.input
class ExistingRowInput:
    """The row that a mutation deletes."""

    id: strawberry.ID = strawberry.field(description="ID of the object.")
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.enum(description="What an update does when the object has changed since `expectedVersion`.")
class ConflictPolicy(Enum):
    REJECT = strawberry.enum_value("reject", description="Refuses the update with a `StaleVersionError`.")
    MERGE_DISJOINT = strawberry.enum_value(
        "merge_disjoint",
        description="Applies the update if none of the fields it sets has changed since `expectedVersion`; refuses it otherwise.",
    )


@strawberry.input
class VersionedUpdateInput:
    """What an update is based on, and what it does when the row has changed since."""

    expected_version: int | None = strawberry.field(
        default=strawberry.UNSET, description="Version that the change is based on. Omit to overwrite any version."
    )
    on_conflict: ConflictPolicy = strawberry.field(
        default=ConflictPolicy.REJECT, description="What to do if there is a newer version than `expectedVersion`."
    )


@strawberry.input
class UpdatedRowInput(VersionedUpdateInput):
    """The row that a mutation updates."""

    id: strawberry.ID = strawberry.field(description="ID of the object.")


@strawberry.interface(description="Fields that every mutation payload has.")
class MutationPayload:
    user_errors: list[UserError] = strawberry.field(
        description="Why the mutation had no effect; empty on success.", metadata=ERROR_COSTS
    )
    client_mutation_id: str | None = strawberry.field(description="The `clientMutationId` of the input.")


@strawberry.type
class ReplayablePayload(MutationPayload):
    """A payload that is stored under the idempotency key. It is no type of the schema: its fields are inherited."""

    replayed: bool = strawberry.field(
        description="Whether this is the stored result of an earlier request with the same `idempotencyKey`."
    )


@strawberry.interface(description="Payload of a mutation that writes to the change log of a store.")
class ChangePayload(MutationPayload):
    replayed: bool = strawberry.field(
        description="Whether this is the stored result of an earlier request with the same `idempotencyKey`."
    )
    position: Position | None = strawberry.field(description="Log position of the change. Null if nothing changed.")


async def mutate(info: Info, input_: ClientMutationInput, command: Command) -> MutationResult:
    """Execute a command with the input as the viewer, then notify subscribers. Raises Unauthenticated and InvalidInput."""
    viewer = info.context.require_viewer()
    type_: Any = type(input_)
    request_names = {name for name, python_name in _get_field_names(type_) or () if python_name in _REQUEST_ATTRIBUTES}
    steps = count_input_steps(input_)
    values = await run_in_thread_if_long(steps, to_dict, input_)
    request = MutationRequest(
        actor_id=viewer.id,
        operation=info.field_name,
        input_values={name: value for name, value in values.items() if name not in request_names},
        idempotency_key=_check_optional_text(getattr(input_, "idempotency_key", None), "input.idempotencyKey"),
        client_mutation_id=_check_optional_text(input_.client_mutation_id, "input.clientMutationId"),
        dry_run=getattr(input_, "dry_run", False),
    )
    result = await execute_mutation(info.context.database, request, command)
    info.context.clear_loaders()
    for config_id in result.moved_store_ids:
        info.context.feed.wakeups.publish(config_id)
    await yield_before_freeing(steps)
    return result


async def mutation_payload(info: Info, input_: MutationInput, command: Command, payload: type[P], entity_name: str) -> P:
    """The payload of a mutation of one entity: the row in the field `entity_name`, or null and the errors."""
    result = await mutate(info, input_, command)
    return build_payload(payload, result, input_, **{entity_name: result.rows[0] if result.rows else None})


async def deletion_payload(info: Info, input_: MutationInput, command: Command, payload: type[P], *parent_columns: str) -> P:
    """The payload of a deletion: the id of the deleted row and its `parent_columns`, or nulls and the errors."""
    result = await mutate(info, input_, command)
    row = result.rows[0] if result.rows else None
    parent_ids = {name: getattr(row, name, None) for name in parent_columns}
    return build_payload(payload, result, input_, deleted_id=strawberry.ID(row.id) if row else None, **parent_ids)


def build_payload(payload: type[P], result: MutationResult, input_: ClientMutationInput, /, **entities: Any) -> P:
    """The payload of a result: the given fields, and those that do not depend on the mutation."""
    fields: dict[str, Any] = {
        "user_errors": [build_user_error(failure) for failure in result.field_errors],
        "client_mutation_id": input_.client_mutation_id or None,
    }
    if issubclass(payload, ChangePayload | ReplayablePayload):
        fields["replayed"] = result.is_replayed
    if issubclass(payload, ChangePayload):
        fields["position"] = result.position
    return payload(**entities, **fields)


def describe_mutations(schema: GraphQLSchema) -> GraphQLSchema:
    """Describe the input and the payload of each mutation that have no description of their own. Returns the same schema."""
    for name, field in schema.mutation_type.fields.items() if schema.mutation_type else ():
        argument, payload = field.args["input"], get_named_type(field.type)
        argument.description = argument.description or "The input."
        input_type = get_named_type(argument.type)
        input_type.description = input_type.description or f"Input of `{name}`."
        payload.description = payload.description or f"Payload of `{name}`."
    return schema


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
