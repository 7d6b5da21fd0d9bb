"""JSON pushdown: translates selections of products into documents that Postgres renders as JSON, without rows in Python."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from storefront.core.errors import RequestError
from storefront.execution.lookahead import SelectedField, SelectionTree, get_child_field, get_child_selection, get_selection
from storefront.graph import arguments as checks
from storefront.graph.context import Info
from storefront.models import configs, products, reviews, users, variants
from storefront.models.config import MAX_STORE_DESCRIPTION_CHARACTERS
from storefront.models.review import MAX_REVIEW_CHARACTERS
from storefront.models.variant import MAX_VARIANTS
from storefront.models.writable_fields import get_max_characters, list_writable_fields
from storefront.queries.fields import VARIANT_COLUMN_NAMES, get_variant_count_column
from storefront.queries.json_sql import (
    AttributeListField,
    ColumnField,
    ConstantField,
    CurrencyField,
    ForeignRowField,
    JsonDocument,
    JsonField,
    JsonFields,
    ObjectField,
    OptionListField,
    OptionValueListField,
    PriceRangeField,
    RatingCountsField,
    RelatedProductsField,
    ReviewCountField,
    ReviewListField,
    ReviewSummaryField,
    SwatchField,
    VariantListField,
    WeightField,
    build_document,
)
from storefront.queries.projection import MAX_CACHED_STATEMENTS

# The variants of a page, if their number is not given, and at most.
DEFAULT_VARIANTS, MAX_VARIANTS_PER_PAGE = 5, 250
# The values of an option.
MAX_OPTION_VALUES = 100
# The reviews of a product's page, if their number is not given.
DEFAULT_REVIEWS = 3
# Larger statements are not worth the memory of caching them.
MAX_FIELDS = 150
# The most characters that the texts and lists of a single row's document may have. Postgres builds a row in its memory, as a
# whole: only rows that are read one by one can be refused while they arrive.
MAX_ROW_CHARACTERS = 16_000_000

SelectedFields = Sequence[SelectedField]


class _Unsupported(Exception):
    """The selection has a field that has to be resolved row by row."""


def build_nodes_document(info: Info, *, is_owner: bool) -> JsonDocument | None:
    """The document of a product connection's nodes; None if pushdown does not support the selection."""
    return _get_cached_document(get_child_selection(info, "nodes", excluded_name="edges"), is_owner)


def build_product_document(info: Info, *, is_owner: bool) -> JsonDocument | None:
    """The document of a single product; None if pushdown does not support the selection."""
    return _get_cached_document(get_selection(info), is_owner)


def find_handle_lookup(info: Info) -> tuple[str, JsonDocument] | None:
    """For a store: the handle of the only product that is selected, and its document for shoppers; None without one."""
    field = get_child_field(info, "product")
    handle = getattr(dict(field.arguments).get("by"), "handle", None) if field else None
    document = _get_cached_document(field.children, False) if field and isinstance(handle, str) else None
    return (checks.check_text(handle, "by.handle"), document) if document and isinstance(handle, str) else None


def _get_cached_document(selection: SelectionTree | None, is_owner: bool) -> JsonDocument | None:
    try:
        return None if selection is None or selection.size > MAX_FIELDS else _build_document(selection, is_owner)
    except TypeError:
        # Lists among the arguments are unhashable, so the document cannot be cached.
        return None


@lru_cache(MAX_CACHED_STATEMENTS)
def _build_document(selection: SelectionTree, is_owner: bool) -> JsonDocument | None:
    try:
        return build_document(_DocumentBuilder(is_owner).build_fields(selection, "Product"))
    except (_Unsupported, RequestError):
        # The resolver of the field raises the error for an invalid argument, with its path.
        return None


