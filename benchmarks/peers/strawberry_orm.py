"""Strawberry over SQLAlchemy's ORM with DataLoaders, as it is usually written: mapped classes, a session per unit of work."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, ClassVar

import strawberry
from sqlalchemy import ColumnElement, ForeignKey, Numeric, Text, exists, func, literal_column, select
from sqlalchemy import DateTime as Moment
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from strawberry.asgi import GraphQL
from strawberry.dataloader import DataLoader
from strawberry.extensions import ParserCache, ValidationCache
from strawberry.scalars import JSON
from strawberry.types import Info

# Where the database is stands in PGHOST and its like.
engine = create_async_engine("postgresql+psycopg://", pool_size=10, max_overflow=0)
Session = async_sessionmaker(engine, expire_on_commit=False)


# ------------------------------------------------------------------------------------------------- tables


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {
        str: Text,
        Decimal: Numeric(10, 2),
        datetime: Moment(timezone=True),
        list[str]: JSONB,
        dict[str, Any]: JSONB,
    }


def _new_id() -> str:
    return str(uuid.uuid4())


class UserRow(Base):
    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    image: Mapped[str | None]


class ProductRow(Base):
    __tablename__ = "products"
    id: Mapped[str] = mapped_column(primary_key=True, default=_new_id)
    config_id: Mapped[str]
    title: Mapped[str]
    description: Mapped[str | None]
    price: Mapped[Decimal]
    compare_at_price: Mapped[Decimal | None]
    images: Mapped[list[str]] = mapped_column(default=list)
    category: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(default=list)
    inventory: Mapped[int | None] = mapped_column(default=0)
    track_inventory: Mapped[bool] = mapped_column(default=True)
    seo_title: Mapped[str | None]
    seo_description: Mapped[str | None]
    status: Mapped[str] = mapped_column(default="active")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class VariantRow(Base):
    __tablename__ = "product_variants"
    id: Mapped[str] = mapped_column(primary_key=True, default=_new_id)
    product_id: Mapped[str] = mapped_column(ForeignKey("products.id"))
    name: Mapped[str]
    price: Mapped[Decimal]
    compare_at_price: Mapped[Decimal | None]
    attributes: Mapped[dict[str, Any]] = mapped_column(default=dict)
    inventory: Mapped[int | None] = mapped_column(default=0)
    sku: Mapped[str | None]
    is_available: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ReviewRow(Base):
    __tablename__ = "reviews"
    id: Mapped[str] = mapped_column(primary_key=True)
    product_id: Mapped[str] = mapped_column(ForeignKey("products.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    rating: Mapped[int]
    title: Mapped[str | None]
    body: Mapped[str | None]
    created_at: Mapped[datetime]


class EventRow(Base):
    __tablename__ = "analytics_events"
    id: Mapped[str] = mapped_column(primary_key=True)
    config_id: Mapped[str]
    event: Mapped[str]
    properties: Mapped[dict[str, Any]]
    timestamp: Mapped[datetime]


# ------------------------------------------------------------------------------------------------ loaders

Keys = Sequence[tuple[str, int]]


def _first_of_product(row: Any, order: Any, *wanted: Any) -> Callable[[Keys], Awaitable[list[list[Any]]]]:
    """Loads the first rows of each product; a key is the product's id and how many."""

    async def load(keys: Keys) -> list[list[Any]]:
        found: dict[tuple[str, int], list[Any]] = {key: [] for key in keys}
        by_count = defaultdict(list)
        for product_id, count in keys:
            by_count[count].append(product_id)
        async with Session() as session:
            for count, products in by_count.items():
                place = func.row_number().over(partition_by=row.product_id, order_by=order).label("place")
                ranked = select(row, place).where(row.product_id.in_(products), *wanted).subquery()
                entity = aliased(row, ranked)
                query = select(entity).where(ranked.c.place <= count).order_by(ranked.c.product_id, ranked.c.place)
                for one in await session.scalars(query):
                    found[one.product_id, count].append(one)
        return [found[key] for key in keys]

    return load


load_variants = _first_of_product(VariantRow, VariantRow.created_at, VariantRow.is_available)
load_reviews = _first_of_product(ReviewRow, ReviewRow.created_at.desc())


async def load_users(ids: list[str]) -> list[UserRow | None]:
    async with Session() as session:
        found = {user.id: user for user in await session.scalars(select(UserRow).where(UserRow.id.in_(ids)))}
    return [found.get(id_) for id_ in ids]


# -------------------------------------------------------------------------------------------------- types


