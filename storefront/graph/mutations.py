"""What all mutations share: the input's common fields, the payload's, and the way from one to the other."""

from decimal import Decimal
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, TypeVar

import strawberry
from strawberry.types import get_object_definition

from storefront.core.casing import camel
from storefront.graph import arguments
from storefront.graph.context import Info
from storefront.graph.cost_hints import ERRORS
from storefront.graph.errors import UserError, user_error
from storefront.graph.limits import limits
from storefront.graph.scalars import Position
from storefront.writes.transaction import Command, Order, Outcome, perform

P = TypeVar("P", bound="Payload")
D = TypeVar("D", bound="DeletePayload")

EXPECTED = "Refuse if there is another version by now. Without it the last write wins."
STOCK = "0 unless given; null: not counted, never runs out."

MAX_KEY_CHARACTERS = 255

# These tell how to do it, not what: a retry may differ in them and still be the same request.
_ABOUT_THE_REQUEST = {"clientMutationId", "idempotencyKey", "dryRun"}


@strawberry.input
class MutationInput:
    client_mutation_id: str | None = strawberry.field(
        default=None,
        description="Yours to choose: the change that this makes carries it in the log and the live feed.",
        metadata=limits(characters=MAX_KEY_CHARACTERS),
    )
    idempotency_key: str | None = strawberry.field(
        default=None,
        description="A retry with the same key and input gets the first result again. Kept for 24 hours.",
        metadata=limits(characters=MAX_KEY_CHARACTERS),
    )


@strawberry.type
class Payload:
    user_errors: list[UserError] = strawberry.field(
        description="Why nothing was written; empty after a success.", metadata=ERRORS
    )
    position: Position | None = strawberry.field(
        description="Where the store's log stands with this change; null if none was made."
    )
    client_mutation_id: str | None
    replayed: bool = strawberry.field(
        description="Whether this is the result of an earlier request with the same idempotency key."
    )


@strawberry.type
class DeletePayload(Payload):
    deleted_id: strawberry.ID | None


async def mutate(info: Info, input_: MutationInput, command: Command) -> Outcome:
    """Do what the input says, as the viewer."""
    viewer = info.context.signed_in()
    values = {name: value for name, value in plain(input_).items() if name not in _ABOUT_THE_REQUEST}
    order = Order(
        actor_id=viewer.id,
        operation=info.field_name,
        values=values,
        key=_text(input_.idempotency_key, "input.idempotencyKey"),
        client_mutation_id=_text(input_.client_mutation_id, "input.clientMutationId"),
        dry_run=getattr(input_, "dry_run", False),
    )
    outcome = await perform(info.context.database, order, command)
    info.context.forget()
    for config_id in outcome.moved:
        info.context.feed.wakeups.publish(config_id)
    return outcome


async def paid(info: Info, input_: MutationInput, command: Command, payload: type[P], entity: str) -> P:
    """The payload of a mutation of one entity: the row under its name, or null and the errors."""
    outcome = await mutate(info, input_, command)
    named: dict[str, Any] = {entity: outcome.rows[0] if outcome.rows else None}
    return payload(**named, **common(outcome, input_))


async def deleted(info: Info, input_: MutationInput, command: Command, payload: type[D]) -> D:
    """The payload of a mutation that deletes: the id of the row that is gone, or null and the errors."""
    outcome = await mutate(info, input_, command)
    row = outcome.rows[0] if outcome.rows else None
    return payload(deleted_id=strawberry.ID(row.id) if row else None, **common(outcome, input_))


def common(outcome: Outcome, input_: MutationInput) -> dict[str, Any]:
    """The payload's common fields."""
    return {
        "user_errors": [user_error(failure) for failure in outcome.failures],
        "position": outcome.position,
        "client_mutation_id": input_.client_mutation_id,
        "replayed": outcome.replayed,
    }


def plain(value: Any) -> Any:
    """An input as plain values under the names that clients use; what was left out is not there."""
    kind: Any = type(value)
    if kind is list:
        return [plain(item) for item in value]
    names = _names(kind)
    if names is None:
        return value.value if isinstance(value, Enum) else value
    given = ((name, getattr(value, python_name)) for name, python_name in names)
    return {name: part if type(part) in _PLAIN else plain(part) for name, part in given if part is not strawberry.UNSET}


_PLAIN = {NoneType, bool, int, str, Decimal}


@cache
def _names(type_: Any) -> list[tuple[str, str]] | None:
    definition = get_object_definition(type_)
    if definition is None:
        return None
    return [(field.graphql_name or camel(field.python_name), field.python_name) for field in definition.fields]


def _text(value: str | None, field: str) -> str | None:
    return arguments.text(value, field) if value else None
