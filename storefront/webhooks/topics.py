"""What webhooks are told of: which entries of a log are which event, to the owner and to shoppers."""

from enum import Enum

from storefront.core.db.database import Row
from storefront.queries.changes import classify_entry
from storefront.queries.visibility import Audience


class Topic(Enum):
    """A kind of change that a webhook may ask for, by the name that its messages have as `type`."""

    PRODUCT_CREATED = "product.created"
    PRODUCT_UPDATED = "product.updated"
    PRODUCT_DELETED = "product.deleted"
    STORE_UPDATED = "store.updated"
    STORE_PUBLISHED = "store.published"
    STORE_UNPUBLISHED = "store.unpublished"


# What every webhook is told, whatever its topics: that some of the log can be told no more, and what a test sends.
RESET_MESSAGE_TYPE, TEST_MESSAGE_TYPE = "log.reset", "webhook.test"

AUDIENCE_BY_READER = {"shopper": Audience.SHOPPER, "owner": Audience.OWNER}

_PRODUCT_TOPICS = {"created": Topic.PRODUCT_CREATED, "updated": Topic.PRODUCT_UPDATED, "deleted": Topic.PRODUCT_DELETED}
_STORE_TOPICS = {
    "store_updated": Topic.STORE_UPDATED,
    "store_published": Topic.STORE_PUBLISHED,
    "store_unpublished": Topic.STORE_UNPUBLISHED,
}


def find_topic(entry: Row, audience: Audience, *, is_published: bool) -> Topic | None:
    """What an entry is to an audience; None for what it is not told. Of the products of a closed store shoppers see nothing."""
    is_owner = audience is Audience.OWNER
    if entry.product_id is not None:
        return _PRODUCT_TOPICS.get(classify_entry(entry, audience) or "") if is_owner or is_published else None
    is_visible = is_owner or entry.was_visible or entry.is_visible
    return _STORE_TOPICS.get(entry.kind) if is_visible else None