@strawberry.type
class User:
    id: strawberry.ID
    name: str | None
    image: str | None

    @classmethod
    def of(cls, row: UserRow) -> "User":
        return cls(id=strawberry.ID(row.id), name=row.name, image=row.image)


@strawberry.type
class Review:
    user_id: strawberry.Private[str]
    id: strawberry.ID
    rating: int
    title: str | None
    body: str | None
    created_at: datetime

    @strawberry.field
    async def user(self, info: Info) -> User:
        return User.of(await info.context["users"].load(self.user_id))

    @classmethod
    def of(cls, row: ReviewRow) -> "Review":
        return cls(
            user_id=row.user_id,
            id=strawberry.ID(row.id),
            rating=row.rating,
            title=row.title,
            body=row.body,
            created_at=row.created_at,
        )


@strawberry.type
class Variant:
    id: strawberry.ID
    name: str
    price: Decimal
    compare_at_price: Decimal | None
    attributes: JSON | None
    inventory: int | None
    sku: str | None
    is_available: bool | None
    created_at: datetime

    @classmethod
    def of(cls, row: VariantRow) -> "Variant":
        return cls(
            id=strawberry.ID(row.id),
            name=row.name,
            price=row.price,
            compare_at_price=row.compare_at_price,
            attributes=JSON(row.attributes),
            inventory=row.inventory,
            sku=row.sku,
            is_available=row.is_available,
            created_at=row.created_at,
        )


