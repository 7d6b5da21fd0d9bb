"""Puts the stored secrets of all stores under the newest key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import text

from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.core.encryption import Undecryptable, Vault

BATCH = 500


@dataclass(frozen=True, slots=True)
class Place:
    """Where secrets are kept: which rows of a table have one, the store that each is of, and how it is read and written."""

    table: str
    store: str
    secret: str
    change: str

    def count(self) -> str:
        """How many there are."""
        return f"SELECT count(*) FROM {self.table} WHERE {self.secret} IS NOT NULL"

    def read(self) -> str:
        """Some of them, in the order of their keys."""
        return f"""
SELECT id, {self.store} AS store, {self.secret} AS token FROM {self.table}
WHERE {self.secret} IS NOT NULL AND (CAST(:after AS uuid) IS NULL OR id > CAST(:after AS uuid))
ORDER BY id LIMIT :limit
"""

    def write(self) -> str:
        """Put others in their place, only where one is still what was read: who changes it meanwhile keeps the new one."""
        return f"""
UPDATE {self.table} SET {self.change}
FROM unnest(CAST(:ids AS uuid[]), CAST(:was AS text[]), CAST(:becomes AS text[])) AS given (id, was, becomes)
WHERE {self.table}.id = given.id AND {self.secret} = given.was
RETURNING {self.table}.id
"""


SHOPIFY = Place(
    "configs",
    "id",
    "integrations #>> '{shopify,accessToken}'",
    "integrations = jsonb_set(integrations, '{shopify,accessToken}', to_jsonb(given.becomes))",
)
PLACES = (
    SHOPIFY,
    Place("webhooks", "config_id", "secret", "secret = given.becomes"),
    Place("webhooks", "config_id", "previous_secret", "previous_secret = given.becomes"),
)


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many secrets were encrypted anew, how many needed it not, and the ids of the stores of those that no key opens."""

    rotated: int = 0
    current: int = 0
    unreadable: tuple[str, ...] = ()

    def __add__(self, other: "Rotation") -> "Rotation":
        return Rotation(self.rotated + other.rotated, self.current + other.current, self.unreadable + other.unreadable)


async def rotate_tokens(database: Database, vault: Vault, progress: Callable[[int, int], None]) -> Rotation:
    """Encrypt the secrets of all stores under the newest key. `progress` is told how many are done, of how many.

    Stopped half-way or run twice it does no harm. What no key opens is left as it is.
    """
    total = sum([int(row.count) for place in PLACES for row in await database.fetch(_count(place))])
    rotation, done = Rotation(), 0
    for place in PLACES:
        after: str | None = None
        while rows := await database.fetch(_read(place), {"after": after, "limit": BATCH}):
            rotation += await _rotate(database, vault, place, rows)
            done, after = done + len(rows), rows[-1].id
            progress(done, max(done, total))
    return rotation


async def _rotate(database: Database, vault: Vault, place: Place, rows: Sequence[Row]) -> Rotation:
    old = [row for row in rows if not vault.is_current(row.token)]
    opened = {row.id: token for row in old if (token := _rotated(vault, row.token))}
    known = [row for row in old if row.id in opened]
    given = {"ids": [row.id for row in known], "was": [row.token for row in known], "becomes": list(opened.values())}
    written = await database.fetch(_write(place), given) if known else []
    return Rotation(len(written), len(rows) - len(old), tuple(row.store for row in old if row.id not in opened))


def _rotated(vault: Vault, token: str) -> str | None:
    try:
        return vault.rotate(token)
    except Undecryptable:
        return None


@cache
def _count(place: Place) -> Statement:
    return compiled(text(place.count()))


@cache
def _read(place: Place) -> Statement:
    return compiled(text(place.read()))


@cache
def _write(place: Place) -> Statement:
    return compiled(text(place.write()))
