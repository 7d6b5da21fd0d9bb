"""The URLs of pictures follow the base URL of the server, whichever had loaded the demo data."""

from typing import Any

from storefront.core.db.database import Database
from storefront.demo.commands import seed
from storefront.media.address_moves import move_image_addresses
from tests.factories import insert, make_product

FORMER, PRESENT = "http://127.0.0.1:8000", "https://shop.example:9000/base"
ADDRESSES = """
SELECT p.id, address FROM products AS p CROSS JOIN jsonb_array_elements_text(images) AS address
UNION ALL SELECT id, image FROM users WHERE image IS NOT NULL
UNION ALL SELECT id, image FROM product_variants WHERE image IS NOT NULL
UNION ALL SELECT * FROM (SELECT id, options #>> '{0,values,0,swatch,image}' AS image FROM products) AS s WHERE image IS NOT NULL
"""


async def fetch(database: Database, sql: str) -> list[Any]:
    async with database.transaction() as connection:
        return list(await (await connection.raw.execute(sql.encode())).fetchall())


async def test_addresses_follow_the_server(database: Database) -> None:
    await seed(database, products=30, events=0, base_url=FORMER)
    [(store, shown)] = await fetch(database, "SELECT config_id, images ->> 0 FROM products LIMIT 1")
    # Another server's image, by a URL of the same form, and other URLs that have the same host.
    key = "018f0000-0000-7000-8000-000000000000-" + "0" * 32
    foreign = ["https://other.example/media/" + key + "/full.webp", f"{FORMER}/about.jpg"]
    swatch = [{"id": str(store), "name": "Colour", "values": [{"id": str(store), "value": "Red", "swatch": {"image": shown}}]}]
    product = await make_product(database, str(store), images=[*foreign, shown], options=swatch)
    about = {"config_id": str(store), "product_id": product, "name": "Red", "price": 1, "attributes": {"a": "b"}}
    await insert(database, "product_variants", image=shown, **about)
    before = await fetch(database, ADDRESSES)
    assert await move_image_addresses(database, PRESENT) == 1
    after = await fetch(database, ADDRESSES)
    moved = [(id_, url if url in foreign else url.replace(FORMER, PRESENT)) for id_, url in before]
    assert sorted(after) == sorted(moved)
    assert len([url for _, url in after if url.startswith(PRESENT)]) == len(after) - len(foreign)
    assert await move_image_addresses(database, PRESENT) == 0
    assert await fetch(database, ADDRESSES) == after
