"""Statement counts of a nested query over all object types."""

from tests.client import Client
from tests.factories import count_statements, make_product, make_review, make_store, make_user, make_variant

PAGE = """
query Page($config: ID!, $first: Int!) {
  products(configId: $config, first: $first) {
    totalCount
    nodes {
      id title price compareAtPrice images category inventory status createdAt tags
      variants(first: 5) { nodes { id name price inventory attributes { name value } sku } }
      reviews(first: 3) { nodes { id rating title createdAt } }
    }
  }
}
"""


async def test_statement_count_is_independent_of_page_size(shopper: Client) -> None:
    store = await make_store(shopper.database)
    costs = []
    for wanted in (1, 20, 100):
        while (await shopper.ask("query($c: ID!) { products(configId: $c) { totalCount } }", c=store))["products"][
            "totalCount"
        ] < wanted:
            product = await make_product(shopper.database, store)
            await make_variant(shopper.database, product)
            await make_review(shopper.database, product)
        with count_statements(shopper.database) as statements:
            page = (await shopper.ask(PAGE, config=store, first=100))["products"]
        assert len(page["nodes"]) == page["totalCount"] == wanted
        assert all(len(node["variants"]["nodes"]) == len(node["reviews"]["nodes"]) == 1 for node in page["nodes"])
        costs.append(len(statements))
    assert costs == [1, 1, 1]


async def test_times_that_are_missing_are_null(shopper: Client) -> None:
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user)
    product = await make_product(shopper.database, store, status="inactive")
    await make_review(shopper.database, product)
    fields = "nodes { publishedAt reviews { nodes { repliedAt } } }"
    query = f"query($c: ID!) {{ products(configId: $c, filter: {{statuses: [INACTIVE]}}) {{ {fields} }} }}"
    [found] = (await shopper.signed_in(user).ask(query, c=store))["products"]["nodes"]
    assert found == {"publishedAt": None, "reviews": {"nodes": [{"repliedAt": None}]}}
