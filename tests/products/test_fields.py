"""The declarations of writable fields (`writable_column`), and the GraphQL types that have to agree with them."""

from types import NoneType
from typing import Any, get_args

import pytest
from graphql import GraphQLInputObjectType, GraphQLObjectType, Undefined, is_non_null_type, is_required_input_field
from sqlmodel import SQLModel

from storefront.models import PRODUCT_FIELDS, VARIANT_FIELDS, Product, ProductVariant
from storefront.models.variant_summary import SETTABLE_COLUMNS
from storefront.models.writable_fields import Choice, ItemList, TextMap, WritableField
from storefront.schema import schema
from storefront.serving.documents.input_limits import LIMIT_EXTENSION_KEY

TYPES = schema._schema.type_map
# The fields of inputs that are not fields of the row.
OTHERS = {
    "clientMutationId",
    "idempotencyKey",
    "id",
    "expectedVersion",
    "onConflict",
    "configId",
    "productId",
    "options",
    "variants",
}
# Written by imports alone, and shown by the images.
IMPORTED = {"image_alts"}
FIELDS = {"Product": [field for field in PRODUCT_FIELDS if field.name not in IMPORTED], "Variant": VARIANT_FIELDS}
# Inputs of products have some fields of variants, for variants that are all alike.
SETTABLE_FIELDS = [field for field in VARIANT_FIELDS if field.name in SETTABLE_COLUMNS]
CREATION = [("CreateProductInput", "Product"), ("CreateVariantInput", "Variant"), ("ProductVariantInput", "Variant")]
UPDATE = [("UpdateProductInput", "Product"), ("UpdateProductRowInput", "Product"), ("UpdateVariantInput", "Variant")]


def input_fields(name: str) -> dict[str, Any]:
    type_ = TYPES[name]
    assert isinstance(type_, GraphQLInputObjectType)
    return {**type_.fields}


@pytest.mark.parametrize(("input_", "noun"), CREATION + UPDATE)
def test_inputs_have_the_declared_fields(input_: str, noun: str) -> None:
    fields = [*FIELDS[noun], *(SETTABLE_FIELDS if noun == "Product" else ())]
    names = {field.graphql_name: field for field in fields}
    inputs = input_fields(input_)
    assert inputs.keys() - OTHERS == names.keys()
    for name, field in names.items():
        if isinstance(field.value_type, ItemList | TextMap):
            assert inputs[name].extensions[LIMIT_EXTENSION_KEY].items == field.value_type.max_items


PRODUCT_PRICE = ("ProductVariantInput", "price")


@pytest.mark.parametrize(("input_", "noun"), CREATION)
def test_creation_has_the_declared_defaults(input_: str, noun: str) -> None:
    inputs = input_fields(input_)
    for field in FIELDS[noun]:
        # Derived from the title, the attributes or the product, if they are left out.
        if field.name == "handle" or (noun, field.name) == ("Variant", "name") or (input_, field.name) == PRODUCT_PRICE:
            continue
        definition = inputs[field.graphql_name]
        assert is_required_input_field(definition) == field.is_required
        assert is_non_null_type(definition.type) != field.is_nullable
        default = None if definition.default_value is Undefined else definition.default_value
        # A map has a list of pairs as its input.
        assert getattr(default, "value", default) == ([] if field.default == {} else field.default)


def test_values_for_variants_may_be_omitted() -> None:
    """A product's price is that of the variants without one of their own, and each of them may have one."""
    product, variant = input_fields("CreateProductInput"), input_fields("ProductVariantInput")
    for definition in (variant["price"], *(product[field.graphql_name] for field in SETTABLE_FIELDS)):
        assert not is_required_input_field(definition) and not is_non_null_type(definition.type)
    assert product["inventory"].default_value == variant["inventory"].default_value == 0
    assert product["price"].default_value is variant["price"].default_value is Undefined


@pytest.mark.parametrize(("type_name", "noun"), [("Product", "Product"), ("ProductVariant", "Variant")])
def test_object_types_have_the_declared_fields(type_name: str, noun: str) -> None:
    type_ = TYPES[type_name]
    assert isinstance(type_, GraphQLObjectType)
    for field in (*FIELDS[noun], *(SETTABLE_FIELDS if noun == "Product" else ())):
        assert is_non_null_type(type_.fields[field.graphql_name].type) != field.is_nullable


@pytest.mark.parametrize(("model", "fields"), [(Product, PRODUCT_FIELDS), (ProductVariant, VARIANT_FIELDS)])
def test_annotations_agree_with_defaults(model: type[SQLModel], fields: tuple[WritableField, ...]) -> None:
    for field in fields:
        assert field.is_nullable == (NoneType in get_args(model.__annotations__[field.name]))


def test_status_has_the_declared_values() -> None:
    [status] = [field.value_type for field in PRODUCT_FIELDS if isinstance(field.value_type, Choice)]
    assert tuple(value.lower() for value in TYPES["ProductStatus"].values) == status.values  # type: ignore[attr-defined]
