"""What bulk mutations share: up to 250 rows, each with one result. Errors of single rows have paths such as rows.3.price."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from storefront.core.cooperative import count_input_steps, run_in_thread_if_long
from storefront.core.db.database import Row
from storefront.models.rows import VersionedRow
from storefront.writes import validation
from storefront.writes.amounts import print_amounts
from storefront.writes.field_errors import (
    FieldError,
    InvalidInputReason,
    MutationRejected,
    make_invalid_input_error,
    make_not_found_error,
)
from storefront.writes.optimistic_lock import StaleRow, find_stale_row, load_stale_version_errors
from storefront.writes.transaction import UnitOfWork

Values = Mapping[str, Any]
# The number of a row and its valid fields.
NumberedRow = tuple[int, dict[str, Any]]

MAX_ROWS = 250


class RowOutcome(SimpleNamespace):
    """The object of a row with `row_status`, what happened to it: created, updated, unchanged or deleted."""

    def _asdict(self) -> dict[str, Any]:
        return vars(self)


def describe_outcome(row: Row, status: str) -> RowOutcome:
    """The outcome of a row that was not rejected."""
    return RowOutcome(**row._asdict(), row_status=status)


def is_all_or_nothing(values: Values) -> bool:
    """Whether no row is written if one is invalid; else the valid ones are."""
    return bool(values["errorPolicy"] == "all_or_nothing")


def reject_errors(unit: UnitOfWork, *, all_or_nothing: bool) -> None:
    """Sort the errors of rows. Raises MutationRejected if one row must not be written without the others."""
    unit.field_errors.sort(key=lambda failure: int(failure.path[1]))
    if unit.field_errors and all_or_nothing:
        raise MutationRejected(*unit.field_errors)


def check_row_count(rows: Sequence[Values], field: str) -> None:
    """Raises MutationRejected if there is no row, or more than MAX_ROWS."""
    if not 1 <= len(rows) <= MAX_ROWS:
        problem = f"must have 1 to {MAX_ROWS} entries, not {len(rows):,}."
        raise MutationRejected(make_invalid_input_error([field], problem, validation.find_size_reason(len(rows), 1)))


async def validate_rows(
    unit: UnitOfWork, rows: Sequence[Values], field: str, rules: validation.Rules, key: str | None = "id"
) -> list[NumberedRow]:
    """The valid rows. Of several with the same `key` the first one is. Errors of the others go to the unit."""
    check_row_count(rows, field)
    return await run_in_thread_if_long(count_input_steps(rows), _validate_rows, unit, rows, field, rules, key)


def _validate_rows(
    unit: UnitOfWork, rows: Sequence[Values], field: str, rules: validation.Rules, key: str | None
) -> list[NumberedRow]:
    valid_rows: list[NumberedRow] = []
    first_by_key: dict[str, int] = {}
    for n, row in enumerate(rows):
        clean, errors = validation.validate_fields(rules, row, [field, str(n)])
        if not errors and key and clean.get(key) is not None and (first := first_by_key.setdefault(clean[key], n)) != n:
            errors = [make_duplicate_row_error([field, str(n), key], first)]
        unit.field_errors += errors
        if not errors:
            valid_rows.append((n, clean))
    return valid_rows


def make_duplicate_row_error(path: Sequence[str], first: int) -> FieldError:
    """The error of a row about the same object as row `first`."""
    return make_invalid_input_error(path, f"is in row {first} already. Join the two.", InvalidInputReason.DUPLICATE)


def print_row_amounts(
    unit: UnitOfWork, rows: Sequence[NumberedRow], field: str, currencies: Mapping[int, str]
) -> list[NumberedRow]:
    """The rows with amounts in the currencies of their stores, by the number of the row. Rows without one stay as they are."""
    printed_rows: list[NumberedRow] = []
    for n, row in rows:
        printed, errors = print_amounts(row, currencies[n], [field, str(n)]) if n in currencies else (row, [])
        unit.field_errors += errors
        if not errors:
            printed_rows.append((n, printed))
    return printed_rows


async def filter_existing(
    unit: UnitOfWork, rows: Sequence[NumberedRow], field: str, entity_name: str, stored: Mapping[str, VersionedRow]
) -> list[NumberedRow]:
    """The rows whose objects exist, in the version that they expect. `stored`: the locked ones, by id."""
    known_rows: list[NumberedRow] = []
    for n, row in rows:
        if row["id"] in stored:
            known_rows.append((n, row))
        else:
            unit.field_errors.append(make_not_found_error(entity_name, row["id"], [field, str(n), "id"]))
    return await filter_current(unit, known_rows, field, {n: stored[row["id"]] for n, row in known_rows})


async def filter_current(
    unit: UnitOfWork,
    rows: Sequence[NumberedRow],
    field: str,
    stored: Mapping[int, Any],
    also_set: Mapping[int, Sequence[str]] | None = None,
) -> list[NumberedRow]:
    """The rows whose objects have the version that they expect. `stored`: the locked ones, by the number of the row.

    `also_set`: the fields that a row changes beside those that it has, by its number.
    """
    outdated: list[StaleRow] = []
    for n, row in rows:
        if (old := stored.get(n)) is not None:
            set_values = {**dict.fromkeys((also_set or {}).get(n, ())), **row}
            if stale_row := find_stale_row(old, set_values, [old.config_id], [field, str(n)]):
                outdated.append(stale_row)
    stale_errors = await load_stale_version_errors(unit, outdated)
    unit.field_errors += stale_errors
    rejected_numbers = {error.path[1] for error in stale_errors}
    return [(n, row) for n, row in rows if str(n) not in rejected_numbers]
