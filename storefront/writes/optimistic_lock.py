"""Optimistic locking: a write with an outdated expected version is rejected, with the fields that changed since."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import text

from storefront.core.db.database import Statement, compile_statement
from storefront.models.rows import VersionedRow
from storefront.writes.field_errors import FieldError, MutationRejected, UserErrorCode
from storefront.writes.transaction import UnitOfWork

# Changed fields of variants and reviews are logged with a prefix: variants.price. Beside them are those of the product.
_CHANGED_FIELDS_SQL = """
SELECT DISTINCT seen.entity_id, substring(field FROM '[^.]+$') AS field
FROM unnest(CAST(:config_ids AS uuid[]), CAST(:entity_ids AS uuid[]), CAST(:versions AS integer[]))
  AS seen (config_id, entity_id, version)
JOIN changes ON changes.config_id = seen.config_id AND changes.entity_id = seen.entity_id AND changes.version > seen.version,
unnest(changes.changed_fields) AS field
WHERE coalesce(changes.product_id, changes.entity_id) = changes.entity_id OR position('.' IN field) > 0
ORDER BY field
"""


@dataclass(frozen=True, slots=True)
class StaleRow:
    """A row whose version differs from the expected one; `path` is the input path of its object."""

    row: VersionedRow
    expected_version: int
    config_id: str | None
    path: Sequence[str] = ()


async def reject_stale_version(
    unit: UnitOfWork, row: VersionedRow, expected_version: int | None, config_id: str | None, path: Sequence[str] = ()
) -> None:
    """Raise MutationRejected (STALE_VERSION) if the row no longer has the expected version; None: last write wins."""
    if expected_version is not None and row.version != expected_version:
        raise MutationRejected(*await load_stale_version_errors(unit, [StaleRow(row, expected_version, config_id, path)]))


async def load_stale_version_errors(unit: UnitOfWork, stale_rows: Sequence[StaleRow]) -> list[FieldError]:
    """The errors of stale rows, with one statement for all of them."""
    fields = await _load_changed_fields(unit, [stale_row for stale_row in stale_rows if stale_row.config_id is not None])
    return [_make_stale_version_error(stale_row, fields[stale_row.row.id]) for stale_row in stale_rows]


def _make_stale_version_error(stale_row: StaleRow, fields: Sequence[str]) -> FieldError:
    error_path = (*stale_row.path, "expectedVersion")
    message = (
        f"{'.'.join(error_path)}: the current version is {stale_row.row.version}, not {stale_row.expected_version}. "
        "Fetch the object again, then retry with its version."
    )
    return FieldError(
        UserErrorCode.STALE_VERSION,
        message,
        error_path,
        {"current_version": stale_row.row.version, "changed_fields": fields, "object_id": stale_row.row.id},
    )


async def _load_changed_fields(unit: UnitOfWork, stale_rows: Sequence[StaleRow]) -> Mapping[str, list[str]]:
    """The fields that changed after the expected versions, within the log retention, by row id."""
    fields: dict[str, list[str]] = defaultdict(list)
    if stale_rows:
        parameters = {
            "config_ids": [stale_row.config_id for stale_row in stale_rows],
            "entity_ids": [stale_row.row.id for stale_row in stale_rows],
            "versions": [stale_row.expected_version for stale_row in stale_rows],
        }
        for row in await unit.fetch(_select_changed_fields(), parameters):
            fields[row.entity_id].append(row.field)
    return fields


@cache
def _select_changed_fields() -> Statement:
    return compile_statement(text(_CHANGED_FIELDS_SQL))