class _DocumentBuilder:
    """Builds the document of a selection for one audience, owner or shopper. Raises _Unsupported."""

    def __init__(self, is_owner: bool) -> None:
        self._is_owner = is_owner
        # The most characters of the document so far, and the rows of the nested list whose fields are built.
        self._characters, self._row_count = 0, 1
        self._field_builders: Mapping[tuple[str, str], Callable[[SelectedField], JsonField]] = {
            ("Product", "variants"): self._build_variants,
            ("Product", "reviews"): self._build_reviews,
            ("Product", "currency"): lambda field: CurrencyField(field.response_name),
            ("Product", "price_range"): lambda field: PriceRangeField(
                field.response_name, _build_leaf_fields(field, "PriceRange")
            ),
            ("Product", "review_summary"): _build_review_summary,
            ("Product", "options"): _build_options,
            ("Product", "related"): self._build_related,
            ("Product", "config"): lambda field: ForeignRowField(
                field.response_name, self.build_fields(field.children, "Config"), "config_id"
            ),
            ("Review", "user"): lambda field: ForeignRowField(
                field.response_name, self.build_fields(field.children, "User"), "user_id"
            ),
            ("ProductVariant", "attributes"): self._build_attributes,
            ("ProductVariant", "weight"): lambda field: WeightField(field.response_name, _build_leaf_fields(field, "Weight")),
        }

    def build_fields(self, selection: SelectedFields, type_name: str) -> JsonFields:
        """The document fields of a selection on an object type."""
        return tuple(self._build_field(field, type_name) for field in selection)

    def _build_field(self, field: SelectedField, type_name: str) -> JsonField:
        if field.name == "__typename":
            return ConstantField(field.response_name, type_name)
        if build := self._field_builders.get((type_name, field.name)):
            return build(field)
        if not field.is_attribute or field.name not in _COLUMNS_BY_TYPE[type_name]:
            raise _Unsupported
        self._add_characters(_MAX_CHARACTERS_BY_COLUMN.get((type_name, field.name), 0))
        return ColumnField(field.response_name, field.name)

    def _build_list_fields(self, selection: SelectedFields, type_name: str, limit: int) -> JsonFields:
        """The document fields of a nested list with at most `limit` rows."""
        outer_count, self._row_count = self._row_count, self._row_count * limit
        try:
            return self.build_fields(selection, type_name)
        finally:
            self._row_count = outer_count

    def _add_characters(self, count: int) -> None:
        self._characters += self._row_count * count
        if self._characters > MAX_ROW_CHARACTERS:
            raise _Unsupported

    def _build_variants(self, field: SelectedField) -> JsonField:
        field_arguments = dict(field.arguments)
        limit = _get_first_page_limit(field_arguments, DEFAULT_VARIANTS, MAX_VARIANTS_PER_PAGE)
        available_only = field_arguments["available_only"] or not self._is_owner

        def build_field(child: SelectedField) -> JsonField:
            match child.name:
                case "__typename":
                    return ConstantField(child.response_name, "ProductVariantConnection")
                case "total_count":
                    return ColumnField(child.response_name, get_variant_count_column(available_only))
                case "nodes":
                    fields = self._build_list_fields(child.children, "ProductVariant", limit)
                    sort = field_arguments["sort"].value
                    return VariantListField(child.response_name, fields, limit, available_only, sort, self._is_owner)
            raise _Unsupported

        return ObjectField(field.response_name, tuple(map(build_field, field.children)))

    def _build_reviews(self, field: SelectedField) -> JsonField:
        field_arguments = dict(field.arguments)
        limit, rating = _get_first_page_limit(field_arguments, DEFAULT_REVIEWS), field_arguments.get("rating")
        if rating is not None:
            checks.check_rating(rating)

        def build_field(child: SelectedField) -> JsonField:
            match child.name:
                case "__typename":
                    return ConstantField(child.response_name, "ReviewConnection")
                case "total_count":
                    return ReviewCountField(child.response_name, rating)
                case "nodes":
                    fields = self._build_list_fields(child.children, "Review", limit)
                    return ReviewListField(child.response_name, fields, limit, rating)
            raise _Unsupported

        return ObjectField(field.response_name, tuple(map(build_field, field.children)))

    def _build_attributes(self, field: SelectedField) -> JsonField:
        self._add_characters(_MAX_CHARACTERS_BY_COLUMN["ProductVariant", "attributes"])
        return _build_attribute_list(field)

    def _build_related(self, field: SelectedField) -> JsonField:
        limit = checks.check_row_count(dict(field.arguments)["first"])
        return RelatedProductsField(field.response_name, self._build_list_fields(field.children, "Product", limit), limit)


