"""The schema is the target of the first release, except for the differences that are listed."""

from graphql import build_schema

from tests.contract import DIFFERENCES, compare_with_contract, list_differences

OURS = """
interface Node { id: ID! }
enum Status { OPEN CLOSED }
input StoreInput { id: ID slug: String = "a" }
type Store { name: String slug(first: Int = 3, old: Int): String! }
type Old { gone: Int }
union Found = Store | Old
type Query { node: Node store(by: StoreInput): Store found: Found status: Status }
"""
TARGET = """
directive @cost(weight: Int!) on FIELD_DEFINITION
interface Node { id: ID! }
enum Status { OPEN ARCHIVED }
input StoreInput @oneOf { id: ID slug: String }
type Store implements Node { id: ID! name: String! slug(first: Int = 4, new: [Int!]): String! }
union Found = Store
type Query { node: Node store(by: StoreInput!): Store found: Found status: Status jobs(first: Int): [Node!] }
"""


def test_differences_from_the_target_are_listed() -> None:
    """Run `python -m tests.contract` after a change of the schema, and look at what it does to the list."""
    assert compare_with_contract() == DIFFERENCES.read_text(), "The list is out of date. Run: python -m tests.contract"


def test_comparison_finds_every_kind_of_difference() -> None:
    assert list_differences(build_schema(OURS), build_schema(TARGET)) == [
        "+ @cost: directive on FIELD_DEFINITION",
        "~ Found: Union = Old | Store → Union = Store",
        "- Old: Object",
        "+ Query.jobs: [Node!]",
        "~ Query.store(by:): StoreInput → StoreInput!",
        "+ Status.ARCHIVED: value",
        "- Status.CLOSED: value",
        "~ Store: Object → Object implements Node",
        "+ Store.id: ID!",
        "~ Store.name: String → String!",
        "~ Store.slug(first:): Int = 3 → Int = 4",
        "+ Store.slug(new:): [Int!]",
        "- Store.slug(old:): Int",
        "~ StoreInput: InputObject → InputObject @oneOf",
        '~ StoreInput.slug: String = "a" → String',
    ]
    assert list_differences(build_schema(OURS), build_schema(OURS)) == []
