"""The standard operations of all servers, and the normal form in which their responses are compared.

W1 is a page of 20 products with up to 5 variants and 3 reviews each and the total, newest first; W6 the same with 100; W2 a
product's page; W3 a search with a price range, cheapest first; W4 an analytics report over 30 days; W5 makes a product with
three variants.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import psycopg

from benchmarks.load import Request
from benchmarks.stage import Stage

WORKS = {
    "W1": "page of 20",
    "W6": "page of 100",
    "W2": "product page",
    "W3": "search",
    "W4": "analytics",
    "W5": "create with 3 variants",
}

# Words of titles and descriptions that begin no other word: a search for beginnings finds the same as one for whole words.
SEARCHES = ("Linen", "Wool", "Oak", "Leather", "Bamboo", "Ceramic", "Walnut", "Copper")
MIN_PRICE, MAX_PRICE = "20", "120"
RANGE = {"from": "2026-10-23T00:00:00Z", "to": "2026-11-22T00:00:00Z"}
PAGES = 200
SUBJECT = "benchmark"

_BIGGEST = "SELECT id::text FROM configs ORDER BY (SELECT count(*) FROM products WHERE config_id = configs.id) {} LIMIT 1"
_NEWEST = """SELECT id::text FROM products WHERE config_id = %s AND status = 'active' AND category IS NOT NULL
  ORDER BY created_at DESC LIMIT %s"""
_OWNED = """INSERT INTO user_identities (issuer, subject, user_id) SELECT 'storefront', %s, user_id FROM configs WHERE id = %s
  ON CONFLICT (issuer, subject) DO UPDATE SET user_id = excluded.user_id"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the requests are about: the store that is read and its owner, products of it, and the store that is written to."""

    store: str
    owner: str
    products: Sequence[str]
    workshop: str


def facts(stage: Stage) -> Facts:
    """Look them up. The owner of the store gets a `sub` to sign tokens with, and the store that is written to."""
    with psycopg.connect(stage.url, autocommit=True) as connection:

        def one(sql: str, *given: object) -> str:
            [(found,)] = connection.execute(sql.encode(), given).fetchall()
            return str(found)

        store, workshop = one(_BIGGEST.format("DESC")), one(_BIGGEST.format("ASC"))
        owner = one("SELECT user_id::text FROM configs WHERE id = %s", store)
        connection.execute(_OWNED, [SUBJECT, store])
        connection.execute("UPDATE configs SET user_id = %s WHERE id = %s", [owner, workshop])
        products = [row[0] for row in connection.execute(_NEWEST, [store, PAGES]).fetchall()]
    return Facts(store, owner, products, workshop)


class Api(ABC):
    """How one server is asked for the works, and how its answers are read."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @abstractmethod
    def requests(self, work: str) -> list[Request]:
        """The requests of a work, to be sent in turn."""

    @abstractmethod
    def answer(self, work: str, body: bytes) -> Any:
        """What an answer says, in the form that all servers' answers have. Raises RuntimeError where it is an error."""

    def forms(self) -> Iterator[dict[str, Any]]:
        """Products to make, with three variants each; amounts are text."""
        for number in range(50):
            forms = [
                {"name": f"{color} / M", "price": f"{20 + number + place}.25", "attributes": {"color": color, "size": "M"}}
                for place, color in enumerate(("Black", "Sand", "Teal"))
            ]
            yield {
                "configId": self.facts.workshop,
                "title": f"Bench product {number}",
                "description": f"A product that the benchmark made, number {number}.",
                # The cheapest variant's.
                "price": forms[0]["price"],
                "category": "Kitchen",
                "images": ["https://images.example.com/new/1.jpg", "https://images.example.com/new/2.jpg"],
                "variants": [form | {"inventory": 10 * place + 1} for place, form in enumerate(forms)],
            }


class GraphQLApi(Api):
    """A GraphQL server: one document per work, and variables."""

    documents: ClassVar[dict[str, str]]
    headers: tuple[tuple[str, str], ...] = ()

    def requests(self, work: str) -> list[Request]:
        document = " ".join(self.documents[work].split())
        headers = (("content-type", "application/json"), *self.headers)
        return [
            Request("POST", "/graphql", json.dumps({"query": document, "variables": given}).encode(), headers)
            for given in self.variables(work)
        ]

    def variables(self, work: str) -> list[dict[str, Any]]:
        """The variables of each request of a work."""
        match work:
            case "W1" | "W6":
                return [{"store": self.facts.store, "first": 20 if work == "W1" else 100}]
            case "W2":
                return [{"id": product} for product in self.facts.products]
            case "W3":
                return [{"store": self.facts.store, "search": word} for word in SEARCHES]
            case "W4":
                return [{"store": self.facts.store, **RANGE}]
            case _:
                return [{"input": self.form(form)} for form in self.forms()]

    def form(self, form: dict[str, Any]) -> dict[str, Any]:
        """A product to make as this server takes it."""
        return form

    def answer(self, work: str, body: bytes) -> Any:
        answered = json.loads(body)
        if answered.get("errors"):
            raise RuntimeError(f"{work}: {str(answered['errors'])[:700]}")
        [found] = answered["data"].values()
        return normal(work, found)


_ROW = "id title price compareAtPrice images category tags inventory status createdAt"
_VARIANTS = "variants(first: 5) { nodes { id name price inventory attributes { name value } sku } }"
_WHOLE = """id title description price compareAtPrice images category tags inventory trackInventory
  seoTitle seoDescription status createdAt updatedAt"""


