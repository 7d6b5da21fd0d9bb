"""Moderation of reviews, and replies. Only published reviews count."""

import sqlalchemy as sa
from alembic import op

revision = "0034_review_moderation"
down_revision = "0033_sort_keys"
branch_labels = None
depends_on = None

NEWEST_FIRST: tuple[sa.ColumnElement[object], ...] = (sa.literal_column("created_at DESC"), sa.literal_column("id DESC"))
IS_PUBLISHED = sa.text("status = 'published'")
# For the planner another condition, so that each list has one index.
IS_PUBLISHED_RANGE = sa.text("status >= 'published' AND status <= 'published'")

_COUNT_STARS = """
    UPDATE products AS p SET rating_counts = ARRAY[
      p.rating_counts[1] {sign} s.one, p.rating_counts[2] {sign} s.two, p.rating_counts[3] {sign} s.three,
      p.rating_counts[4] {sign} s.four, p.rating_counts[5] {sign} s.five]
    FROM (
      SELECT product_id, count(*) FILTER (WHERE rating = 1) AS one, count(*) FILTER (WHERE rating = 2) AS two,
             count(*) FILTER (WHERE rating = 3) AS three, count(*) FILTER (WHERE rating = 4) AS four,
             count(*) FILTER (WHERE rating = 5) AS five
      FROM {table}{condition} GROUP BY product_id
    ) AS s
    WHERE p.id = s.product_id;
"""
COUNT_REVIEWS = """
CREATE OR REPLACE FUNCTION storefront_count_reviews() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN {removed} END IF;
  IF TG_OP <> 'DELETE' THEN {added} END IF;
  RETURN NULL;
END $$;
"""


def render_counting(condition: str) -> str:
    """The trigger function that counts reviews under a condition."""
    removed, added = (
        _COUNT_STARS.format(sign=sign, table=table, condition=condition) for sign, table in (("-", "removed"), ("+", "added"))
    )
    return COUNT_REVIEWS.format(removed=removed, added=added)


def upgrade() -> None:
    op.add_column("configs", sa.Column("review_policy", sa.String(), server_default="publish", nullable=False))
    op.create_check_constraint(op.f("configs_review_policy_check"), "configs", "review_policy IN ('publish', 'moderate')")
    op.add_column("reviews", sa.Column("status", sa.String(), server_default="published", nullable=False))
    for name in ("moderation_note", "reply"):
        op.add_column("reviews", sa.Column(name, sa.String(), nullable=True))
    op.add_column("reviews", sa.Column("replied_at", sa.DateTime(timezone=True), nullable=True))
    for name, condition in (
        ("status", "status IN ('pending', 'published', 'hidden')"),
        ("moderation_note", "moderation_note IS NULL OR status = 'hidden'"),
        ("reply", "(reply IS NULL) = (replied_at IS NULL)"),
    ):
        op.create_check_constraint(op.f(f"reviews_{name}_check"), "reviews", condition)
    op.drop_index("reviews_newest_idx", "reviews")
    op.drop_index("reviews_by_rating_idx", "reviews")
    create_lists(IS_PUBLISHED, IS_PUBLISHED_RANGE)
    op.create_index("reviews_by_status_idx", "reviews", ["config_id", "status", *NEWEST_FIRST])
    op.execute(render_counting(" WHERE status = 'published'"))


def create_lists(newest: sa.TextClause | None, of_rating: sa.TextClause | None) -> None:
    """Create the indexes of a product's lists, with their conditions."""
    op.create_index(
        "reviews_by_rating_idx", "reviews", ["config_id", "product_id", "rating", *NEWEST_FIRST], postgresql_where=of_rating
    )
    op.create_index("reviews_newest_idx", "reviews", ["config_id", "product_id", *NEWEST_FIRST], postgresql_where=newest)


def downgrade() -> None:
    # Without the column all reviews would be public.
    op.execute("DELETE FROM reviews WHERE status <> 'published'")
    op.execute(render_counting(""))
    # The indexes are dropped with their column, or the column of their condition.
    for name in ("replied_at", "reply", "moderation_note", "status"):
        op.drop_column("reviews", name)
    create_lists(None, None)
    op.drop_column("configs", "review_policy")
