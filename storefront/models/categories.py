"""Categories: `Product.category` is a text, in which ">" separates the names of a path from the root."""

from storefront.models.columns import Field, SQLModel, store_column, timestamp_column

# The spaces around names that do not count, for Python and for the function of the database.
_SPACES = " \t\n\r\f\v"
# The path of each category that a product is in, the top level first. A function of the database, equal to `list_category_paths`.
CATEGORY_PATHS_SQL = "storefront_list_category_paths(category)"


def split_category(category: str) -> tuple[str, ...]:
    """The names from the root to the category: ("Home", "Lamps") of "Home > Lamps"."""
    return tuple(name for part in category.split(">") if (name := part.strip(_SPACES)))


def join_category(names: tuple[str, ...]) -> str:
    """The path of a category, as clients see it."""
    return " > ".join(names)


def normalize_category(category: str) -> str:
    """The path that a text means."""
    return join_category(split_category(category))


def list_category_paths(category: str | None) -> list[str]:
    """The paths of a category and of those above it, the top level first."""
    names = split_category(category or "")
    return [join_category(names[:depth]) for depth in range(1, len(names) + 1)]


class CategoryDetails(SQLModel, table=True):
    """What the owner of a store has added to one of its categories, which has to have had a product. `path`: normalised."""

    __tablename__ = "category_details"

    config_id: str = store_column()
    path: str = Field(primary_key=True)
    image: str | None = Field(default=None)
    description: str | None = Field(default=None)
    seo_title: str | None = Field(default=None)
    seo_description: str | None = Field(default=None)
    updated_at: str = timestamp_column()
