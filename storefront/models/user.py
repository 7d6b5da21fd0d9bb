"""Who may own stores and write reviews."""

from storefront.models.columns import UUID, Field, SQLModel, datetime, key, moment, number


class User(SQLModel, table=True):
    """A person. `subject` is the `sub` claim of the tokens that name them; those issued up to `signed_out_at` no longer count."""

    __tablename__ = "users"

    id: UUID = key()
    email: str = Field(unique=True)
    subject: str | None = Field(default=None, unique=True)
    name: str | None = None
    image: str | None = None
    version: int = number(1)
    signed_out_at: datetime | None = moment(nullable=True)
    created_at: datetime = moment()
    updated_at: datetime = moment()
