"""Webhook topics: maps log entries to events, by audience."""

from enum import Enum

from storefront.models.rows import ChangeRow
from storefront.queries.changes import classify_entry
from storefront.queries.visibility import Audience


class Topic(Enum):
    """An event that a webhook may subscribe to. The value is the `type` of its messages."""

    PRODUCT_CREATED = "product.created"
    PRODUCT_UPDATED = "product.updated"
    PRODUCT_DELETED = "product.deleted"
    STORE_UPDATED = "store.updated"
    STORE_PUBLISHED = "store.published"
    STORE_UNPUBLISHED = "store.unpublished"


# Message types outside of the topics: a gap in the log, sent to all webhooks, and the message of testWebhook.
RESET_MESSAGE_TYPE, TEST_MESSAGE_TYPE = "log.reset", "webhook.test"

AUDIENCE_BY_READER = {"shopper": Audience.SHOPPER, "owner": Audience.OWNER}

_PRODUCT_TOPICS = {"created": Topic.PRODUCT_CREATED, "updated": Topic.PRODUCT_UPDATED, "deleted": Topic.PRODUCT_DELETED}
_STORE_TOPICS = {
    "store_updated": Topic.STORE_UPDATED,
    "store_published": Topic.STORE_PUBLISHED,
    "store_unpublished": Topic.STORE_UNPUBLISHED,
}


def find_topic(entry: ChangeRow, audience: Audience, *, is_published: bool) -> Topic | None:
    """The topic of a log entry for an audience; None if hidden from it: shoppers see no products of an unpublished store."""
    is_owner = audience is Audience.OWNER
    if entry.product_id is not None:
        return _PRODUCT_TOPICS.get(classify_entry(entry, audience) or "") if is_owner or is_published else None
    is_visible = is_owner or entry.was_visible or entry.is_visible
    return _STORE_TOPICS.get(entry.kind) if is_visible else None
