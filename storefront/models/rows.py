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
    JobChange,
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
JobChangeRow = JobChange
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


class SignedInUserRow:
    """A user who presents credentials, for type checkers: with the ids of their stores."""

    id: str
    owned: list[str]
    # Everywhere, since the credentials were issued.
    is_signed_out: bool


class IdentityUserRow(SignedInUserRow):
    """The user of a token's claims, for type checkers."""

    # The claims state a new email address.
    states_email: bool
    # The address that the identity stated before.
    verified_email: str | None


class OwnedJobRow:
    """A job with what decides who may read it, for type checkers."""

    kind: str
    status: str
    owner_id: str
    is_published: bool


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
    "IdentityUserRow",
    "ImageRow",
    "ImageUploadRow",
    "JobChangeRow",
    "JobIssueRow",
    "JobRow",
    "OwnedJobRow",
    "ProductRow",
    "ReviewRow",
    "SignedInUserRow",
    "UserRow",
    "VariantRow",
    "VersionedRow",
    "WebhookRow",
]
