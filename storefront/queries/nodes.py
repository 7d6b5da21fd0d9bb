"""The object types of ids: `node` and `nodes` are given ids alone."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import case, literal, select, union_all

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import configs, jobs, products, reviews, users, variants, webhook_deliveries, webhooks
from storefront.queries.visibility import any_of_ids

# The tables whose rows are nodes, with their object types. A job's type depends on its kind.
_TYPES_BY_TABLE = {
    products: literal("Product"),
    variants: literal("ProductVariant"),
    configs: literal("Config"),
    users: literal("User"),
    reviews: literal("Review"),
    webhooks: literal("Webhook"),
    webhook_deliveries: literal("WebhookDelivery"),
    jobs: case((jobs.c.kind == literal("import"), literal("ImportJob")), else_=literal("ExportJob")),
}


async def load_node_types(database: Database, keys: Sequence[str]) -> list[str | None]:
    """The object type of each id; None for an unknown id. Ids are unique across tables."""
    types_by_id = {row.id: row.type for row in await database.fetch(_select_types(), {"ids": list(keys)})}
    return [types_by_id.get(key) for key in keys]


@cache
def _select_types() -> Statement:
    return compile_statement(
        union_all(
            *(
                select(table.c.id, type_.label("type")).where(table.c.id == any_of_ids("ids"))
                for table, type_ in _TYPES_BY_TABLE.items()
            )
        )
    )
