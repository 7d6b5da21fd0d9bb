"""GraphiQL with the examples of `storefront/examples`, whose variables name a real store and product of the database."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from storefront.core.db.database import Database
from storefront.core.settings import Settings
from storefront.queries import configs
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Order, Selection, StoreScope, load_pages
from storefront.queries.visibility import Audience
from storefront.serving.graphiql import page
from storefront.serving.http.endpoint import RequestHandler

EXAMPLES = page.load_examples(Path(__file__).parent / "examples")


def build_graphiql(options: Settings, database: Database) -> tuple[RequestHandler | None, list[BaseRoute]]:
    """The handler of the page and the routes of its assets; None and [] where the settings turn GraphiQL off."""
    # A server of trusted documents executes none that is typed into the page.
    if not options.graphiql or options.trusted_documents == "only":
        return None, []
    return partial(_render_page, database), page.build_graphiql_routes()


async def _render_page(database: Database, _: Request) -> Response:
    return page.render_page(EXAMPLES, await _load_placeholders(database), title="storefront")


async def _load_placeholders(database: Database) -> dict[str, str]:
    store = await configs.load_busiest_store(database)
    if store is None:
        return {}
    popular_listing = Listing(Selection(Audience.SHOPPER), Order("popularity", descending=True), Window(1))
    (result,) = await load_pages(database, [StoreScope(store.id)], popular_listing)
    id_, handle = next(((product.id, product.handle) for product in result.page.rows), ("", ""))
    tomorrow = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return {
        "__DEMO_SLUG__": store.slug,
        "__DEMO_CONFIG_ID__": store.id,
        "__DEMO_PRODUCT_ID__": str(id_),
        "__DEMO_HANDLE__": handle,
        "__DEMO_FROM__": (tomorrow - timedelta(days=30)).isoformat(),
        "__DEMO_TO__": tomorrow.isoformat(),
    }
