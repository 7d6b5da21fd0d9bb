"""One table per noun, as SQLModel. Foreign keys by name; no ORM relationships: loaders are the only way across."""

from typing import cast

from sqlalchemy import Table
from sqlmodel import SQLModel

from storefront.models.change import Change, StorePosition
from storefront.models.config import Config, IntegrationCheck
from storefront.models.event import AnalyticsEvent, EventId
from storefront.models.idempotency import IdempotencyKey
from storefront.models.image import Image, ImageUpload
from storefront.models.job import Job, JobHandle, JobIssue
from storefront.models.product import Product
from storefront.models.review import Review
from storefront.models.rollup import AnalyticsSession, ProductTotals, QueuedEvents, SourceTotals, Totals
from storefront.models.user import User, UserIdentity, VerifiedEmail
from storefront.models.variant import ProductVariant
from storefront.models.webhook import Webhook, WebhookDelivery

metadata = SQLModel.metadata


def is_described(name: str | None, kind: str, _: object) -> bool:
    """Whether a thing of the database should stand in `metadata`: partitions are made by and by, and stand for nothing new."""
    return not (kind == "table" and name is not None and name.startswith(_PARTITIONS))


_PARTITIONS = f"{AnalyticsEvent.__tablename__}_", f"{ProductTotals.__tablename__}_"


def _table(model: type[SQLModel]) -> Table:
    return cast(Table, getattr(model, "__table__"))  # noqa: B009  SQLModel does not declare it for the type checker


users = _table(User)
user_identities = _table(UserIdentity)
verified_emails = _table(VerifiedEmail)
configs = _table(Config)
products = _table(Product)
variants = _table(ProductVariant)
reviews = _table(Review)
events = _table(AnalyticsEvent)
event_ids = _table(EventId)
changes = _table(Change)
positions = _table(StorePosition)
idempotency_keys = _table(IdempotencyKey)
webhooks = _table(Webhook)
webhook_deliveries = _table(WebhookDelivery)
jobs = _table(Job)
job_issues = _table(JobIssue)
job_handles = _table(JobHandle)
images = _table(Image)
image_uploads = _table(ImageUpload)

__all__ = [
    "AnalyticsEvent",
    "AnalyticsSession",
    "Change",
    "Config",
    "EventId",
    "IdempotencyKey",
    "Image",
    "ImageUpload",
    "IntegrationCheck",
    "Job",
    "JobHandle",
    "JobIssue",
    "Product",
    "ProductTotals",
    "ProductVariant",
    "QueuedEvents",
    "Review",
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
    "idempotency_keys",
    "image_uploads",
    "images",
    "is_described",
    "job_handles",
    "job_issues",
    "jobs",
    "metadata",
    "positions",
    "products",
    "reviews",
    "user_identities",
    "users",
    "variants",
    "verified_emails",
    "webhook_deliveries",
    "webhooks",
]
