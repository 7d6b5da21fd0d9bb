"""Users, the identities by which they sign in, and the addresses that are proven to be theirs."""

from sqlalchemy import DateTime, text

from storefront.models.columns import (
    UUID,
    Field,
    SQLModel,
    datetime,
    foreign_key_column,
    integer_column,
    timestamp_column,
    uuid_key_column,
)


class User(SQLModel, table=True):
    """A person. `email` is shown as it was given, verified or not. Credentials issued up to `signed_out_at` no longer count."""

    __tablename__ = "users"

    id: UUID = uuid_key_column()
    email: str
    name: str | None = None
    image: str | None = None
    version: int = integer_column(1)
    signed_out_at: datetime | None = timestamp_column(nullable=True)
    created_at: datetime = timestamp_column()
    updated_at: datetime = timestamp_column()


class UserIdentity(SQLModel, table=True):
    """Who a user is at an issuer: the `iss` and `sub` of tokens, with the address that the newest of them stated.

    `verified_email` is normalized, and null unless the issuer calls the address verified. It may still belong to another user.
    """

    __tablename__ = "user_identities"

    issuer: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    user_id: UUID = foreign_key_column("users.id", index=True)
    email: str | None = None
    verified_email: str | None = None
    stated_at: datetime = Field(
        sa_type=DateTime(timezone=True), nullable=False, sa_column_kwargs={"server_default": text("'epoch'::timestamptz")}
    )
    created_at: datetime = timestamp_column()


class VerifiedEmail(SQLModel, table=True):
    """A normalized address, and the one user to whom it leads."""

    __tablename__ = "verified_emails"

    address: str = Field(primary_key=True)
    user_id: UUID = foreign_key_column("users.id", index=True)
