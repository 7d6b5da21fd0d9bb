"""Hostile requests: tests check their rejection, the benchmark its cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REFUSED, UNPARSED, INVALID, UNUSABLE = "LIMIT_EXCEEDED", "GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT"


@dataclass(frozen=True, slots=True)
class Attack:
    """A request, the code that it is refused with (None: it is answered, because it only looks bad), and what the error tells."""

    query: str
    code: str | None = REFUSED
    details: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)


def deep(levels: int) -> str:
    """Types of types, so many levels deep."""
    return '{ __type(name: "Query") ' + "{ ofType " * (levels - 2) + "{ name }" + " }" * (levels - 1)


def chain(fragments: int) -> str:
    """Fragments of which each goes one level deeper and spreads the next."""
    links = (f"fragment F{n} on __Type {{ ofType {{ ...F{n + 1} }} }}" for n in range(fragments))
    return f'{{ __type(name: "Query") {{ ...F0 }} }} {" ".join(links)} fragment F{fragments} on __Type {{ name }}'


def loop(fragments: int) -> str:
    """Fragments of which each spreads the next, and the last one the first."""
    links = (f"fragment F{n} on Query {{ __typename ...F{(n + 1) % fragments} }}" for n in range(fragments))
    return f"{{ ...F0 }} {' '.join(links)}"


def doubling(fragments: int) -> str:
    """Fragments of which each spreads the next one twice, under two names."""
    below = "related(first: 1) {{ ...F{} }}"
    links = (f"fragment F{n} on Product {{ a{n}: {below.format(n + 1)} b{n}: {below.format(n + 1)} }}" for n in range(fragments))
    return f'{{ product(by: {{id: "{KEY}"}}) {{ ...F0 }} }} {" ".join(links)} fragment F{fragments} on Product {{ title }}'


def company(levels: int) -> str:
    """Fragments that are spread in ever new company: from level to level there are twice as many sets of them."""
    links = []
    for level in range(levels):
        for n in range(level + 1):
            next_ = f"...F{level + 1}x{n + 1}"
            both = f"...F{level + 1}x0 {next_}" if n == 0 else next_
            alone = f"...F{level + 1}x0" if n == 0 else next_
            links.append(f"fragment F{level}x{n} on __Type {{ a: ofType {{ {both} }} b: ofType {{ {alone} }} }}")
    ends = (f"fragment F{levels}x{n} on __Type {{ name }}" for n in range(levels + 1))
    return f'{{ __type(name: "Query") {{ ...F0x0 }} }} {" ".join(links)} {" ".join(ends)}'


def times(part: str, number: int) -> str:
    """The part so many times, with its number in place of #."""
    return " ".join(part.replace("#", str(n)) for n in range(number))


def pages(number: int) -> str:
    """So many lists of products of each store, each of another length."""
    fields = " ".join(f"a{n}: products(first: {n + 1}) {{ ...P }}" for n in range(number))
    return f"{{ configs(first: 2) {{ nodes {{ {fields} }} }} }} fragment P on ProductConnection {{ nodes {{ id }} }}"


def nested(lists: int, value: Any) -> Any:
    """The value inside so many lists."""
    for _ in range(lists):
        value = [value]
    return value


# The form of an id, of nothing that there is.
KEY = "018f0000-0000-7000-8000-000000000000"
FILLED = "a#: products(filter: $x) { totalCount }"
SEARCHED = "a#: products(search: $x#) { totalCount }"
# Every list of a filter, as long as may be: 410 items.
FULL_FILTER = {
    "ids": [KEY] * 100,
    "tags": [f"tag {n}" for n in range(100)],
    "categories": [f"category {n}" for n in range(100)],
    "attributes": [{"name": f"name {n}", "values": [f"value {m}" for m in range(10)]} for n in range(10)],
}
TYPED = "a#: predictiveSearch(search: $x) { suggestions { text } }"
# As many variants as a product may have.
VARIANTS = {
    "productId": KEY,
    "variants": [{"price": "1.00", "attributes": [{"name": "Size", "value": f"s{n}"}]} for n in range(2_048)],
}
PRODUCT_TYPE = 'a#: __type(name: "Product") { fields { name args { name } } }'
VARIANT = "a#: variant(by: {attributes: $x}) { id }"

