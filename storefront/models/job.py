"""Background jobs: imports and exports, with their progress."""

from typing import Any

from sqlalchemy import BigInteger, Index, text
from sqlalchemy import CheckConstraint as Check

from storefront.models.columns import (
    Field,
    SQLModel,
    Uuid,
    boolean_column,
    enum_column,
    foreign_key_column,
    integer_column,
    json_column,
    reference_in_store,
    store_column,
    timestamp_column,
    uuid_key_column,
)


class Job(SQLModel, table=True):
    """An import or export. It resumes at `checkpoint`, which is written in the transaction of the work that it records.

    While it runs, `worker` holds the lease, until `lease_until`; heartbeats extend it. `attempts` counts claims, `crashes`
    workers whose lease expired: both since the last progress.

    `is_fetching_images`: the products of an import are written, and what is left of it is to fetch their images, since
    `images_started_at`. It stays so when the job is finished, so that a retry continues there.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Check("kind IN ('import', 'export')", name="kind"),
        Check("source IN ('shopify_csv', 'shopify_store', 'catalogue')", name="source"),
        Check("status IN ('uploading', 'queued', 'running', 'succeeded', 'failed', 'cancelled')", name="status"),
        Check("(status = 'running') = (worker IS NOT NULL)", name="worker"),
        # At most one running job per store, beside those that only fetch images.
        Index(
            "jobs_running_key",
            "config_id",
            unique=True,
            postgresql_where=text("status = 'running' AND NOT is_fetching_images"),
        ),
        Index("jobs_waiting_idx", "created_at", "id", postgresql_where=text("status IN ('queued', 'running')")),
        Index("jobs_newest_idx", "config_id", "created_at", "id"),
        Index("jobs_finished_at_idx", "finished_at"),
        Index("jobs_owner_idx", "user_id", "started_at"),
        Index("jobs_images_owner_idx", "user_id", "images_started_at"),
        Index("jobs_id_idx", "id"),
    )

    config_id: str = store_column()
    id: str = uuid_key_column()
    user_id: str = foreign_key_column("users.id")
    kind: str
    source: str
    status: str = enum_column("queued")
    options: dict[str, Any] = json_column("{}")
    object_key: str | None = None
    object_size: int | None = Field(default=None, sa_type=BigInteger)
    file_name: str | None = None
    checkpoint: dict[str, Any] | None = json_column()
    done: int = Field(sa_type=BigInteger, nullable=False, sa_column_kwargs={"server_default": text("0")})
    total: int | None = Field(default=None, sa_type=BigInteger)
    rows: int = integer_column(0)
    created: int = integer_column(0)
    updated: int = integer_column(0)
    unchanged: int = integer_column(0)
    rejected: int = integer_column(0)
    position: int | None = Field(default=None, sa_type=BigInteger)
    error: dict[str, Any] | None = json_column()
    attempts: int = integer_column(0)
    crashes: int = integer_column(0)
    is_cancelled: bool = boolean_column(False)
    is_fetching_images: bool = boolean_column(False)
    worker: str | None = Field(default=None, sa_type=Uuid)
    lease_until: str | None = timestamp_column(nullable=True)
    not_before: str = timestamp_column()
    created_at: str = timestamp_column()
    started_at: str | None = timestamp_column(nullable=True)
    images_started_at: str | None = timestamp_column(nullable=True)
    finished_at: str | None = timestamp_column(nullable=True)


class JobIssue(SQLModel, table=True):
    """A rejected row of an import, or a product that an export could not write. Only the first of a job are stored."""

    __tablename__ = "job_issues"
    __table_args__ = (reference_in_store("job_id", "jobs"),)

    config_id: str = store_column(is_reference=False)
    job_id: str = Field(sa_type=Uuid, primary_key=True)
    number: int = Field(primary_key=True)
    row: int | None = None
    handle: str | None = None
    field: str | None = None
    message: str


class JobChange(SQLModel, table=True):
    """What a dry run would change, field by field. `field` is null where a product or variant is created or deleted."""

    __tablename__ = "job_changes"

    __table_args__ = (reference_in_store("job_id", "jobs"),)

    config_id: str = store_column(is_reference=False)
    job_id: str = Field(sa_type=Uuid, primary_key=True)
    number: int = Field(primary_key=True)
    row: int
    handle: str
    kind: str
    variant: str | None = None
    field: str | None = None
    old_value: str | None = None
    new_value: str | None = None


class JobHandle(SQLModel, table=True):
    """A handle that a running import has seen, with its row: a later row must not overwrite an earlier one."""

    __tablename__ = "job_handles"
    __table_args__ = (reference_in_store("job_id", "jobs"),)

    config_id: str = store_column(is_reference=False)
    job_id: str = Field(sa_type=Uuid, primary_key=True)
    handle: str = Field(primary_key=True)
    row: int
