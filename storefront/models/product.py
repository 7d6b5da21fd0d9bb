"""Products. Commands and imports write what `writable_column` declares.

"Derived" columns follow others: prices, stock and counts follow the variants (`variant_summary.py`), the rating counts follow the
reviews (triggers), and the rest is generated.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ARRAY, Column, Computed, Double, Index, text
from sqlalchemy import CheckConstraint as Check
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlmodel import Field, SQLModel

from storefront.models.columns import (
    build_strings_only_check,
    foreign_key_column,
    integer_column,
    json_column,
    money_column,
    timestamp_column,
    uuid_key_column,
)
from storefront.models.writable_fields import (
    INVENTORY_CSV_COLUMNS,
    Boolean,
    Choice,
    ItemList,
    Slug,
    Text,
    Url,
    writable_column,
)

MAX_IMAGES = MAX_TAGS = 250
MAX_TAG_CHARACTERS = 255
STATUSES = ("active", "inactive", "archived")

# Sort key of names: case-folded and without accents, with the same collation (C) on every server.
SORT_TITLE_SQL = "storefront_fold(title)"

# In stock when one of its available variants can be bought.
IN_STOCK_SQL = "variants_available > 0 AND (NOT track_inventory OR variants_in_stock > 0)"

# 0 without reviews: it sorts below one star, and the sort key is never null (keyset pagination).
RATING_SQL = (
    "(rating_counts[1] + 2 * rating_counts[2] + 3 * rating_counts[3] + 4 * rating_counts[4] + 5 * rating_counts[5])"
    "::double precision / greatest(1, rating_counts[1] + rating_counts[2] + rating_counts[3]"
    " + rating_counts[4] + rating_counts[5])"
)

# Stems with positions for words, phrases and rank; then the words themselves without positions, for prefixes.
# The stop words between fields and tags keep a phrase from matching across the end of one and the start of the next.
SEARCH_VECTOR_SQL = """
setweight(to_tsvector('english', storefront_fold(title)), 'A')
|| setweight(to_tsvector('english', storefront_fold(
  'a a a ' || coalesce(category, '') || ' a a a ' || replace(tags::text, '", "', ' a a a '))), 'B')
|| setweight(to_tsvector('english', storefront_fold('a a a ' || coalesce(description, ''))), 'D')
|| strip(to_tsvector('simple', storefront_fold(title || ' ' || coalesce(category, '') || ' ' || tags::text)))
"""


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
        Check("jsonb_typeof(options) = 'array'", name="options"),
        Check("jsonb_typeof(tags) = 'array'", name="tags"),
        Check(build_strings_only_check("images", "$[*]"), name="images_texts"),
        Check(build_strings_only_check("tags", "$[*]"), name="tags_texts"),
        Index("products_config_id_handle_key", "config_id", "handle", unique=True),
        # Rows of a product refer to it together with its store.
        Index("products_config_id_id_key", "config_id", "id", unique=True),
        *(
            Index(f"products_by_{name}_idx", "config_id", name, "id")
            for name in ("created_at", "updated_at", "price", "sort_title", "popularity", "rating")
        ),
        # Category counts by index-only scans, and the most popular products of a category.
        Index(*("products_shelf_idx", "config_id", "category", "popularity", "id"), postgresql_where=text("status = 'active'")),
        Index("products_search_idx", text(STORE_SEARCH_VECTOR_SQL), postgresql_using="gin"),
        Index("products_tags_idx", "tags", postgresql_using="gin"),
    )

    id: str = uuid_key_column()
    config_id: str = foreign_key_column("configs.id")
    title: str = writable_column(Text(255), csv_columns=("Title",))
    # As long as Shopify's.
    handle: str = writable_column(Slug(255), csv_columns=("Handle",))
    description: str | None = writable_column(Text(65_536, min_characters=0), csv_columns=("Body (HTML)",))
    images: list[str] = writable_column(ItemList(Url(), MAX_IMAGES), default=[], csv_columns=("Image Src", "Variant Image"))
    category: str | None = writable_column(Text(255), csv_columns=("Type", "Product Category"))
    tags: list[str] = writable_column(ItemList(Text(MAX_TAG_CHARACTERS), MAX_TAGS), default=[], csv_columns=("Tags",))
    track_inventory: bool = writable_column(Boolean(), default=True, csv_columns=INVENTORY_CSV_COLUMNS)
    seo_title: str | None = writable_column(Text(255), csv_columns=("SEO Title",))
    seo_description: str | None = writable_column(Text(65_536, min_characters=0), csv_columns=("SEO Description",))
    status: str = writable_column(Choice(STATUSES), default="active", csv_columns=("Status", "Published"))
    # `options.py` has their form. They follow the attributes of variants.
    options: list[dict[str, Any]] = json_column("[]")
    version: int = integer_column(1)
    created_at: str = timestamp_column()
    updated_at: str = timestamp_column()

    # Derived
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
    sort_title: str = Field(sa_column=Column(sa.Text(collation="C"), Computed(SORT_TITLE_SQL, persisted=True), nullable=False))
    search_vector: str = Field(sa_column=Column(TSVECTOR, Computed(SEARCH_VECTOR_SQL, persisted=True), nullable=False))
