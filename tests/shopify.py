"""A stub of Shopify's Admin API. Tests can change its catalogue, its throttle and its faults.

Documents are validated and executed against the part of the documented schema that concerns products, so that unknown fields
are rejected here, too. Costs are computed as documented: an object is 1, a connection 2 and its objects.
"""

import asyncio
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from graphql import FieldNode, GraphQLError, GraphQLResolveInfo, InlineFragmentNode, build_schema, execute, parse, validate
from graphql.language import DocumentNode, FragmentSpreadNode, IntValueNode, OperationDefinitionNode, VariableNode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SCHEMA = build_schema("""
schema { query: QueryRoot }
scalar Money scalar HTML scalar URL
type QueryRoot {
  shop: Shop!
  currentAppInstallation: AppInstallation!
  productsCount(query: String, savedSearchId: ID, limit: Int = 10000): Count
  product(id: ID!): Product
  products(first: Int, after: String, sortKey: ProductSortKeys = ID, query: String, reverse: Boolean = false): ProductConnection!
}
enum ProductSortKeys { CREATED_AT ID INVENTORY_TOTAL PRODUCT_TYPE PUBLISHED_AT RELEVANCE TITLE UPDATED_AT VENDOR }
enum ProductStatus { ACTIVE ARCHIVED DRAFT UNLISTED }
enum CurrencyCode { USD EUR CHF }
enum MediaContentType { IMAGE VIDEO MODEL_3D EXTERNAL_VIDEO }
type Count { count: Int! precision: CountPrecision! }
enum CountPrecision { EXACT AT_LEAST }
type Shop { id: ID! name: String! myshopifyDomain: String! currencyCode: CurrencyCode! }
type AppInstallation { id: ID! accessScopes: [AccessScope!]! }
type AccessScope { handle: String! description: String! }
type PageInfo { hasNextPage: Boolean! hasPreviousPage: Boolean! startCursor: String endCursor: String }
type ProductConnection { nodes: [Product!]! pageInfo: PageInfo! }
type Product {
  id: ID! handle: String! title: String! descriptionHtml: HTML! vendor: String! productType: String! isGiftCard: Boolean!
  status: ProductStatus! tags: [String!]! seo: SEO! category: TaxonomyCategory hasOnlyDefaultVariant: Boolean!
  variants(first: Int, after: String): ProductVariantConnection!
  media(first: Int, after: String, query: String): MediaConnection!
}
type SEO { title: String description: String }
type TaxonomyCategory { id: ID! name: String! fullName: String! }
type ProductVariantConnection { nodes: [ProductVariant!]! pageInfo: PageInfo! }
type ProductVariant {
  id: ID! title: String! sku: String price: Money! compareAtPrice: Money inventoryQuantity: Int position: Int!
  barcode: String taxable: Boolean! inventoryPolicy: ProductVariantInventoryPolicy! image: Image
  selectedOptions: [SelectedOption!]! inventoryItem: InventoryItem!
}
enum ProductVariantInventoryPolicy { CONTINUE DENY ASK }
type SelectedOption { name: String! value: String! }
type InventoryItem {
  id: ID! sku: String tracked: Boolean! requiresShipping: Boolean! unitCost: MoneyV2 measurement: InventoryItemMeasurement!
}
type InventoryItemMeasurement { id: ID! weight: Weight }
type Weight { unit: WeightUnit! value: Float! }
enum WeightUnit { GRAMS KILOGRAMS OUNCES POUNDS STONES }
scalar Decimal
type MoneyV2 { amount: Decimal! currencyCode: CurrencyCode! }
type MediaConnection { nodes: [Media!]! pageInfo: PageInfo! }
interface Media { id: ID! mediaContentType: MediaContentType! alt: String }
type MediaImage implements Media { id: ID! mediaContentType: MediaContentType! alt: String image: Image }
type Video implements Media { id: ID! mediaContentType: MediaContentType! alt: String duration: Int }
type Image { url: URL! altText: String }
""")

TOKEN = "shpat_0123456789abcdef0123456789abcdef"
DOMAIN = "stand-in.myshopify.com"
MAX_COST = 1_000


