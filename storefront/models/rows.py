"""Types of rows for type checkers: a row that a statement returns has the attributes of its model, or those that were selected.

Annotations of models are the types in rows. At runtime rows are named tuples (`core/db/database.py`). Rows of joins and of
computed columns stay `Row`.
"""

from typing import Protocol

from storefront.models import (
    Change,
    Config,
    Image,
    ImageUpload,
    Job,
    JobIssue,
    Product,
    ProductVariant,
    Review,
    User,
    Webhook,
    WebhookDelivery,
)

ChangeRow = Change
ConfigRow = Config
DeliveryRow = WebhookDelivery
ImageRow = Image
ImageUploadRow = ImageUpload
JobIssueRow = JobIssue
JobRow = Job
ProductRow = Product
ReviewRow = Review
UserRow = User
VariantRow = ProductVariant
WebhookRow = Webhook


class VersionedRow(Protocol):
    """A row with a version, of any table."""

    id: str
    version: int


class FileJobRow:
    """The columns of a job with a file, for type checkers: an import of an upload, or a finished export."""

    id: str
    status: str
    object_key: str
    object_size: int
    file_name: str
    finished_at: str | None


__all__ = [
    "ChangeRow",
    "ConfigRow",
    "DeliveryRow",
    "FileJobRow",
    "ImageRow",
    "ImageUploadRow",
    "JobIssueRow",
    "JobRow",
    "ProductRow",
    "ReviewRow",
    "UserRow",
    "VariantRow",
    "VersionedRow",
    "WebhookRow",
]
