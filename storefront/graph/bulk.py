"""What the GraphQL types of bulk mutations share."""

from enum import Enum
from typing import Any

import strawberry

from storefront.graph.cost_hints import costs
from storefront.graph.errors import UserError, build_user_error
from storefront.graph.mutations import MutationInput
from storefront.writes.bulk import MAX_ROWS
from storefront.writes.transaction import MutationResult

BULK_COSTS = costs(size_arguments=("input.rows",), max_size=MAX_ROWS)
ROW_ERRORS_DESCRIPTION = "Why the row was rejected; empty otherwise. Paths start with `rows` and the index."
ROW_STATUS_DESCRIPTION = "What happened to the row, or would happen in a dry run."
ROW_INDEX_DESCRIPTION = "Zero-based index of the row in the input."
RESULTS_DESCRIPTION = "One result per row, in the order of the input."


@strawberry.enum(description="What a bulk mutation does if some rows are invalid.")
class BulkErrorPolicy(Enum):
    ALL_OR_NOTHING = strawberry.enum_value("all_or_nothing", description="Writes nothing.")
    VALID_ROWS = strawberry.enum_value("valid_rows", description="Writes the valid rows.")


@strawberry.input
class BulkInput(MutationInput):
    """What all bulk mutations have beside their rows. It is no type of the schema: its fields are inherited."""

    error_policy: BulkErrorPolicy = strawberry.field(
        default=BulkErrorPolicy.ALL_OR_NOTHING, description="What to do if some rows are invalid."
    )
    dry_run: bool = strawberry.field(default=False, description="Whether to only report what would be done.")


@strawberry.enum(description="What happened to a row of a bulk mutation. More values may be added.")
class BulkRowStatus(Enum):
    CREATED = strawberry.enum_value("created", description="The object was created.")
    UPDATED = strawberry.enum_value("updated", description="The object was changed.")
    UNCHANGED = strawberry.enum_value("unchanged", description="The object had these values already.")
    DELETED = strawberry.enum_value("deleted", description="The object was deleted.")
    REJECTED = strawberry.enum_value("rejected", description="The row is invalid; see its `userErrors`.")
    SKIPPED = strawberry.enum_value(
        "skipped", description="The row is valid, but was not written because others are invalid, or the whole request is."
    )


def describe_row(result: MutationResult, n: int) -> tuple[Any, BulkRowStatus, list[UserError]]:
    """The object of row `n` (None if there is none), what happened to it, and its errors."""
    errors = [build_user_error(error) for error in result.field_errors if error.path[:2] == ("rows", str(n))]
    row = result.rows[n] if result.rows else None
    return row, BulkRowStatus(row.row_status) if row else BulkRowStatus.REJECTED if errors else BulkRowStatus.SKIPPED, errors
