"""Key rotation: re-encrypts the stored secrets of all stores with the newest key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import text

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.core.encryption import DecryptionError, Vault

BATCH_ROWS = 500


@dataclass(frozen=True, slots=True)
class SecretColumn:
    """A column of secrets: its table, and the SQL expressions of its store, its value and its assignment."""

    table: str
    store_expression: str
    secret_expression: str
    assignment: str

    def build_count_sql(self) -> str:
        """SQL that counts the secrets."""
        return f"SELECT count(*) FROM {self.table} WHERE {self.secret_expression} IS NOT NULL"

    def build_select_sql(self) -> str:
        """SQL of one batch, by keyset pagination."""
        return f"""
SELECT id, {self.store_expression} AS store, {self.secret_expression} AS token FROM {self.table}
WHERE {self.secret_expression} IS NOT NULL AND (CAST(:after AS uuid) IS NULL OR id > CAST(:after AS uuid))
ORDER BY id LIMIT :limit
"""

    def build_update_sql(self) -> str:
        """SQL that replaces secrets by compare-and-set: a concurrent change of a secret wins."""
        return f"""
UPDATE {self.table} SET {self.assignment}
FROM unnest(CAST(:ids AS uuid[]), CAST(:was AS text[]), CAST(:becomes AS text[])) AS given (id, was, becomes)
WHERE {self.table}.id = given.id AND {self.secret_expression} = given.was
RETURNING {self.table}.id
"""


SHOPIFY_TOKEN_COLUMN = SecretColumn(
    "configs",
    "id",
    "integrations #>> '{shopify,accessToken}'",
    "integrations = jsonb_set(integrations, '{shopify,accessToken}', to_jsonb(given.becomes))",
)
SECRET_COLUMNS = (
    SHOPIFY_TOKEN_COLUMN,
    SecretColumn("webhooks", "config_id", "secret", "secret = given.becomes"),
    SecretColumn("webhooks", "config_id", "previous_secret", "previous_secret = given.becomes"),
)


@dataclass(frozen=True, slots=True)
class RotationSummary:
    """The number of re-encrypted and of current secrets, and the store ids of secrets that no key decrypts."""

    rotated: int = 0
    current: int = 0
    unreadable: tuple[str, ...] = ()

    def __add__(self, other: "RotationSummary") -> "RotationSummary":
        return RotationSummary(self.rotated + other.rotated, self.current + other.current, self.unreadable + other.unreadable)


async def rotate_stored_secrets(database: Database, vault: Vault, progress: Callable[[int, int], None]) -> RotationSummary:
    """Re-encrypt the secrets of all stores with the newest key. `progress` receives the number done and the total.

    Idempotent, and safe to interrupt. Secrets that no key decrypts stay unchanged.
    """
    total = sum([int(row.count) for column in SECRET_COLUMNS for row in await database.fetch(_count_secrets(column))])
    rotation, done = RotationSummary(), 0
    for column in SECRET_COLUMNS:
        after: str | None = None
        while rows := await database.fetch(_select_secrets(column), {"after": after, "limit": BATCH_ROWS}):
            rotation += await _rotate_batch(database, vault, column, rows)
            done, after = done + len(rows), rows[-1].id
            progress(done, max(done, total))
    return rotation


async def _rotate_batch(database: Database, vault: Vault, column: SecretColumn, rows: Sequence[Row]) -> RotationSummary:
    outdated = [row for row in rows if not vault.is_current(row.token)]
    rotated_tokens = {row.id: token for row in outdated if (token := _try_rotate(vault, row.token))}
    rotatable = [row for row in outdated if row.id in rotated_tokens]
    parameters = {
        "ids": [row.id for row in rotatable],
        "was": [row.token for row in rotatable],
        "becomes": list(rotated_tokens.values()),
    }
    written = await database.fetch(_update_secrets(column), parameters) if rotatable else []
    return RotationSummary(
        len(written), len(rows) - len(outdated), tuple(row.store for row in outdated if row.id not in rotated_tokens)
    )


def _try_rotate(vault: Vault, token: str) -> str | None:
    try:
        return vault.rotate(token)
    except DecryptionError:
        return None


@cache
def _count_secrets(column: SecretColumn) -> Statement:
    return compile_statement(text(column.build_count_sql()))


@cache
def _select_secrets(column: SecretColumn) -> Statement:
    return compile_statement(text(column.build_select_sql()))


@cache
def _update_secrets(column: SecretColumn) -> Statement:
    return compile_statement(text(column.build_update_sql()))
