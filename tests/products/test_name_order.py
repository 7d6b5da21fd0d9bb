"""Products by name: numbers by value, without accents, case and punctuation, in any script."""

from random import Random

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client import Client
from tests.factories import make_product, make_store

PAGE = """query($c: ID!, $o: SortOrder!, $after: String) {
  products(configId: $c, sort: {key: NAME, order: $o}, first: 7, after: $after) {
    nodes { title } pageInfo { endCursor hasNextPage } } }"""

# Of each script a few names in the order in which people read them.
NAMES_IN_ORDER = [
    "+ 1", "9 lives", "10 lives", "0100 lives", "12345678 lives", "123456789 lives", "1234567890123 lives", "a", "“Abc” lamp",
    "Äbd lamp", "[abe] lamp", "C", "C#", "C+", "C++", "Item 1", "item #2", "Item 09", "Item 9", "Item 09 a",
    "ÍTEM 10", "Item 10 b 2", "Item 10 b 11", "Item 100",
    "Ølvarme", "Sub-zero", "sub zero 2", "Women's 9", "Womens 10", "Zebra",
    "άλφα", "Βήτα 2", "βήτα 10", "Ёлка 9", "елка 10", "Кружка ٩", "кружка ١٠", "אָב 1", "אב 2", "مُحَمَّد", "محمد ٩", "محمد ١٠",
    "किताब ९", "किताब १०", "กล่อง", "เก้าอี้", "ขวด ๙", "ขวด ๑๐", "かさ", "ガス", "きもの", "抹茶 9", "抹茶 10",
]  # fmt: skip


@pytest.mark.parametrize("order", ["ASC", "DESC"])
async def test_names_sort_as_people_read(shopper: Client, order: str) -> None:
    store = await make_store(shopper.database)
    for name in Random(1).sample(NAMES_IN_ORDER, len(NAMES_IN_ORDER)):
        await make_product(shopper.database, store, title=name)
    titles: list[str] = []
    after, has_next = None, True
    while has_next:
        page = (await shopper.ask(PAGE, c=store, o=order, after=after))["products"]
        titles += [node["title"] for node in page["nodes"]]
        after, has_next = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert titles == (NAMES_IN_ORDER if order == "ASC" else NAMES_IN_ORDER[::-1])


@given(st.lists(st.integers(0, 10**14) | st.sampled_from([0, 9, 10, 99, 100, 99_999_999, 100_000_000]), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sort_key_compares_numbers_by_value(empty_url: str, numbers: list[int]) -> None:
    sql = """SELECT text FROM unnest(%s::text[]) AS given (text)
      ORDER BY storefront_sort_key(storefront_fold('Item ' || text || ' b')) COLLATE "C", text COLLATE "C" """
    with psycopg.connect(empty_url) as connection:
        found = connection.execute(sql, [list(map(str, numbers))]).fetchall()
    assert [int(text) for (text,) in found] == sorted(numbers)
    long = "ﷺ" * 255
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("SELECT length(storefront_sort_key(storefront_fold(%s)))", [long]).fetchall() == [(500,)]