@dataclass
class Fault:
    """A fault that replaces one response. Without a status, the connection is cut in the middle of the body."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass
class Shopify:
    """A shop: its products, token, scopes, throttle, and the next faults."""

    products: list[dict[str, Any]] = field(default_factory=list)
    token: str = TOKEN
    scopes: Sequence[str] = ("read_products", "read_inventory")
    currency: str = "USD"
    # The leaky bucket of cost points. A small or slow one throttles clients.
    most: float = 1_000
    restore_rate: float = 50_000
    faults: list[Fault] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    throttled: int = 0
    costs: list[float] = field(default_factory=list)
    url: str = ""
    delay: float = 0
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    _available: float = 1_000
    _at: float = 0

    async def answers(self, request: Request) -> Response:
        """The endpoint of the Admin API."""
        body = await request.json()
        self.asked.append(body)
        self.was_asked.set()
        await asyncio.sleep(self.delay)
        if self.faults:
            return _render_fault(self.faults.pop(0))
        if request.headers.get("x-shopify-access-token") != self.token:
            problem = "[API] Invalid API key or access token (unrecognized login or wrong password)"
            return JSONResponse({"errors": problem}, 401)
        return JSONResponse(self._execute(body))

    def _execute(self, body: dict[str, Any]) -> dict[str, Any]:
        document, variables = parse(body["query"]), body.get("variables") or {}
        if errors := validate(SCHEMA, document):
            return {"errors": [_render_error(error, "undefinedField") for error in errors]}
        if "read_products" not in self.scopes and "products" in body["query"]:
            problem = "Access denied for products field. Required access: `read_products` access scope."
            return {"errors": [{"message": problem, "extensions": {"code": "ACCESS_DENIED"}}], "data": None}
        cost = _cost(document, variables)
        self.costs.append(cost)
        if cost > MAX_COST:
            problem = f"Query cost is {cost}, which exceeds the single query max cost limit ({MAX_COST})."
            return {"errors": [{"message": problem, "extensions": {"code": "MAX_COST_EXCEEDED", "cost": cost}}]}
        now = time.monotonic()
        self._available = min(self.most, self._available + (now - self._at) * self.restore_rate)
        self._at = now
        if cost > self._available:
            self.throttled += 1
            return {"errors": [_THROTTLED], "extensions": {"cost": self._render_cost(cost, None)}}
        self._available -= cost
        result = execute(SCHEMA, document, root_value=self, variable_values=variables, field_resolver=_resolve)
        assert not isinstance(result, asyncio.Future)
        answer: dict[str, Any] = {"data": result.data, "extensions": {"cost": self._render_cost(cost, cost)}}  # type: ignore[union-attr]
        errors_ = result.errors  # type: ignore[union-attr]
        return (
            answer if not errors_ else {**answer, "errors": [_render_error(error, "INTERNAL_SERVER_ERROR") for error in errors_]}
        )

    def _render_cost(self, cost: float, actual: float | None) -> dict[str, Any]:
        status = {"maximumAvailable": self.most, "currentlyAvailable": int(self._available), "restoreRate": self.restore_rate}
        return {"requestedQueryCost": cost, "actualQueryCost": actual, "throttleStatus": status}


_THROTTLED = {"message": "Throttled", "extensions": {"code": "THROTTLED"}}


def _render_error(error: GraphQLError, code: str) -> dict[str, Any]:
    return {"message": error.message, "extensions": {"code": code}}


def _render_fault(fault: Fault) -> Response:
    if fault.status is None:
        return Response(b"{", headers={"content-length": "100"})
    return JSONResponse(fault.body or {"errors": "a fault"}, fault.status, fault.headers)


def _cost(document: DocumentNode, variables: dict[str, Any]) -> float:
    fragments = {node.name.value: node for node in document.definitions if node.kind == "fragment_definition"}  # type: ignore[attr-defined]
    defaults: dict[str, Any] = {}
    for one in document.definitions:
        if isinstance(one, OperationDefinitionNode):
            for variable in one.variable_definitions or ():
                value = variable.default_value
                defaults[variable.variable.name.value] = int(value.value) if isinstance(value, IntValueNode) else None
            return _cost_of(one.selection_set, fragments, {**defaults, **variables})
    return 0


def _cost_of(selections: Any, fragments: dict[str, Any], variables: dict[str, Any]) -> float:
    total = 0.0
    for one in selections.selections if selections else ():
        if isinstance(one, FragmentSpreadNode):
            total += _cost_of(fragments[one.name.value].selection_set, fragments, variables)
        elif isinstance(one, InlineFragmentNode):
            total += _cost_of(one.selection_set, fragments, variables)
        elif isinstance(one, FieldNode) and one.selection_set and one.name.value not in ("nodes", "pageInfo"):
            inner = _cost_of(one.selection_set, fragments, variables)
            total += 1 + inner if (first := _first(one, variables)) is None else 2 + first * (1 + inner)
        elif isinstance(one, FieldNode) and one.name.value == "nodes":
            total += _cost_of(one.selection_set, fragments, variables)
    return total


def _first(node: FieldNode, variables: dict[str, Any]) -> int | None:
    for argument in node.arguments or ():
        if argument.name.value == "first":
            value = argument.value
            found = variables[value.name.value] if isinstance(value, VariableNode) else getattr(value, "value", 0)
            return int(found)
    return None


def _resolve(source: Any, info: "GraphQLResolveInfo[Any]", **arguments: Any) -> Any:
    name = info.field_name
    if isinstance(source, Shopify):
        return _root(source, name, arguments)
    if name in ("variants", "media"):
        return _connection(source[name], arguments)
    return source.get(name)


def _root(shop: Shopify, name: str, arguments: dict[str, Any]) -> Any:
    if name == "shop":
        return {"id": "gid://shopify/Shop/1", "name": "Stand-in", "myshopifyDomain": DOMAIN, "currencyCode": shop.currency}
    if name == "currentAppInstallation":
        scopes = [{"handle": scope, "description": scope} for scope in shop.scopes]
        return {"id": "gid://shopify/AppInstallation/1", "accessScopes": scopes}
    if name == "productsCount":
        return {"count": len(shop.products), "precision": "EXACT"}
    if name == "product":
        return next((one for one in shop.products if one["id"] == arguments["id"]), None)
    return _connection(sorted(shop.products, key=_number), arguments)


def _number(node: dict[str, Any]) -> int:
    return int(node["id"].rpartition("/")[2])


def _connection(rows: list[dict[str, Any]], arguments: dict[str, Any]) -> dict[str, Any]:
    first = arguments.get("first")
    if first is None or not 1 <= first <= 250:
        raise GraphQLError("you must provide one of first or last, between 1 and 250")
    # Cursors stay valid after the deletion of their row: they are numbers of products, else indexes.
    after = int(b64decode(arguments["after"])) if arguments.get("after") else -1
    remaining = [(n, row) for n, row in enumerate(rows) if n > after] if "handle" not in (rows or [{}])[0] else None
    if remaining is None:
        remaining = [(_number(row), row) for row in rows if _number(row) > after]
    page = remaining[:first]
    ends: list[str | None] = [b64encode(str(n).encode()).decode() for n, _ in (page[:1] + page[-1:])] or [None, None]
    info = {"hasNextPage": len(remaining) > first, "hasPreviousPage": after >= 0, "startCursor": ends[0], "endCursor": ends[-1]}
    return {"nodes": [row for _, row in page], "pageInfo": info}


# --------------------------------------------------------------------------------------------- catalogue


def product(number: int, variants: Sequence[dict[str, Any]] = (), images: Sequence[str] = (), **values: Any) -> dict[str, Any]:
    """A product with valid defaults."""
    return {
        "id": f"gid://shopify/Product/{number}",
        "handle": f"product-{number}",
        "title": f"Product {number}",
        "descriptionHtml": f"<p>The {number}th.</p>",
        "vendor": "Maker",
        "productType": "Things",
        "isGiftCard": False,
        "status": "ACTIVE",
        "tags": ["a tag", "another"],
        "seo": {"title": None, "description": None},
        "category": None,
        "variants": list(variants) or [variant(number, {"Title": "Default Title"})],
        "media": [_image(url) for url in images],
        **values,
    }


def variant(number: int, options: dict[str, str], item: dict[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    """A variant of a product. `item`: fields of its inventory item."""
    defaults = {"tracked": True, "requiresShipping": True, "unitCost": None, "measurement": measurement(0.0, "KILOGRAMS")}
    return {
        "id": f"gid://shopify/ProductVariant/{number}",
        "title": " / ".join(options.values()),
        "sku": f"SKU-{number}",
        "barcode": None,
        "taxable": True,
        "inventoryPolicy": "DENY",
        "image": None,
        "price": "10.00",
        "compareAtPrice": None,
        "inventoryQuantity": 5,
        "position": 1,
        "selectedOptions": [{"name": name, "value": value} for name, value in options.items()],
        "inventoryItem": {"id": f"gid://shopify/InventoryItem/{number}", **defaults, **(item or {})},
        **values,
    }


def measurement(value: float, unit: str) -> dict[str, Any]:
    """The measurement of an inventory item: its weight."""
    return {"id": "gid://shopify/InventoryItemMeasurement/1", "weight": {"value": value, "unit": unit}}


def _image(url: str) -> dict[str, Any]:
    image = {"url": url, "altText": None}
    return {"__typename": "MediaImage", "id": url, "mediaContentType": "IMAGE", "alt": None, "image": image}


def video() -> dict[str, Any]:
    """A video among the media of a product."""
    return {"__typename": "Video", "id": "gid://shopify/Video/1", "mediaContentType": "VIDEO", "alt": None, "duration": 3}


@asynccontextmanager
async def selling(shop: Shopify) -> AsyncIterator[Shopify]:
    """Run the shop on a free port; sets its `url`."""
    app = Starlette(routes=[Route("/admin/api/{version}/graphql.json", shop.answers, methods=["POST"])])
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not task.done(), "the shop did not open"
    shop.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield shop
    finally:
        server.should_exit = True
        await task
