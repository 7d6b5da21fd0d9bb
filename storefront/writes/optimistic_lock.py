"""Optimistic locking: a write with an outdated expected version is rejected, unless it can be merged with what changed since."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import text

from storefront.core.db.database import Statement, compile_statement
from storefront.models.row_keys import IN_STORES_SQL, bind_store_type, build_store_parameters, build_store_sql, have_single_store
from storefront.models.rows import VersionedRow
from storefront.writes.field_errors import FieldError, MutationRejected, UserErrorCode
from storefront.writes.transaction import UnitOfWork

# The fields of an input that say what its update is based on. All others are fields that it sets.
_LOCK_FIELDS = {"id", "expectedVersion", "onConflict"}

# The log has changes of a row under the version that each made, and those of a product also, with its other changes, after the
# version that each changed: `former_product`. Without the first change after the expected version the log does not say what
# changed. Fields of variants and reviews have a prefix, variants.price. Beside them are those of the product.
_CHANGES_SINCE_SQL = f"""
WITH seen AS (
  SELECT * FROM unnest(CAST(:entity_ids AS uuid[]), CAST(:versions AS integer[])) AS seen (id, version)
), since AS (
  SELECT seen.id, changes.version, false AS is_first, changes.changed_fields,
    coalesce(changes.product_id, changes.entity_id) <> changes.entity_id AS is_of_child
  FROM seen JOIN changes ON changes.entity_id = seen.id AND changes.version > seen.version
  WHERE changes.{IN_STORES_SQL}
  UNION ALL
  SELECT seen.id, NULL, CAST(changes.former_product ->> 'version' AS integer) = seen.version, changes.changed_fields, false
  FROM seen JOIN changes ON changes.product_id = seen.id
    AND CAST(changes.former_product ->> 'version' AS integer) >= seen.version
    AND changes.position >= coalesce((
      SELECT max(earlier.position) FROM changes AS earlier
      WHERE earlier.{IN_STORES_SQL} AND earlier.entity_id = seen.id AND earlier.version <= seen.version
    ), 0)
  WHERE changes.{IN_STORES_SQL}
)
SELECT since.id, count(DISTINCT since.version) AS versions, bool_or(since.is_first) AS has_first,
  coalesce(array_agg(DISTINCT substring(field FROM '[^.]+$') ORDER BY substring(field FROM '[^.]+$'))
    FILTER (WHERE field IS NOT NULL), '{{}}') AS fields
FROM since LEFT JOIN LATERAL unnest(since.changed_fields) AS field ON (position('.' IN field) > 0) = since.is_of_child
GROUP BY since.id
"""


@dataclass(frozen=True, slots=True)
class StaleRow:
    """A row whose version differs from the expected one; `path` is the input path of its object.

    `config_ids`: the stores whose logs have its changes. `merged_fields`: the fields that an update sets which is to be merged;
    None if it is not. `field_versions`: of a row that is in no log, the version that last changed each field that ever changed.
    """

    row: VersionedRow
    expected_version: int
    config_ids: Sequence[str]
    path: Sequence[str] = ()
    merged_fields: frozenset[str] | None = None
    field_versions: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class _ChangesSince:
    """The fields that changed after the expected version, and whether all changes are known."""

    fields: Sequence[str] = ()
    is_complete: bool = False


async def reject_stale_version(
    unit: UnitOfWork,
    row: VersionedRow,
    values: Mapping[str, Any],
    *config_ids: str,
    field_versions: Mapping[str, int] | None = None,
) -> None:
    """Raise MutationRejected (STALE_VERSION) if the row has another version than `expectedVersion` of the input `values`.

    Without `expectedVersion` the last write wins. With `onConflict` merge_disjoint the write is accepted if the log of the stores
    has all changes since, or there are `field_versions`, and no change is of a field that the input sets.
    """
    stale_row = find_stale_row(row, values, config_ids, field_versions=field_versions)
    if stale_row and (errors := await load_stale_version_errors(unit, [stale_row])):
        raise MutationRejected(*errors)


def find_stale_row(
    row: VersionedRow,
    values: Mapping[str, Any],
    config_ids: Sequence[str],
    path: Sequence[str] = (),
    *,
    field_versions: Mapping[str, int] | None = None,
) -> StaleRow | None:
    """The row if it has another version than the input expects."""
    expected_version = values.get("expectedVersion")
    if expected_version is None or row.version == expected_version:
        return None
    is_merged = values.get("onConflict") == "merge_disjoint"
    merged_fields = frozenset(get_set_values(values)) if is_merged else None
    return StaleRow(row, expected_version, config_ids, path, merged_fields, field_versions)


def get_set_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the input of an update sets, with their values."""
    return {name: value for name, value in values.items() if name not in _LOCK_FIELDS}


async def load_stale_version_errors(unit: UnitOfWork, stale_rows: Sequence[StaleRow]) -> list[FieldError]:
    """The errors of the stale rows that cannot be merged, with one statement for all of a store."""
    changes = await _load_changes(unit, stale_rows)
    return [
        _make_stale_version_error(stale_row, changes[stale_row.row.id].fields)
        for stale_row in stale_rows
        if not _is_mergeable(stale_row, changes[stale_row.row.id])
    ]


def _is_mergeable(stale_row: StaleRow, changes: _ChangesSince) -> bool:
    # A version ahead of the row is none that the client can have read.
    return (
        stale_row.merged_fields is not None
        and stale_row.expected_version < stale_row.row.version
        and changes.is_complete
        and stale_row.merged_fields.isdisjoint(changes.fields)
    )


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


async def _load_changes(unit: UnitOfWork, stale_rows: Sequence[StaleRow]) -> Mapping[str, _ChangesSince]:
    """What changed after the expected versions, within the log retention, by row id."""
    changes = {stale_row.row.id: _compare_field_versions(stale_row) for stale_row in stale_rows}
    for config_ids in sorted({tuple(stale_row.config_ids) for stale_row in stale_rows if stale_row.config_ids}):
        stale_by_id = {stale_row.row.id: stale_row for stale_row in stale_rows if tuple(stale_row.config_ids) == config_ids}
        parameters = {
            **build_store_parameters(config_ids),
            "entity_ids": list(stale_by_id),
            "versions": [stale_row.expected_version for stale_row in stale_by_id.values()],
        }
        for row in await unit.fetch(_select_changes_since(have_single_store(config_ids)), parameters):
            stale_row = stale_by_id[row.id]
            has_all_versions = row.versions == stale_row.row.version - stale_row.expected_version
            changes[row.id] = _ChangesSince(row.fields, row.has_first or has_all_versions)
    return changes


def _compare_field_versions(stale_row: StaleRow) -> _ChangesSince:
    if stale_row.field_versions is None:
        return _ChangesSince()
    fields = sorted(name for name, version in stale_row.field_versions.items() if version > stale_row.expected_version)
    # No row had a version below 1.
    return _ChangesSince(fields, is_complete=stale_row.expected_version > 0)


@cache
def _select_changes_since(is_single_store: bool) -> Statement:
    sql = build_store_sql(_CHANGES_SINCE_SQL, is_single_store)
    return compile_statement(text(sql).bindparams(bind_store_type(is_single_store)))
