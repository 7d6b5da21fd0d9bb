"""Versions: an update or delete that was made of an older state than the stored one is refused, and told what changed since."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import text

from storefront.writes.transaction import Code, Failure, Refused, Unit
from storefront.core.db.database import Row, Statement, compiled

# What a variant's or a review's change was logged as begins with its noun: variants.price.
_SINCE = """
SELECT DISTINCT seen.entity_id, substring(field FROM '[^.]+$') AS field
FROM unnest(CAST(:config_ids AS uuid[]), CAST(:entity_ids AS uuid[]), CAST(:versions AS integer[]))
  AS seen (config_id, entity_id, version)
JOIN changes ON changes.config_id = seen.config_id AND changes.entity_id = seen.entity_id AND changes.version > seen.version,
unnest(changes.changed_fields) AS field
ORDER BY field
"""


@dataclass(frozen=True, slots=True)
class Stale:
    """A row that has moved on since the version that was expected; `path` leads to what it was expected of."""

    row: Row
    expected: int
    config_id: str | None
    path: Sequence[str] = ()


async def refuse_stale(unit: Unit, row: Row, expected: int | None, config_id: str | None, path: Sequence[str] = ()) -> None:
    """Without an expected version the last write wins; with one the row must still have it."""
    if expected is not None and row.version != expected:
        raise Refused(*await stale(unit, [Stale(row, expected, config_id, path)]))


async def stale(unit: Unit, found: Sequence[Stale]) -> list[Failure]:
    """What is told of rows that have moved on, in one statement for all of them."""
    fields = await _changed_since(unit, [one for one in found if one.config_id is not None])
    return [_failure(one, fields[one.row.id]) for one in found]


def _failure(one: Stale, fields: Sequence[str]) -> Failure:
    where = (*one.path, "expectedVersion")
    message = f"{'.'.join(where)}: the version is {one.row.version} by now, not {one.expected}. Read it again, then decide."
    return Failure(Code.STALE_VERSION, message, where, {"current_version": one.row.version, "changed_fields": fields})


async def _changed_since(unit: Unit, found: Sequence[Stale]) -> Mapping[str, list[str]]:
    """The fields that changed after the expected versions, as far back as the log is kept, by the rows' ids."""
    fields: dict[str, list[str]] = defaultdict(list)
    if found:
        parameters = {
            "config_ids": [one.config_id for one in found],
            "entity_ids": [one.row.id for one in found],
            "versions": [one.expected for one in found],
        }
        for row in await unit.fetch(_since(), parameters):
            fields[row.entity_id].append(row.field)
    return fields


@cache
def _since() -> Statement:
    return compiled(text(_SINCE))