class Storefront(GraphQLApi):
    """Ours."""

    documents: ClassVar = {
        "W1": f"""query W1($store: ID!, $first: Int!) {{ products(configId: $store, first: $first) {{ totalCount nodes {{
          {_ROW} {_VARIANTS} reviews(first: 3) {{ nodes {{ id rating title createdAt }} }} }} }} }}""",
        "W2": f"""query W2($id: ID!) {{ product(by: {{id: $id}}) {{ {_WHOLE}
          variants(first: 100) {{ nodes {{
            id name price compareAtPrice attributes {{ name value }} inventory sku isAvailable createdAt }} }}
          reviews(first: 10) {{ nodes {{ id rating title body createdAt user {{ id name image }} }} }}
          related(first: 4) {{ {_ROW} }} }} }}""",
        "W3": f"""query W3($store: ID!, $search: String!) {{
          products(configId: $store, search: $search, filter: {{minPrice: "{MIN_PRICE}", maxPrice: "{MAX_PRICE}"}},
            sort: {{key: PRICE, order: ASC}}, first: 20) {{ totalCount nodes {{ {_ROW} {_VARIANTS} }} }} }}""",
        "W4": """query W4($store: ID!, $from: DateTime!, $to: DateTime!) {
          analytics(configId: $store, range: {from: $from, to: $to}) {
            pageViews productClicks addToCarts conversionRate topProducts(first: 10) { productId clicks } } }""",
        "W5": f"""mutation W5($input: CreateProductInput!) {{ createProduct(input: $input) {{
          product {{ {_WHOLE} }} userErrors {{ code message }} }} }}""",
    }
    documents["W6"] = documents["W1"]

    def __init__(self, facts: Facts, token: str) -> None:
        super().__init__(facts)
        self._token = token

    def requests(self, work: str) -> list[Request]:
        # Only the owner may see the report and make products; a shopper comes without a token.
        self.headers = (("authorization", f"Bearer {self._token}"),) if work in ("W4", "W5") else ()
        return super().requests(work)

    def form(self, form: dict[str, Any]) -> dict[str, Any]:
        variants = [
            one | {"attributes": [{"name": name, "value": value} for name, value in one["attributes"].items()]}
            for one in form["variants"]
        ]
        return form | {"variants": variants}


# -------------------------------------------------------------------------------------------- normal form


def normal(work: str, found: dict[str, Any]) -> Any:
    """An answer in the form that all have: names, nesting and spelling of values differ from server to server."""
    match work:
        case "W1" | "W6" | "W3":
            rows = _of(found, "nodes", "items", "products")
            return [_of(found, "totalCount", "total"), [_listed(row, work != "W3") for row in rows]]
        case "W2":
            # Servers choose different related products; all are of the same category.
            related = [row["category"] == found["category"] and row["id"] != found["id"] for row in _list(found, "related")]
            variants = [_record(one, _WHOLE_VARIANT) for one in _list(found, "variants")]
            reviews = [_record(one, f"{_REVIEW} body user") for one in _list(found, "reviews")]
            return [_record(found, _WHOLE), variants, reviews, related]
        case "W4":
            counts = [found[name] for name in ("pageViews", "productClicks", "addToCarts")]
            # Products with the same number of clicks as the last one may come in any order, or be missing.
            return [counts, round(found["conversionRate"], 9), [top["clicks"] for top in found["topProducts"]]]
        case _:
            made = _of(found, "product", "result") if "userErrors" in found or "result" in found else found
            return _record(made, "title description price images category status")


_VARIANT, _REVIEW = "id name price inventory attributes sku", "id rating title createdAt"
_WHOLE_VARIANT = f"{_VARIANT} compareAtPrice isAvailable createdAt"


def _listed(row: dict[str, Any], with_reviews: bool) -> list[Any]:
    variants = [_record(one, _VARIANT) for one in _list(row, "variants")]
    return [_record(row, _ROW), variants, [_record(one, _REVIEW) for one in _list(row, "reviews")] if with_reviews else []]


def _record(row: dict[str, Any], names: str) -> dict[str, Any]:
    return {name: _value(name, row[name]) for name in names.split()}


def _amount(value: str | float) -> str:
    return f"{float(value):.2f}"


def _moment(value: str) -> str:
    # JavaScript dates have milliseconds.
    text = value.replace("+00:00", "").rstrip("Z")
    return text.ljust(26, "0")[:23] if "." in text else f"{text}.000"


def _attributes(value: Any) -> Any:
    return {one["name"]: one["value"] for one in value} if isinstance(value, list) else value


_SPELLINGS: dict[str, Callable[[Any], Any]] = {
    "price": _amount,
    "compareAtPrice": _amount,
    "createdAt": _moment,
    "updatedAt": _moment,
    "attributes": _attributes,
    "status": str.lower,
    "user": lambda user: {part: user[part] for part in ("id", "name", "image")},
}


def _value(name: str, value: Any) -> Any:
    return _SPELLINGS[name](value) if value is not None and name in _SPELLINGS else value


def _of(found: Mapping[str, Any], *names: str) -> Any:
    if "pagination" in found and "total" in names:
        return found["pagination"]["total"]
    return next(found[name] for name in names if name in found)


def _list(row: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found: Any = next((value for key, value in row.items() if key.lower().startswith(name)), [])
    return list(found["nodes"] if isinstance(found, dict) else found)
