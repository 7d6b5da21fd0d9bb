"""Puts the stored secrets of all stores under the newest key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import text

from storefront.core.database import Database, Row, Statement, compiled
from storefront.core.secrets import Undecryptable, Vault

BATCH = 500

_COUNT = "SELECT count(*) FROM configs WHERE integrations #>> '{shopify,accessToken}' IS NOT NULL"

_READ = """
SELECT id, integrations #>> '{shopify,accessToken}' AS token FROM configs
WHERE integrations #>> '{shopify,accessToken}' IS NOT NULL AND (CAST(:after AS uuid) IS NULL OR id > CAST(:after AS uuid))
ORDER BY id LIMIT :limit
"""

# Only where the token is still the one that was read: an owner who connects the shop anew meanwhile keeps the new one.
_WRITE = """
UPDATE configs SET integrations = jsonb_set(integrations, '{shopify,accessToken}', to_jsonb(given.becomes))
FROM unnest(CAST(:ids AS uuid[]), CAST(:was AS text[]), CAST(:becomes AS text[])) AS given (id, was, becomes)
WHERE configs.id = given.id AND configs.integrations #>> '{shopify,accessToken}' = given.was
RETURNING configs.id
"""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many tokens were encrypted anew, how many needed it not, and the ids of the stores whose token no key opens."""

    rotated: int = 0
    current: int = 0
    unreadable: tuple[str, ...] = ()

    def __add__(self, other: "Rotation") -> "Rotation":
        return Rotation(self.rotated + other.rotated, self.current + other.current, self.unreadable + other.unreadable)


async def rotate_tokens(database: Database, vault: Vault, progress: Callable[[int, int], None]) -> Rotation:
    """Encrypt the Shopify tokens of all stores under the newest key. `progress` is told how many are done, of how many.

    Stopped half-way or run twice it does no harm. What no key opens is left as it is.
    """
    [(total,)] = await database.fetch(_count())
    rotation, done = Rotation(), 0
    after: str | None = None
    while rows := await database.fetch(_read(), {"after": after, "limit": BATCH}):
        rotation += await _rotate(database, vault, rows)
        done, after = done + len(rows), rows[-1].id
        progress(done, max(done, total))
    return rotation


async def _rotate(database: Database, vault: Vault, rows: Sequence[Row]) -> Rotation:
    old = [row for row in rows if not vault.is_current(row.token)]
    opened = {row.id: token for row in old if (token := _rotated(vault, row.token))}
    known = [row for row in old if row.id in opened]
    given = {"ids": [row.id for row in known], "was": [row.token for row in known], "becomes": list(opened.values())}
    written = await database.fetch(_write(), given) if known else []
    return Rotation(len(written), len(rows) - len(old), tuple(row.id for row in old if row.id not in opened))


def _rotated(vault: Vault, token: str) -> str | None:
    try:
        return vault.rotate(token)
    except Undecryptable:
        return None


@cache
def _count() -> Statement:
    return compiled(text(_COUNT))


@cache
def _read() -> Statement:
    return compiled(text(_READ))


@cache
def _write() -> Statement:
    return compiled(text(_WRITE))