ATTACKS: Mapping[str, Attack] = {
    "ten thousand aliases": Attack(f"{{ {times('a#: __typename', 10_000)} }}", details={"limit": "characters"}),
    "two hundred aliases": Attack(
        f"{{ configs {{ {times('a#: totalCount', 200)} }} }}", details={"limit": "aliases", "found": 200}
    ),
    "depth 100": Attack(deep(100), details={"limit": "depth", "found": 100}),
    "depth 80 through fragments": Attack(chain(78), details={"limit": "depth", "found": 80}),
    "a megabyte of comment": Attack("#" * 1_000_000 + "\n{ __typename }", details={"limit": "characters", "found": 1_000_015}),
    "a megabyte of string": Attack(f'{{ a(b: "{"x" * 1_000_000}") }}', details={"limit": "characters"}),
    "49,000 comments": Attack("#\n" * 49_000 + "{ __typename }", None),
    "49,000 lines": Attack("\r\n" * 49_000 + "{ __typename }", None),
    "90,000 commas": Attack("," * 90_000 + "{ __typename }", None),
    "a string of 45,000 escapes": Attack(
        '{ __type(name: "' + "\\n" * 45_000 + '") { name } }', UNUSABLE, {"limit": "characters", "found": 45_000}
    ),
    "a string of 90,000 lines": Attack('{ __type(name: """a' + "\n" * 90_000 + 'b""") { name } }', UNUSABLE),
    "braces alone": Attack("{" * 90_000, details={"limit": "tokens", "found": 90_000}),
    "braces few enough": Attack("{" * 999, UNPARSED),
    "a string without end": Attack('{ a(b: """' + '\\"""' * 20_000, UNPARSED),
    "strings without end": Attack('{ a(b: "' + '"""\n' * 20_000, details={"limit": "tokens"}),
    "circular fragments": Attack(loop(110), INVALID),
    "a fragment of itself": Attack(
        "{ ...F } fragment F on Query { configs { nodes { owner { configs { nodes { id } } } } } ...F }", INVALID
    ),
    "fragments that double": Attack(doubling(16), details={"limit": "loads"}),
    "fragments in ever new company": Attack(company(7), details={"limit": "selections"}),
    "one field 950 times": Attack(f"{{ configs {{ {times('totalCount', 950)} }} }}", details={"limit": "fields", "found": 951}),
    "one field as often as may be": Attack(f"{{ configs {{ {times('totalCount', 299)} }} }}", None),
    "one object as often as may be": Attack(f"{{ {times('configs { totalCount }', 150)} }}", None),
    "fields at the top": Attack(f"{{ {times('a#: __typename', 60)} }}", details={"limit": "roots", "found": 60}),
    "fields at the top in fragments": Attack(
        f"{{ {times('...F#', 60)} }} {times('fragment F# on Query { a#: __typename }', 60)}",
        details={"limit": "roots", "found": 60},
    ),
    "directives": Attack(f"{{ __typename {times('@include(if: true)', 120)} }}", details={"limit": "directives", "found": 120}),
    "mutations": Attack(f"mutation {{ {times('a#: __typename', 21)} }}", details={"limit": "mutations", "found": 21}),
    "pages of pages of pages": Attack(
        "{ configs(first: 100) { nodes { products(first: 100) { nodes { variants(first: 100) { nodes { id } } } } } } }",
        details={"limit": "cost", "found": 2 + 100 * (2 + 100 * (2 + 100))},
    ),
    "a page below each product of a page": Attack(
        "{ configs(first: 1) { nodes { products(first: 100) { nodes { config { "
        "products(first: 100) { nodes { title description } } } } } } } }",
        None,
    ),
    "types of fields of types": Attack(
        "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }", INVALID
    ),
    "fields of all types under 40 names": Attack(
        f"{{ __schema {{ types {{ {times('a#: fields { name }', 40)} }} }} }}", details={"limit": "introspection"}
    ),
    "arguments of all fields under 12 names": Attack(
        f"{{ __schema {{ types {{ {times('a#: fields { args { name type { name ofType { name } } } }', 12)} }} }} }}",
        details={"limit": "introspection"},
    ),
    "one type under 45 names": Attack(f"{{ {times(PRODUCT_TYPE, 45)} }}", details={"limit": "introspection"}),
    "what types are of, forever": Attack(deep(21), details={"limit": "depth", "found": 21}),
    "unknown fields at the top": Attack(f"{{ {times('x#', 290)} }}", details={"limit": "roots"}),
    "unknown fields": Attack(f"{{ configs {{ {times('x#', 290)} }} }}", INVALID),
    "an input of unknown fields": Attack(f"{{ config(by: {{ {times('a#: 1', 325)} }}) {{ id }} }}", INVALID),
    "variables without end": Attack(
        "query($x: ID!) { products(configId: $x) { totalCount } }", details={"limit": "values"}, variables={"x": [1] * 400_000}
    ),
    "as many variables as may be": Attack(
        "query($x: [ID!]) { products(configId: 1, filter: {ids: $x}) { totalCount } }", UNUSABLE, variables={"x": [1] * 19_900}
    ),
    "variables of objects": Attack(
        "query($x: ID!) { products(configId: $x) { totalCount } }",
        UNUSABLE,
        variables={"x": [{str(n): n} for n in range(9_900)]},
    ),
    "a list of 6,500 attributes under 29 names": Attack(
        f'query($x: [AttributeInput!]!) {{ product(by: {{id: "{KEY}"}}) {{ {times(VARIANT, 29)} }} }}',
        UNUSABLE,
        {"field": "by.attributes", "limit": "items", "maximum": 10, "found": 6_500},
        {"x": [{"name": f"n{n}", "value": "v"} for n in range(6_500)]},
    ),
    "lists as long as may be under 28 names": Attack(
        f"query($x: [AttributeInput!]!) {{ configs(first: 2) {{ nodes {{ products(first: 1) {{ nodes {{"
        f" {times(VARIANT, 28)} }} }} }} }} }}",
        None,
        variables={"x": [{"name": f"n{n}", "value": "v"} for n in range(10)]},
    ),
    "one list under 70 names, each of another length": Attack(
        pages(70),
        details={"limit": "loads", "found": 71},
    ),
    "one list under 29 names, each of another length": Attack(
        pages(29),
        None,
    ),
    "filters as full as may be under 40 names": Attack(
        f"query($x: ProductFilterInput) {{ configs(first: 1) {{ nodes {{ {times(FILLED, 40)} }} }} }}",
        details={"limit": "loads", "found": 41},
        variables={"x": FULL_FILTER},
    ),
    "filters as full as may be under 29 names": Attack(
        f"query($x: ProductFilterInput) {{ configs {{ nodes {{ {times(FILLED, 29)} }} }} }}",
        details={"limit": "inputItems", "found": 29 * 410},
        variables={"x": FULL_FILTER},
    ),
    "filters as full as may be, as often as may be": Attack(
        f"query($x: ProductFilterInput) {{ configs(first: 1) {{ nodes {{ {times(FILLED, 4)} }} }} }}",
        None,
        variables={"x": FULL_FILTER},
    ),
    "lists in eight thousand filters": Attack(
        f"query($x: ProductFilterInput) {{ configs(first: 100) {{ nodes {{ {times(FILLED, 80)} }} }} }}",
        details={"limit": "loads", "found": 81},
        variables={"x": {"tags": [f"tag {n}" for n in range(100)]}},
    ),
    "characters that grow to 18, under 25 names": Attack(
        f"query($s: ID!, $x: String!) {{ config(by: {{id: $s}}) {{ {times(TYPED, 25)} }} }}",
        UNUSABLE,
        {"field": "search", "limit": "folded characters", "maximum": 600, "found": 3_600},
        {"s": KEY, "x": "\ufdfa" * 200},
    ),
    "searches as long as may be under 29 names": Attack(
        f"query({times('$x#: String!', 29)}) {{ configs(first: 1) {{ nodes {{ {times(SEARCHED, 29)} }} }} }}",
        details={"limit": "inputItems", "found": 29 * 250},
        variables={f"x{n}": " ".join(f"wo{n:02}{m:02}" for m in range(28)) for n in range(29)},
    ),
    "searches as long as may be, as often as may be": Attack(
        f"query({times('$x#: String!', 8)}) {{ configs(first: 1) {{ nodes {{ {times(SEARCHED, 8)} }} }} }}",
        None,
        variables={f"x{n}": " ".join(f"wo{n:02}{m:02}" for m in range(28)) for n in range(8)},
    ),
    "a number of rows that none have, below all stores": Attack(
        f"{{ configs(first: 100) {{ nodes {{ {times('a#: products(first: 0) { totalCount }', 29)} }} }} }}",
        UNUSABLE,
        {"field": "first"},
    ),
    "500 events under 20 names": Attack(
        f"mutation($x: TrackEventsInput!) {{ {times('a#: trackEvents(input: $x) { recorded }', 20)} }}",
        details={"limit": "mutationItems", "found": 20 * 30 * 500},
        variables={"x": {"configId": KEY, "consent": True, "events": [{"event": f"e{n}"} for n in range(500)]}},
    ),
    "500 events twice": Attack(
        f"mutation($x: TrackEventsInput!) {{ {times('a#: trackEvents(input: $x) { recorded }', 2)} }}",
        None,
        variables={"x": {"configId": KEY, "consent": False, "events": [{"event": f"e{n}"} for n in range(500)]}},
    ),
    "2,048 variants under 20 names": Attack(
        f"mutation($x: SetProductVariantsInput!) {{ {times('a#: setProductVariants(input: $x) { replayed }', 20)} }}",
        details={"limit": "mutationItems"},
        variables={"x": VARIANTS},
    ),
    "2,048 variants without a token": Attack(
        "mutation($x: SetProductVariantsInput!) { setProductVariants(input: $x) { replayed } }",
        "UNAUTHENTICATED",
        variables={"x": VARIANTS},
    ),
    "a megabyte without a token": Attack(
        "mutation($x: CreateProductInput!) { createProduct(input: $x) { replayed } }",
        "UNAUTHENTICATED",
        variables={"x": {"configId": KEY, "title": "a", "tags": ["x" * 4_000] * 250}},
    ),
    "half a million empty lists": Attack(
        "query($x: [ID!]) { products(configId: 1, filter: {ids: $x}) { totalCount } }",
        details={"limit": "values"},
        variables={"x": [[]] * 370_000},
    ),
    "an object of 19,900 unknown fields": Attack(
        "query($x: ProductFilterInput) { products(configId: 1, filter: $x) { totalCount } }",
        UNUSABLE,
        {"field": "filter", "limit": "fields", "found": 19_900},
        {"x": {f"tags{n}": n for n in range(19_900)}},
    ),
    "lists in lists in JSON": Attack(
        "mutation($x: TrackEventsInput!) { trackEvents(input: $x) { recorded } }",
        UNUSABLE,
        {"limit": "characters"},
        {
            "x": {
                "configId": KEY,
                "consent": True,
                "events": [{"event": "a", "properties": {"a": nested(500, ["x" * 60_000] * 10)}}],
            }
        },
    ),
    "half a character below 400 lists": Attack(
        "query($x: [ID!]) { products(configId: 1, filter: {ids: $x}) { totalCount } }",
        UNUSABLE,
        variables={"x": nested(400, ["\ud800"] + ["x"] * 19_000)},
    ),
    "as many variables as the tokens allow": Attack(
        f"query({times('$x#: Int', 245)}) {{ configs {{ totalCount }} }}", INVALID, variables={f"x{n}": n for n in range(245)}
    ),
    "every operation with every variable": Attack(
        f"{times('query A#($x: Int!) { ...F }', 90)} fragment F on Query {{ configs {{ nodes {{"
        f" {times('a#: products(first: $x) { totalCount }', 90)} }} }} }}",
        details={"limit": "tokens"},
    ),
    "operations that share a fragment": Attack(
        f"{times('query A#($x: Int!) { ...F }', 20)} fragment F on Query {{ configs {{ nodes {{"
        f" {times('a#: products(first: $x) { totalCount }', 55)} }} }} }}",
        details={"limit": "operations", "maximum": 10, "found": 20},
    ),
    "a literal as wide as may be": Attack(
        f"{{ products(configId: 1, filter: {{attributes: [{times('{name: 1, values: 2}', 120)}]}}) {{ totalCount }} }}", INVALID
    ),
}