@strawberry.type
class Product:
    config_id: strawberry.Private[str]
    id: strawberry.ID
    title: str
    description: str | None
    price: Decimal
    compare_at_price: Decimal | None
    images: JSON | None
    category: str | None
    tags: JSON | None
    inventory: int | None
    track_inventory: bool | None
    seo_title: str | None
    seo_description: str | None
    status: str | None
    created_at: datetime
    updated_at: datetime

    @strawberry.field
    async def variants(self, info: Info, first: int = 5) -> list[Variant]:
        return [Variant.of(row) for row in await info.context["variants"].load((self.id, first))]

    @strawberry.field
    async def reviews(self, info: Info, first: int = 3) -> list[Review]:
        return [Review.of(row) for row in await info.context["reviews"].load((self.id, first))]

    @strawberry.field
    async def related(self, first: int = 4) -> list["Product"]:
        same = ProductRow.config_id == self.config_id, ProductRow.category == self.category
        query = select(ProductRow).where(*same, ProductRow.id != self.id, ProductRow.status == "active")
        async with Session() as session:
            found = await session.scalars(query.order_by(ProductRow.created_at.desc()).limit(first))
            return [Product.of(row) for row in found]

    @classmethod
    def of(cls, row: ProductRow) -> "Product":
        return cls(
            config_id=row.config_id,
            id=strawberry.ID(row.id),
            title=row.title,
            description=row.description,
            price=row.price,
            compare_at_price=row.compare_at_price,
            images=JSON(row.images),
            category=row.category,
            tags=JSON(row.tags),
            inventory=row.inventory,
            track_inventory=row.track_inventory,
            seo_title=row.seo_title,
            seo_description=row.seo_description,
            status=row.status,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


@strawberry.type
class ProductPage:
    total: int
    items: list[Product]


@strawberry.type
class TopProduct:
    product_id: strawberry.ID
    clicks: int


@strawberry.type
class Report:
    page_views: int
    product_clicks: int
    add_to_carts: int
    conversion_rate: float
    top_products: list[TopProduct]


@strawberry.enum
class Sort(Enum):
    CREATED = "created"
    PRICE = "price"
    NAME = "name"


@strawberry.input
class VariantInput:
    name: str
    price: Decimal
    inventory: int
    attributes: JSON


@strawberry.input
class ProductInput:
    config_id: strawberry.ID
    title: str
    description: str
    price: Decimal
    category: str
    images: list[str]
    variants: list[VariantInput] = strawberry.field(default_factory=list)


# ------------------------------------------------------------------------------------------- queries, writes

_ORDERS: dict[Sort, list[Any]] = {
    Sort.CREATED: [ProductRow.created_at.desc()],
    Sort.PRICE: [ProductRow.price, ProductRow.id],
    Sort.NAME: [ProductRow.title, ProductRow.id],
}
# As literals: Postgres uses the index only where the expression is the index's own.
_ENGLISH, _SPACE, _NOTHING = (literal_column(text, Text) for text in ("'english'", "' '", "''"))
_TEXT = func.to_tsvector(_ENGLISH, ProductRow.title + _SPACE + func.coalesce(ProductRow.description, _NOTHING))


def _wanted(
    config_id: str, search: str | None, min_price: Decimal | None, max_price: Decimal | None
) -> list[ColumnElement[bool]]:
    wanted = [ProductRow.config_id == config_id, ProductRow.status == "active"]
    if search is not None:
        wanted.append(_TEXT.bool_op("@@")(func.websearch_to_tsquery(_ENGLISH, search)))
    bounds = [VariantRow.price >= min_price] if min_price is not None else []
    bounds += [VariantRow.price <= max_price] if max_price is not None else []
    if bounds:
        wanted.append(exists().where(VariantRow.product_id == ProductRow.id, VariantRow.is_available, *bounds))
    return wanted


@strawberry.type
class Query:
    @strawberry.field
    async def products(
        self,
        config_id: strawberry.ID,
        search: str | None = None,
        min_price: Decimal | None = None,
        max_price: Decimal | None = None,
        sort: Sort = Sort.CREATED,
        first: int = 20,
        offset: int = 0,
    ) -> ProductPage:
        wanted = _wanted(config_id, search, min_price, max_price)

        async def items() -> Sequence[ProductRow]:
            query = select(ProductRow).where(*wanted).order_by(*_ORDERS[sort]).limit(first).offset(offset)
            async with Session() as session:
                return (await session.scalars(query)).all()

        async def total() -> int:
            async with Session() as session:
                return await session.scalar(select(func.count()).select_from(ProductRow).where(*wanted)) or 0

        rows, count = await asyncio.gather(items(), total())
        return ProductPage(total=count, items=[Product.of(row) for row in rows])

    @strawberry.field
    async def product(self, id: strawberry.ID) -> Product | None:
        async with Session() as session:
            row = await session.scalar(select(ProductRow).where(ProductRow.id == id, ProductRow.status == "active"))
        return Product.of(row) if row else None

    @strawberry.field
    async def analytics(
        self, config_id: strawberry.ID, from_: Annotated[datetime, strawberry.argument(name="from")], to: datetime
    ) -> Report:
        span = EventRow.config_id == config_id, EventRow.timestamp >= from_, EventRow.timestamp < to

        async def counted() -> dict[str, int]:
            query = select(EventRow.event, func.count()).where(*span).group_by(EventRow.event)
            async with Session() as session:
                return dict((await session.execute(query)).tuples().all())

        async def best() -> Sequence[Any]:
            product, clicks = EventRow.properties["productId"].astext.label("product"), func.count()
            query = select(product, clicks).where(*span, EventRow.event == "product_click").group_by("product")
            async with Session() as session:
                return (await session.execute(query.order_by(clicks.desc(), "product").limit(10))).all()

        counts, top = await asyncio.gather(counted(), best())
        clicks, carts = counts.get("product_click", 0), counts.get("add_to_cart", 0)
        return Report(
            page_views=counts.get("page_view", 0),
            product_clicks=clicks,
            add_to_carts=carts,
            conversion_rate=carts / clicks * 100 if clicks else 0.0,
            top_products=[TopProduct(product_id=product, clicks=count) for product, count in top],
        )


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def create_product(self, info: Info, input: ProductInput) -> Product:
        if "authorization" not in info.context["request"].headers:
            raise PermissionError("Sign in first.")
        if not input.title or len(input.description) < 10 or not input.price > 0:
            raise ValueError("The product is not complete.")
        async with Session.begin() as session:
            product = ProductRow(
                config_id=input.config_id,
                title=input.title,
                description=input.description,
                price=input.price,
                category=input.category,
                images=input.images,
            )
            session.add(product)
            await session.flush()
            session.add_all(
                VariantRow(
                    product_id=product.id, name=form.name, price=form.price, inventory=form.inventory, attributes=form.attributes
                )
                for form in input.variants
            )
            await session.flush()
            await session.refresh(product)
        return Product.of(product)


class App(GraphQL[dict[str, Any], None]):
    async def get_context(self, request: Request, response: Response) -> dict[str, Any]:  # type: ignore[override]
        return {
            "request": request,
            "response": response,
            "variants": DataLoader(load_variants),
            "reviews": DataLoader(load_reviews),
            "users": DataLoader(load_users),
        }


schema = strawberry.Schema(Query, Mutation, extensions=[ParserCache, ValidationCache])
app = Starlette(routes=[Route("/graphql", App(schema, graphql_ide=None), methods=["POST"])])
