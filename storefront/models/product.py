"""Products. Commands and imports write what `writable_column` declares.

"Derived" columns follow others: prices, stock and counts follow the variants (`variant_summary.py`), the search document the
product and its variants (`search_document.py`), the rating counts the reviews and `published_at` the status, all written by the
commands, and the rest is generated.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ARRAY, Column, Computed, Double, Index, text
from sqlalchemy import CheckConstraint as Check
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlmodel import Field, SQLModel

from storefront.models.categories import CATEGORY_PATHS_SQL
from storefront.models.columns import (
    build_strings_only_check,
    integer_column,
    json_column,
    money_column,
    store_column,
    timestamp_column,
    uuid_key_column,
)
from storefront.models.writable_fields import (
    INVENTORY_CSV_COLUMNS,
    Boolean,
    Choice,
    Html,
    ItemList,
    Slug,
    Text,
    TextMap,
    Url,
    writable_column,
)

MAX_IMAGES = MAX_TAGS = 250
MAX_TAG_CHARACTERS = 255
MAX_ALT_CHARACTERS = 512
# Of the description, and of the HTML that it is the text of. Files have the latter.
MAX_DESCRIPTION_CHARACTERS, MAX_HTML_CHARACTERS = 65_536, 131_072
DESCRIPTION_CSV_COLUMN = "Body (HTML)"
STATUSES = ("active", "inactive", "archived")

# Sort key of names: without case, accents and punctuation, numbers by value; with the same collation (C) on every server.
SORT_TITLE_SQL = "storefront_sort_key(storefront_fold(title))"

# In stock when one of its available variants can be bought.
IN_STOCK_SQL = "variants_available > 0 AND (NOT track_inventory OR variants_in_stock > 0)"

# 0 without reviews: it sorts below one star, and the sort key is never null (keyset pagination).
RATING_SQL = (
    "(rating_counts[1] + 2 * rating_counts[2] + 3 * rating_counts[3] + 4 * rating_counts[4] + 5 * rating_counts[5])"
    "::double precision / greatest(1, rating_counts[1] + rating_counts[2] + rating_counts[3]"
    " + rating_counts[4] + rating_counts[5])"
)


def build_published_at(status: str, former: str = "NULL") -> str:
    """SQL of `published_at`: now, if a product becomes active for the first time. Takes SQL of its new status and former time."""
    return f"coalesce({former}, CASE WHEN {status} = 'active' THEN now() END)"


# What the full-text index (GIN) covers: the words of a product, and its store's id as one more lexeme. So the index alone finds
# the matches of one store, however many other stores have the words.
STORE_SEARCH_VECTOR_SQL = "(search_vector || array_to_tsvector(ARRAY[config_id::text]))"


class Product(SQLModel, table=True):
    """A product of one store. It has at least one variant: without options, one that has no attributes."""

    __tablename__ = "products"
    __table_args__ = (
        Check("price >= 0", name="price"),
        Check("compare_at_price >= price", name="compare_at_price"),
        Check(f"status IN ({', '.join(map(repr, STATUSES))})", name="status"),
        Check("jsonb_typeof(images) = 'array'", name="images"),
        Check("json_typeof(image_alts) = 'object'", name="image_alts"),
        Check("jsonb_typeof(options) = 'array'", name="options"),
        Check("jsonb_typeof(tags) = 'array'", name="tags"),
        Check(build_strings_only_check("images", "$[*]"), name="images_texts"),
        Check(build_strings_only_check("tags", "$[*]"), name="tags_texts"),
        Index("products_config_id_handle_key", "config_id", "handle", unique=True),
        Index("products_id_idx", "id"),
        *(
            Index(f"products_by_{name}_idx", "config_id", name, "id")
            for name in ("created_at", "updated_at", "price", "sort_title", "popularity", "rating")
        ),
        # The category tree by an index-only scan, for owners too. Few keys, which Postgres stores once each, so it is small.
        Index("products_categories_idx", "config_id", "category", "status"),
        # The most popular products of a category.
        Index(*("products_shelf_idx", "config_id", "category", "popularity", "id"), postgresql_where=text("status = 'active'")),
        Index("products_search_idx", text(STORE_SEARCH_VECTOR_SQL), postgresql_using="gin"),
        Index("products_category_paths_idx", "category_paths", postgresql_using="gin"),
        Index("products_tags_idx", "tags", postgresql_using="gin"),
    )

    config_id: str = store_column()
    id: str = uuid_key_column()
    title: str = writable_column(Text(255), csv_columns=("Title",))
    # As long as Shopify's.
    handle: str = writable_column(Slug(255), csv_columns=("Handle",))
    # The text of the HTML. `writes/descriptions.py` writes the one with the other.
    description: str | None = writable_column(
        Text(MAX_DESCRIPTION_CHARACTERS, min_characters=0), csv_columns=(DESCRIPTION_CSV_COLUMN,)
    )
    description_html: str | None = writable_column(Html(MAX_HTML_CHARACTERS), csv_columns=(DESCRIPTION_CSV_COLUMN,))
    vendor: str | None = writable_column(Text(255), csv_columns=("Vendor",))
    product_type: str | None = writable_column(Text(255), csv_columns=("Type",))
    images: list[str] = writable_column(ItemList(Url(), MAX_IMAGES), default=[], csv_columns=("Image Src", "Variant Image"))
    # By URL, of images that are hosted elsewhere: those of uploaded images are in `images`.
    image_alts: dict[str, str] = writable_column(
        TextMap(Url(), Text(MAX_ALT_CHARACTERS), MAX_IMAGES), default={}, csv_columns=("Image Alt Text",)
    )
    category: str | None = writable_column(Text(255), csv_columns=("Product Category",))
    tags: list[str] = writable_column(ItemList(Text(MAX_TAG_CHARACTERS), MAX_TAGS), default=[], csv_columns=("Tags",))
    track_inventory: bool = writable_column(Boolean(), default=True, csv_columns=INVENTORY_CSV_COLUMNS)
    seo_title: str | None = writable_column(Text(255), csv_columns=("SEO Title",))
    seo_description: str | None = writable_column(Text(65_536, min_characters=0), csv_columns=("SEO Description",))
    gift_card: bool = writable_column(Boolean(), default=False, csv_columns=("Gift Card",))
    status: str = writable_column(Choice(STATUSES), default="active", csv_columns=("Status", "Published"))
    # `options.py` has their form. They follow the attributes of variants.
    options: list[dict[str, Any]] = json_column("[]")
    version: int = integer_column(1)
    created_at: str = timestamp_column()
    updated_at: str = timestamp_column()

    # Derived
    # When it became active for the first time.
    published_at: str | None = timestamp_column(nullable=True)
    popularity: int = integer_column(0)
    # Of the cheapest available variant, or of the cheapest one if none is available.
    price: str = money_column()
    compare_at_price: str | None = money_column(nullable=True)
    # The highest price of the available variants, or of all if none is available.
    max_price: str = money_column()
    # Units over all variants: null if one of them is not counted, or without those.
    inventory: int | None = Field(default=None, nullable=True)
    total_inventory: int = integer_column(0)
    variants_total: int = integer_column(0)
    variants_available: int = integer_column(0)
    variants_in_stock: int = integer_column(0)
    rating_counts: list[int] = Field(sa_column=Column(ARRAY(sa.Integer), nullable=False, server_default=text("'{0,0,0,0,0}'")))
    rating: float = Field(sa_column=Column(Double, Computed(RATING_SQL, persisted=True), nullable=False))
    in_stock: bool = Field(sa_column_args=[Computed(IN_STOCK_SQL, persisted=True)], nullable=False)
    # Of the category and of those above it.
    category_paths: list[str] = Field(
        sa_column=Column(ARRAY(sa.Text), Computed(CATEGORY_PATHS_SQL, persisted=True), nullable=False)
    )
    sort_title: str = Field(sa_column=Column(sa.Text(collation="C"), Computed(SORT_TITLE_SQL, persisted=True), nullable=False))
    # `search_document.py` has its form.
    search_vector: str = Field(sa_column=Column(TSVECTOR, nullable=False, server_default=text("''")))
