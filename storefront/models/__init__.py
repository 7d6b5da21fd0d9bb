"""The tables, one SQLModel per entity. Foreign keys by name; no ORM relationships: dataloaders read across tables."""

from typing import cast

from sqlalchemy import Table
from sqlmodel import SQLModel

from storefront.models.categories import CategoryDetails
from storefront.models.change import Change, StorePosition
from storefront.models.config import Config, IntegrationCheck
from storefront.models.event import AnalyticsEvent, EventId
from storefront.models.former_names import FormerHandle, FormerSlug
from storefront.models.idempotency import IdempotencyKey
from storefront.models.image import Image, ImageUpload
from storefront.models.job import Job, JobChange, JobHandle, JobIssue
from storefront.models.product import Product
from storefront.models.review import Review
from storefront.models.rollup import AnalyticsSession, ProductTotals, PurchaseTotals, QueuedEvents, SourceTotals, Totals
from storefront.models.search_synonym import SearchSynonym
from storefront.models.user import User, UserIdentity, VerifiedEmail
from storefront.models.variant import ProductVariant
from storefront.models.webhook import Webhook, WebhookDelivery
from storefront.models.writable_fields import list_writable_fields

metadata = SQLModel.metadata


def is_managed_by_metadata(name: str | None, object_type: str, _: object) -> bool:
    """Whether `metadata` describes a database object (for Alembic). Not partitions: jobs create them over time."""
    return not (object_type == "table" and name is not None and name.startswith(_PARTITION_PREFIXES))


_PARTITION_PREFIXES = f"{AnalyticsEvent.__tablename__}_", f"{ProductTotals.__tablename__}_"


def _get_table(model: type[SQLModel]) -> Table:
    return cast(Table, getattr(model, "__table__"))  # noqa: B009  SQLModel does not declare it for the type checker


users = _get_table(User)
user_identities = _get_table(UserIdentity)
verified_emails = _get_table(VerifiedEmail)
configs = _get_table(Config)
products = _get_table(Product)
variants = _get_table(ProductVariant)
category_details = _get_table(CategoryDetails)
search_synonyms = _get_table(SearchSynonym)
former_handles = _get_table(FormerHandle)
former_slugs = _get_table(FormerSlug)
reviews = _get_table(Review)
events = _get_table(AnalyticsEvent)
event_ids = _get_table(EventId)
changes = _get_table(Change)
positions = _get_table(StorePosition)
idempotency_keys = _get_table(IdempotencyKey)
webhooks = _get_table(Webhook)
webhook_deliveries = _get_table(WebhookDelivery)
jobs = _get_table(Job)
job_issues = _get_table(JobIssue)
job_changes = _get_table(JobChange)
job_handles = _get_table(JobHandle)
images = _get_table(Image)
image_uploads = _get_table(ImageUpload)

PRODUCT_FIELDS = list_writable_fields(products)
VARIANT_FIELDS = list_writable_fields(variants)

__all__ = [
    "PRODUCT_FIELDS",
    "VARIANT_FIELDS",
    "AnalyticsEvent",
    "AnalyticsSession",
    "CategoryDetails",
    "Change",
    "Config",
    "EventId",
    "FormerHandle",
    "FormerSlug",
    "IdempotencyKey",
    "Image",
    "ImageUpload",
    "IntegrationCheck",
    "Job",
    "JobChange",
    "JobHandle",
    "JobIssue",
    "Product",
    "ProductTotals",
    "ProductVariant",
    "PurchaseTotals",
    "QueuedEvents",
    "Review",
    "SearchSynonym",
    "SourceTotals",
    "StorePosition",
    "Totals",
    "User",
    "UserIdentity",
    "VerifiedEmail",
    "Webhook",
    "WebhookDelivery",
    "changes",
    "configs",
    "event_ids",
    "events",
    "former_handles",
    "former_slugs",
    "idempotency_keys",
    "image_uploads",
    "images",
    "is_managed_by_metadata",
    "job_changes",
    "job_handles",
    "job_issues",
    "jobs",
    "metadata",
    "positions",
    "products",
    "reviews",
    "search_synonyms",
    "user_identities",
    "users",
    "variants",
    "verified_emails",
    "webhook_deliveries",
    "webhooks",
]