def _get_first_page_limit(field_arguments: Mapping[str, Any], default: int, max_rows: int = checks.MAX_ROWS) -> int:
    """The number of rows of a connection's first page. Raises _Unsupported for another page."""
    if any(field_arguments.get(name) is not None for name in ("after", "last", "before")):
        raise _Unsupported
    return checks.build_window(field_arguments.get("first"), None, default=default, max_rows=max_rows).limit


def _build_review_summary(field: SelectedField) -> JsonField:
    return ReviewSummaryField(
        field.response_name,
        tuple(
            RatingCountsField(child.response_name, _build_leaf_fields(child, "RatingCount"))
            if child.name == "distribution"
            else _build_leaf_field(child, "ReviewSummary")
            for child in field.children
        ),
    )


def _build_attribute_list(field: SelectedField) -> JsonField:
    if [(child.response_name, child.name) for child in field.children] == [("name", "name"), ("value", "value")]:
        # The generated column has exactly these fields.
        return ColumnField(field.response_name, "attribute_list")
    if _has_images(field.children):
        raise _Unsupported
    return AttributeListField(
        field.response_name,
        tuple(
            SwatchField(child.response_name, _build_leaf_fields(child, "Swatch"))
            if child.name == "swatch"
            else _build_leaf_field(child, "VariantAttribute")
            for child in field.children
        ),
    )


def _has_images(fields: SelectedFields) -> bool:
    """Whether swatches among the fields are selected with their images, which are loaded."""
    return any(leaf.name == "image" for field in fields for leaf in field.children)


def _build_options(field: SelectedField) -> JsonField:
    if dict(field.arguments).get("selected"):
        raise _Unsupported
    return OptionListField(
        field.response_name,
        tuple(
            _build_option_values(child) if child.name == "values" else _build_leaf_field(child, "ProductOption")
            for child in field.children
        ),
    )


def _build_option_values(field: SelectedField) -> OptionValueListField:
    limit = checks.check_row_count(dict(field.arguments)["first"], max_rows=MAX_VARIANTS)
    children = field.children
    # Rows of variants and images are loaded. Each value is compared with all variants of the product.
    is_loaded = any(child.name == "variant" for child in children) or _has_images(children)
    if is_loaded or limit > MAX_OPTION_VALUES:
        raise _Unsupported
    values = tuple(
        SwatchField(child.response_name, _build_leaf_fields(child, "Swatch"))
        if child.name == "swatch"
        else _build_leaf_field(child, "ProductOptionValue")
        for child in children
    )
    return OptionValueListField(field.response_name, values, limit)


def _build_leaf_fields(field: SelectedField, type_name: str) -> tuple[ColumnField | ConstantField, ...]:
    return tuple(_build_leaf_field(child, type_name) for child in field.children)


def _build_leaf_field(field: SelectedField, type_name: str) -> ColumnField | ConstantField:
    if field.name == "__typename":
        return ConstantField(field.response_name, type_name)
    return ColumnField(field.response_name, field.name)


_COLUMNS_BY_TYPE: Mapping[str, frozenset[str]] = {
    "Product": frozenset(products.c.keys()),
    "ProductVariant": frozenset(VARIANT_COLUMN_NAMES),
    "Review": frozenset(reviews.c.keys()),
    "Config": frozenset(configs.c.keys()),
    "User": frozenset(users.c.keys()),
}
_MAX_CHARACTERS_BY_COLUMN: Mapping[tuple[str, str], int] = {
    **{
        (type_name, field.name): get_max_characters(field.value_type)
        for type_name, table in (("Product", products), ("ProductVariant", variants))
        for field in list_writable_fields(table)
    },
    **{("Review", name): MAX_REVIEW_CHARACTERS for name in ("body", "reply")},
    ("Config", "description"): MAX_STORE_DESCRIPTION_CHARACTERS,
}
