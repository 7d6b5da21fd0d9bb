"""Products. Triggers and generated columns maintain the columns under "Derived"; commands never write them."""

from sqlalchemy import ARRAY, Column, Computed, Double, Index, Integer, Text, text
from sqlalchemy import CheckConstraint as Check
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlmodel import Field, SQLModel

from storefront.models.columns import (
    UUID,
    Decimal,
    boolean_column,
    build_strings_only_check,
    datetime,
    enum_column,
    foreign_key_column,
    integer_column,
    json_column,
    money_column,
    timestamp_column,
    uuid_key_column,
)

# Sort key of names: case-folded and without accents, with the same collation (C) on every server.
SORT_TITLE_SQL = "storefront_fold(title)"

# A product with variants is in stock when one of them can be bought; without, its own inventory decides.
IN_STOCK_SQL = (
    "NOT track_inventory OR CASE WHEN variants_available > 0 THEN variants_in_stock > 0 ELSE coalesce(inventory, 0) > 0 END"
)

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
    """A product of one store. `inventory` null: not counted."""

    __tablename__ = "products"
    __table_args__ = (
        Check("price >= 0", name="price"),
        Check("compare_at_price >= price", name="compare_at_price"),
        Check("NOT track_inventory OR inventory >= 0", name="inventory"),
        Check("status IN ('active', 'inactive', 'archived')", name="status"),
        Check("jsonb_typeof(images) = 'array'", name="images"),
        Check("jsonb_typeof(tags) = 'array'", name="tags"),
        Check(build_strings_only_check("images", "$[*]"), name="images_texts"),
        Check(build_strings_only_check("tags", "$[*]"), name="tags_texts"),
        Index("products_config_id_handle_key", "config_id", "handle", unique=True),
        Index("products_created_at_idx", text("created_at DESC")),
        *(
            Index(f"products_by_{name}_idx", "config_id", name, "id")
            for name in ("created_at", "updated_at", "price", "sort_title", "popularity", "rating")
        ),
        # Category counts by index-only scans, and the most popular products of a category.
        Index(*("products_shelf_idx", "config_id", "category", "popularity", "id"), postgresql_where=text("status = 'active'")),
        Index("products_search_idx", text(STORE_SEARCH_VECTOR_SQL), postgresql_using="gin"),
        Index("products_tags_idx", "tags", postgresql_using="gin"),
    )

    id: UUID = uuid_key_column()
    config_id: UUID = foreign_key_column("configs.id", index=True)
    title: str
    handle: str
    description: str | None = None
    price: Decimal = money_column()
    compare_at_price: Decimal | None = money_column(nullable=True)
    images: list[str] = json_column("[]")
    category: str | None = Field(default=None, index=True)
    tags: list[str] = json_column("[]")
    inventory: int | None = Field(default=None, sa_column_kwargs={"server_default": text("0")})
    track_inventory: bool = boolean_column(True)
    seo_title: str | None = None
    seo_description: str | None = None
    status: str = enum_column("active", index=True)
    version: int = integer_column(1)
    created_at: datetime = timestamp_column()
    updated_at: datetime = timestamp_column()

    # Derived
    popularity: int = integer_column(0)
    variants_total: int = integer_column(0)
    variants_available: int = integer_column(0)
    variants_in_stock: int = integer_column(0)
    variants_min_price: Decimal | None = money_column(nullable=True)
    variants_max_price: Decimal | None = money_column(nullable=True)
    rating_counts: list[int] = Field(sa_column=Column(ARRAY(Integer), nullable=False, server_default=text("'{0,0,0,0,0}'")))
    rating: float = Field(sa_column=Column(Double, Computed(RATING_SQL, persisted=True), nullable=False))
    in_stock: bool = Field(sa_column_args=[Computed(IN_STOCK_SQL, persisted=True)], nullable=False)
    sort_title: str = Field(sa_column=Column(Text(collation="C"), Computed(SORT_TITLE_SQL, persisted=True), nullable=False))
    search_vector: str = Field(sa_column=Column(TSVECTOR, Computed(SEARCH_VECTOR_SQL, persisted=True), nullable=False))
