"""How the peers are asked for the standard works."""

import json
from typing import Any, ClassVar
from urllib.parse import quote

from benchmarks.load import Request
from benchmarks.works import MAX_PRICE, MIN_PRICE, RANGE, SEARCHES, Api, Facts, GraphQLApi, normal

_ROW = "id title price compareAtPrice images category tags inventory status createdAt"
_WHOLE = """id title description price compareAtPrice images category tags inventory trackInventory
  seoTitle seoDescription status createdAt updatedAt"""
_VARIANT = "id name price inventory attributes sku"
_WHOLE_VARIANT = "id name price compareAtPrice attributes inventory sku isAvailable createdAt"


class Catalogue(GraphQLApi):
    """The servers whose schema is catalogue.graphql."""

    documents: ClassVar = {
        "W1": f"""query W1($store: ID!, $first: Int!) {{ products(configId: $store, first: $first) {{ total items {{
          {_ROW} variants(first: 5) {{ {_VARIANT} }} reviews(first: 3) {{ id rating title createdAt }} }} }} }}""",
        "W2": f"""query W2($id: ID!) {{ product(id: $id) {{ {_WHOLE}
          variants(first: 100) {{ {_WHOLE_VARIANT} }}
          reviews(first: 10) {{ id rating title body createdAt user {{ id name image }} }}
          related(first: 4) {{ {_ROW} }} }} }}""",
        "W3": f"""query W3($store: ID!, $search: String!) {{
          products(configId: $store, search: $search, minPrice: "{MIN_PRICE}", maxPrice: "{MAX_PRICE}", sort: PRICE) {{
            total items {{ {_ROW} variants(first: 5) {{ {_VARIANT} }} }} }} }}""",
        "W4": """query W4($store: ID!, $from: DateTime!, $to: DateTime!) { analytics(configId: $store, from: $from, to: $to) {
          pageViews productClicks addToCarts conversionRate topProducts { productId clicks } } }""",
        "W5": f"mutation W5($input: ProductInput!) {{ createProduct(input: $input) {{ {_WHOLE} }} }}",
    }
    documents["W6"] = documents["W1"]

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.headers = (("authorization", f"Bearer {facts.owner}"),)


_PG_ROW, _PG_WHOLE, _PG_VARIANT, _PG_WHOLE_VARIANT = (
    fields.replace("id ", "id: rowId ", 1) for fields in (_ROW, _WHOLE, _VARIANT, _WHOLE_VARIANT)
)
_PG_VARIANTS = f"variantsList(first: 5, condition: {{isAvailable: true}}, orderBy: [CREATED_AT_ASC]) {{ {_PG_VARIANT} }}"


class PostGraphile(GraphQLApi):
    """The schema that PostGraphile makes of the tables."""

    documents: ClassVar = {
        "W1": f"""query W1($store: String!, $first: Int!) {{
          allProducts(condition: {{configId: $store, status: "active"}}, first: $first, orderBy: [CREATED_AT_DESC]) {{
            totalCount nodes {{ {_PG_ROW} {_PG_VARIANTS}
              reviewsList(first: 3, orderBy: [CREATED_AT_DESC]) {{ id: rowId rating title createdAt }} }} }} }}""",
        "W2": f"""query W2($id: String!) {{ productByRowId(rowId: $id) {{ {_PG_WHOLE}
          variantsList(first: 100, condition: {{isAvailable: true}}, orderBy: [CREATED_AT_ASC]) {{ {_PG_WHOLE_VARIANT} }}
          reviewsList(first: 10, orderBy: [CREATED_AT_DESC]) {{
            id: rowId rating title body createdAt user {{ id: rowId name image }} }}
          relatedList(limit: 4) {{ {_PG_ROW} }} }} }}""",
        "W3": f"""query W3($store: String!, $search: String!) {{
          findProducts(configId: $store, search: $search, minPrice: "{MIN_PRICE}", maxPrice: "{MAX_PRICE}", first: 20,
            orderBy: [PRICE_ASC, ROW_ID_ASC]) {{ totalCount nodes {{ {_PG_ROW} {_PG_VARIANTS} }} }} }}""",
        "W4": """query W4($store: String!, $from: Datetime!, $to: Datetime!) {
          report(configId: $store, since: $from, until: $to) }""",
        "W5": f"mutation W5($input: MakeProductInput!) {{ makeProduct(input: $input) {{ result {{ {_PG_WHOLE} }} }} }}",
    }
    documents["W6"] = documents["W1"]


class Trpc(Api):
    """The procedures of the original data layer, in tRPC's batch format with superjson."""

    def requests(self, work: str) -> list[Request]:
        store = {"configId": self.facts.store}
        match work:
            case "W1" | "W6":
                return [self._get("products.search", store | {"limit": 20 if work == "W1" else 100})]
            case "W2":
                return [self._get("products.byId", product) for product in self.facts.products]
            case "W3":
                chosen = store | {"minPrice": int(MIN_PRICE), "maxPrice": int(MAX_PRICE), "sortBy": "price", "sortOrder": "asc"}
                return [self._get("products.search", chosen | {"q": word}) for word in SEARCHES]
            case "W4":
                return [self._get("analytics.report", store | RANGE, {"values": {"from": ["Date"], "to": ["Date"]}})]
            case _:
                return [self._create(form) for form in self.forms()]

    @staticmethod
    def _get(procedure: str, given: Any, meta: Any = None) -> Request:
        batch = {"0": {"json": given} | ({"meta": meta} if meta else {})}
        return Request("GET", f"/{procedure}?batch=1&input={quote(json.dumps(batch, separators=(',', ':')))}")

    def _create(self, form: dict[str, Any]) -> Request:
        variants = [one | {"price": float(one["price"])} for one in form["variants"]]
        given = form | {"price": float(form["price"]), "variants": variants}
        headers = ("content-type", "application/json"), ("authorization", f"Bearer {self.facts.owner}")
        return Request("POST", "/products.create?batch=1", json.dumps({"0": {"json": given}}).encode(), headers)

    def answer(self, work: str, body: bytes) -> Any:
        [answered] = json.loads(body)
        if "error" in answered:
            raise RuntimeError(f"{work}: {str(answered['error'])[:700]}")
        return normal(work, answered["result"]["data"]["json"])
