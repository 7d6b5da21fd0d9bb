"""Users, their identities at token issuers, and their verified email addresses."""

from sqlalchemy import DateTime, text

from storefront.models.columns import Field, SQLModel, foreign_key_column, integer_column, timestamp_column, uuid_key_column


class User(SQLModel, table=True):
    """A user. `email` is stored as stated, verified or not. Credentials issued up to `signed_out_at` are revoked."""

    __tablename__ = "users"

    id: str = uuid_key_column()
    email: str
    name: str | None = None
    image: str | None = None
    version: int = integer_column(1)
    signed_out_at: str | None = timestamp_column(nullable=True)
    created_at: str = timestamp_column()
    updated_at: str = timestamp_column()


class UserIdentity(SQLModel, table=True):
    """An identity of a user: `iss` and `sub` of tokens, with the email address that the newest token states.

    `verified_email` is normalized, and null unless the issuer calls the address verified. It may still belong to another user.
    """

    __tablename__ = "user_identities"

    issuer: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    user_id: str = foreign_key_column("users.id", index=True)
    email: str | None = None
    verified_email: str | None = None
    stated_at: str = Field(
        sa_type=DateTime(timezone=True), nullable=False, sa_column_kwargs={"server_default": text("'epoch'::timestamptz")}
    )
    created_at: str = timestamp_column()


class VerifiedEmail(SQLModel, table=True):
    """A normalized, verified email address and its one user."""

    __tablename__ = "verified_emails"

    address: str = Field(primary_key=True)
    user_id: str = foreign_key_column("users.id", index=True)
