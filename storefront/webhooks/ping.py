"""Test of a webhook: sends one message at once, without retries, and returns the result."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from storefront.core.db.database import Row
from storefront.core.db.json_parameters import to_json
from storefront.core.encryption import DecryptionError
from storefront.core.ids import new_id
from storefront.graph.context import Context
from storefront.queries import webhooks
from storefront.webhooks.commands import record_test
from storefront.webhooks.rendering import MessageRenderer
from storefront.webhooks.sending import RenderError, build_message, utc_now_iso
from storefront.webhooks.topics import TEST_MESSAGE_TYPE


async def send_test(context: Context, hook: Row, product_id: str | None) -> tuple[Row, str | None]:
    """Send a test message; returns its delivery and its body, None if it could not be rendered. There are no retries."""
    row = await _build_delivery_row(context, hook, product_id)
    outbound = context.require_outbound()
    started_at = row.occurred_at
    try:
        test_message = await build_message(
            MessageRenderer(outbound.operations, context, outbound.max_payload_bytes), context.vault, row, is_last=True
        )
    except (RenderError, DecryptionError) as error:
        return await _record_result(
            context, row, "failed", {"at": started_at, "status": None, "milliseconds": 0, "error": str(error)}
        ), None
    async with outbound.http_client.session(owner=row.owner_id) as session:
        response = await session.post(test_message.url, test_message.body, test_message.headers)
    attempt = {"at": started_at, "status": response.status, "milliseconds": response.milliseconds, "error": response.error}
    return await _record_result(
        context, row, "delivered" if response.is_success else "failed", attempt
    ), test_message.body.decode()


async def _build_delivery_row(context: Context, hook: Row, product_id: str | None) -> Row:
    """A delivery with the columns that the queue returns."""
    store = await webhooks.load_store_owner(context.database, hook.config_id)
    sample_product_id = product_id or await webhooks.find_newest_product_id(
        context.database, hook.config_id, active_only=hook.read_as != "owner"
    )
    columns = {"id": new_id(), "type": TEST_MESSAGE_TYPE, "position": store.head, "product_id": sample_product_id, "attempts": 0}
    columns |= {"changed_fields": [], "client_mutation_id": None, "reason": None, "occurred_at": utc_now_iso()}
    return SimpleNamespace(**hook._asdict() | columns | {"webhook_id": hook.id, "owner_id": store.owner_id})


async def _record_result(context: Context, row: Row, state: str, attempt: Mapping[str, Any]) -> Row:
    names = ("config_id", "id", "webhook_id", "position", "product_id")
    columns = {name: getattr(row, name) for name in names}
    return await record_test(context.database, {**columns, "state": state, "tries": to_json([attempt])})
