"""Trying a webhook out: one message, now, and what comes of it."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import orjson

from storefront.core.db.database import Row
from storefront.core.encryption import Undecryptable
from storefront.core.ids import new_id
from storefront.graph.context import Context
from storefront.queries import webhooks
from storefront.webhooks.commands import record_test
from storefront.webhooks.rendering import Renderer
from storefront.webhooks.sending import NotMade, message, now
from storefront.webhooks.topics import TEST


async def tested(context: Context, hook: Row, product_id: str | None) -> tuple[Row, str | None]:
    """The delivery of a test, and its body. Nothing of it is tried again."""
    row = await _row(context, hook, product_id)
    outside = context.way_out()
    at = row.occurred_at
    try:
        made = await message(Renderer(outside.operations, context, outside.most_bytes), context.vault, row, is_last=True)
    except (NotMade, Undecryptable) as error:
        return await _recorded(context, row, "failed", {"at": at, "status": None, "milliseconds": 0, "error": str(error)}), None
    async with outside.outgoing.session(owner=row.owner_id) as session:
        answer = await session.post(made.url, made.body, made.headers)
    tried = {"at": at, "status": answer.status, "milliseconds": answer.milliseconds, "error": answer.error}
    return await _recorded(context, row, "delivered" if answer.is_success else "failed", tried), made.body.decode()


async def _row(context: Context, hook: Row, product_id: str | None) -> Row:
    """As a delivery is read from the queue."""
    store = await webhooks.owner_of(context.database, hook.config_id)
    chosen = product_id or await webhooks.newest_product(context.database, hook.config_id, active_only=hook.read_as != "owner")
    about = {"id": new_id(), "type": TEST, "position": store.head, "product_id": chosen, "attempts": 0}
    about |= {"changed_fields": [], "client_mutation_id": None, "reason": None, "occurred_at": now()}
    return SimpleNamespace(**hook._asdict() | about | {"webhook_id": hook.id, "owner_id": store.owner_id})


async def _recorded(context: Context, row: Row, state: str, tried: Mapping[str, Any]) -> Row:
    names = ("id", "webhook_id", "position", "product_id")
    given = {name: getattr(row, name) for name in names}
    return await record_test(context.database, {**given, "state": state, "tries": orjson.dumps([tried]).decode()})
