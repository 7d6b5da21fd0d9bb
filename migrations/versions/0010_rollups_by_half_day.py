"""Rollups by two hours and half a day replace those by the hour: ranges at odd times read fewer product rows."""

from collections.abc import Iterator

from alembic import op

revision = "20261129_half_days"
down_revision = "20261128_events_of_stores"
branch_labels = None
depends_on = None

_VISITS = "sessions", "clicked_sessions", "converted_sessions", "purchased_sessions", "last_seen_sessions"
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "totals": ((), ("page_views", "product_clicks", "add_to_carts", "purchases", "searches", *_VISITS)),
    "products": (("product_id",), ("clicks", "add_to_carts")),
    "sources": (("source", "medium", "campaign"), ("events", "sessions")),
}


def _added_up(finer: int, grain: int) -> Iterator[str]:
    """Statements that aggregate longer grains from shorter ones."""
    for table, (keys, counts) in TABLES.items():
        names, sums = ", ".join((*keys, *counts)), ", ".join((*keys, *(f"sum({count})" for count in counts)))
        groups = "".join(f", {key}" for key in keys)
        yield f"""INSERT INTO analytics_{table} (config_id, grain, at, {names})
        SELECT config_id, {grain}, date_bin('{grain} seconds', at, '2001-01-01 00:00:00+00'), {sums}
        FROM analytics_{table} WHERE grain = {finer} GROUP BY config_id, 3{groups}"""


def _without(grain: int) -> Iterator[str]:
    return (f"DELETE FROM analytics_{table} WHERE grain = {grain}" for table in TABLES)


def upgrade() -> None:
    # Blocks concurrent rollups.
    op.execute("SELECT pg_advisory_xact_lock(7312030)")
    for statement in (*_added_up(3_600, 7_200), *_added_up(21_600, 43_200), *_without(3_600)):
        op.execute(statement)


def downgrade() -> None:
    for statement in (*_added_up(900, 3_600), *_without(7_200), *_without(43_200)):
        op.execute(statement)
