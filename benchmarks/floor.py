"""The floor: bare ASGI that sends the JSON of one statement. No GraphQL, no permissions, no field selection."""

import json
import os
from typing import Any

from psycopg import AsyncConnection

PAGE = b"""
SELECT json_build_object('data', json_build_object('products', json_build_object(
  'totalCount', (SELECT count(*) FROM products WHERE config_id = %(store)s::uuid AND status = 'active'),
  'nodes', coalesce(json_agg(json_build_object(
    'id', p.id, 'title', p.title, 'handle', p.handle, 'price', p.price::text, 'compareAtPrice', p.compare_at_price::text,
    'images', p.images, 'category', p.category, 'inventory', p.inventory, 'status', upper(p.status),
    'createdAt', replace(replace(p.created_at::text, ' ', 'T'), '+00', 'Z'),
    'variants', json_build_object('nodes', (
      SELECT coalesce(json_agg(json_build_object('id', v.id, 'name', v.name, 'price', v.price::text,
        'compareAtPrice', v.compare_at_price::text, 'inventory', v.inventory, 'sku', v.sku) ORDER BY v.position, v.id), '[]')
      FROM (SELECT * FROM product_variants WHERE product_id = p.id AND is_available ORDER BY position, id LIMIT 5) AS v)),
    'reviews', json_build_object('nodes', (
      SELECT coalesce(json_agg(json_build_object('id', r.id, 'rating', r.rating, 'title', r.title,
        'createdAt', replace(replace(r.created_at::text, ' ', 'T'), '+00', 'Z')) ORDER BY r.created_at DESC, r.id DESC), '[]')
      FROM (SELECT * FROM reviews WHERE product_id = p.id ORDER BY created_at DESC, id DESC LIMIT 3) AS r))
  ) ORDER BY p.created_at DESC, p.id DESC), '[]'))))::text
FROM (
  SELECT * FROM products WHERE config_id = %(store)s::uuid AND status = 'active' ORDER BY created_at DESC, id DESC LIMIT %(first)s
) AS p
"""


class Floor:
    """An ASGI application with one connection, opened by its first request."""

    def __init__(self) -> None:
        self._connection: AsyncConnection[Any] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer any POST of {"variables": {"store", "first"}}."""
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        answer = await self._page(json.loads(body)["variables"])
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _page(self, variables: dict[str, Any]) -> bytes:
        if self._connection is None:
            url = os.environ["STOREFRONT_DATABASE_URL"]
            self._connection = await AsyncConnection.connect(url, autocommit=True, options="-c TimeZone=UTC")
        cursor = await self._connection.execute(PAGE, variables)
        [(page,)] = await cursor.fetchall()
        return str(page).encode()


app = Floor()
