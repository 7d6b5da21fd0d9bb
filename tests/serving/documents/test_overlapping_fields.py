"""The linear overlapping fields rule agrees with graphql-core's rule."""

import random
from collections.abc import Iterator

import pytest
from graphql import NoUnusedFragmentsRule, OverlappingFieldsCanBeMergedRule, build_schema, parse, validate

from storefront.serving.documents.overlapping_fields import FieldsCanBeMergedRule
from storefront.serving.documents.validation import VALIDATION_RULES

SCHEMA = build_schema(
    """
    interface Named { name: String pal: Named list: [Named!] n(x: Int, y: [Int], z: In): Int }
    input In { a: Int, b: [Int] }
    type Dog implements Named { name: String! pal: Dog list: [Named!] n(x: Int, y: [Int], z: In): Int bark: Int id: ID! }
    type Cat implements Named { name: String pal: Cat list: [Named!] n(x: Int, y: [Int], z: In): Int bark: String id: ID! }
    union Pet = Dog | Cat
    type Query { dog: Dog cat: Cat pet: Pet named: Named dogs: [Dog!]! n(x: Int, y: [Int], z: In): Int }
    """
)
FIELDS = {
    "Query": ("dog", "cat", "pet", "named", "dogs", "n", "__typename"),
    "Named": ("name", "pal", "list", "n", "__typename"),
    "Dog": ("name", "pal", "list", "n", "bark", "id", "__typename"),
    "Cat": ("name", "pal", "list", "n", "bark", "id", "__typename"),
    "Pet": ("__typename",),
}
BELOW = {"dog": "Dog", "cat": "Cat", "pet": "Pet", "named": "Named", "dogs": "Dog", "list": "Named"}
ARGUMENTS = (
    "",
    "",
    "(x: 1)",
    "(x: $v)",
    "(y: [1, 2])",
    "(y: [2, 1])",
    "(z: {a: 1, b: [1]})",
    "(z: {b: [1], a: 1})",
    "(y: [], x: 1)",
)
OTHERS = {"Named": ("Dog", "Cat", "Named"), "Pet": ("Dog", "Cat", "Named"), "Dog": ("Dog", "Named"), "Cat": ("Cat", "Named")}


class Draft:
    """A document that selects the same names again and again, so that some of it cannot be merged."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._left = 25
        self._types = [self._random.choice(("Dog", "Cat", "Named", "Query")) for _ in range(self._random.randrange(4))]

    def text(self) -> str:
        """All of it. Fragments spread those after them, so that there are no cycles."""
        operation = f"query($v: Int) {{ {self._selections('Query', 0, 0)} n(x: $v) }}"
        fragments = [f"fragment F{i} on {type_} {{ {self._selections(type_, 0, i + 1)} }}" for i, type_ in enumerate(self._types)]
        return " ".join([operation, *fragments])

    def _selections(self, type_: str, depth: int, after: int) -> str:
        return " ".join(self._selection(type_, depth, after) for _ in range(self._random.randint(1, 4)))

    def _selection(self, type_: str, depth: int, after: int) -> str:
        self._left -= 1
        spread = [i for i in range(after, len(self._types)) if self._types[i] in (*OTHERS.get(type_, ()), type_)]
        kind = self._random.random()
        if kind < 0.15 and spread:
            return f"...F{self._random.choice(spread)}"
        if kind < 0.4 and type_ in OTHERS and depth < 5 and self._left > 0:
            other = self._random.choice(OTHERS[type_])
            return f"... on {other} {{ {self._selections(other, depth + 1, after)} }}"
        return self._field(type_, depth, after)

    def _field(self, type_: str, depth: int, after: int) -> str:
        name = self._random.choice(FIELDS[type_])
        below = {"Dog": "Dog", "Cat": "Cat"}.get(type_, "Named") if name == "pal" else BELOW.get(name)
        alias = self._random.choice(("", "", "", "a: ", "b: "))
        if below is None:
            return f"{alias}{name}{self._random.choice(ARGUMENTS) if name == 'n' else ''}"
        if depth > 4 or self._left <= 0:
            return f"{alias}__typename"
        return f"{alias}{name} {{ {self._selections(below, depth + 1, after)} }}"


def drafts() -> Iterator[str]:
    for seed in range(1_500):
        yield Draft(seed).text()


def test_rule_agrees_with_graphql_core() -> None:
    verdicts = {True: 0, False: 0}
    for text in drafts():
        document = parse(text)
        theirs, ours = (
            not validate(SCHEMA, document, [rule]) for rule in (OverlappingFieldsCanBeMergedRule, FieldsCanBeMergedRule)
        )
        # What no operation reaches is an error for another rule.
        assert ours is theirs or validate(SCHEMA, document, [NoUnusedFragmentsRule]), text
        verdicts[ours] += 1
    # A test of which one side hardly ever comes up tells nothing.
    assert min(verdicts.values()) > 200, verdicts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{ dog { a: name a: id } }", "'name' and 'id' are different fields"),
        ("{ n(x: 1) n(x: 2) }", "they have differing arguments"),
        ("{ pet { ... on Dog { bark } ... on Cat { bark } } }", "they return conflicting types 'Int' and 'String'"),
        ("{ dog { pal { a: name } } dog { pal { a: bark } } }", "'name' and 'bark' are different fields"),
    ],
)
def test_error_names_conflict_and_locations(text: str, reason: str) -> None:
    (error,) = validate(SCHEMA, parse(text), VALIDATION_RULES)
    assert reason in error.message
    assert len(error.locations or ()) == 2


def test_rule_reports_one_error_per_name() -> None:
    text = " ".join(["a: name a: id b: name b: bark"] * 50)
    assert len(validate(SCHEMA, parse(f"{{ dog {{ {text} }} }}"), VALIDATION_RULES)) == 2
