"""Webhook topics: maps log entries to events, by audience."""

from storefront.graph.types.webhooks import WebhookTopic
from storefront.models.rows import ChangeRow
from storefront.queries.changes import classify_entry
from storefront.queries.visibility import Audience

# Message types outside of the topics: a gap in the log, sent to all webhooks, and the message of testWebhook.
RESET_MESSAGE_TYPE, TEST_MESSAGE_TYPE = "log.reset", "webhook.test"

AUDIENCE_BY_READER = {"shopper": Audience.SHOPPER, "owner": Audience.OWNER}

_PRODUCT_TOPICS = {
    "created": WebhookTopic.PRODUCT_CREATED,
    "updated": WebhookTopic.PRODUCT_UPDATED,
    "deleted": WebhookTopic.PRODUCT_DELETED,
}
_CONFIG_TOPICS = {
    "store_updated": WebhookTopic.CONFIG_UPDATED,
    "store_published": WebhookTopic.CONFIG_PUBLISHED,
    "store_unpublished": WebhookTopic.CONFIG_UNPUBLISHED,
}


def find_topic(entry: ChangeRow, audience: Audience, *, is_published: bool) -> WebhookTopic | None:
    """The topic of a log entry for an audience; None if hidden from it: shoppers see no products of an unpublished store."""
    is_owner = audience is Audience.OWNER
    if entry.product_id is not None:
        return _PRODUCT_TOPICS.get(classify_entry(entry, audience) or "") if is_owner or is_published else None
    is_visible = is_owner or entry.was_visible or entry.is_visible
    return _CONFIG_TOPICS.get(entry.kind) if is_visible else None
