"""Versions: an update or delete that was made of an older state than the stored one is refused, and told what changed since."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import text

from storefront.commands.unit import Code, Failure, Refused, Unit
from storefront.core.database import Row, Statement, compiled

# What a variant's or a review's change was logged as begins with its noun: variants.price.
_SINCE = """
SELECT DISTINCT substring(field FROM '[^.]+$') AS field
FROM changes, unnest(changed_fields) AS field
WHERE config_id = CAST(:config_id AS uuid) AND entity_id = CAST(:entity_id AS uuid) AND version > :version
ORDER BY field
"""


async def refuse_stale(unit: Unit, row: Row, expected: int | None, config_id: str | None, path: Sequence[str] = ()) -> None:
    """Without an expected version the last write wins; with one the row must still have it."""
    if expected is not None and row.version != expected:
        raise Refused(await stale(unit, row, expected, config_id, path))


async def stale(unit: Unit, row: Row, expected: int, config_id: str | None, path: Sequence[str] = ()) -> Failure:
    """What is told of a row that has moved on."""
    where = (*path, "expectedVersion")
    message = f"{'.'.join(where)}: the version is {row.version} by now, not {expected}. Read it again, then decide."
    fields = await changed_since(unit, config_id, row.id, expected) if config_id else []
    return Failure(Code.STALE_VERSION, message, where, {"current_version": row.version, "changed_fields": fields})


async def changed_since(unit: Unit, config_id: str, entity_id: str, version: int) -> list[str]:
    """The fields that changed after a version, as far back as the log is kept."""
    parameters = {"config_id": config_id, "entity_id": entity_id, "version": version}
    return [row.field for row in await unit.fetch(_since(), parameters)]


@cache
def _since() -> Statement:
    return compiled(text(_SINCE))
