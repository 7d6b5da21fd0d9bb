"""Diff of a batch of products against a store, and set-based writes of it. Independent of the source and of jobs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any, NoReturn

from sqlalchemy import ARRAY, ColumnElement, Text, Uuid, any_, bindparam, func, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from storefront.core.casing import to_camel_case
from storefront.core.cooperative import TimeSlice, run_in_thread_if_long
from storefront.core.currencies import ExcessDigitsError, quantize_amount
from storefront.core.db.database import Connection, Statement, compile_statement
from storefront.core.db.json_parameters import render_rows, to_json
from storefront.core.ids import new_id
from storefront.feed.log import LogEntry
from storefront.imports.changes import UPDATE_PRODUCT, UPDATE_VARIANT, Change, ProductChange, describe_product, truncate_value
from storefront.imports.csv_columns import (
    AMOUNT_FIELD_NAMES,
    COLUMNS_BY_FIELD,
    PRODUCT_FIELD_NAMES,
    VARIANT_FIELD_NAMES,
    InvalidRowError,
)
from storefront.imports.matching import VariantPair, match_variants
from storefront.imports.product_parser import build_weight, clamp_inventory, is_rounded_form
from storefront.imports.row_types import ProductRow, RowError, VariantRow
from storefront.imports.sku_lookup import find_products_by_sku
from storefront.models import images as image_table
from storefront.models import products as product_table
from storefront.models import variants as variant_table
from storefront.models.former_values import FILTERED_PRODUCT_COLUMNS, get_former_product
from storefront.models.options import OptionEditor
from storefront.models.product import MAX_IMAGES, build_published_at
from storefront.models.rows import ImageRow
from storefront.models.rows import ProductRow as StoredProduct
from storefront.models.rows import VariantRow as StoredVariant
from storefront.models.search_document import SEARCHED_VARIANT_COLUMNS, build_search_vector, list_codes
from storefront.models.variant import (
    MAX_ATTRIBUTES,
    MAX_VARIANTS,
    build_variant_name,
    fold_attributes,
    follow_attributes,
)
from storefront.models.variant_summary import SETTABLE_COLUMNS, SUMMARIZED_COLUMNS, SUMMARY_COLUMNS, summarize_variants
from storefront.queries.images import is_image_address, parse_image_id
from storefront.writes.former_names import enqueue_handle_takeover
from storefront.writes.image_changes import ImageChange, enqueue_image_changes
from storefront.writes.sql import select_json_rows
from storefront.writes.variant_rows import get_former_variants, lock_variants, write_variants

# Stored variants that are loaded and compared at a time.
MAX_STORED_VARIANTS = MAX_VARIANTS

ColumnValues = dict[str, Any]
# A row, the stored variant that it changes, and the new columns of that.
WrittenVariant = tuple[VariantRow, StoredVariant | None, ColumnValues]

# The columns of a product that follow its variants.
_DERIVED_COLUMNS = (*SUMMARY_COLUMNS, "options")
# Of a stored variant that stays, what columns of its product are derived from.
_REMAINING_COLUMNS = ("id", "position", "attributes", *SUMMARIZED_COLUMNS, *SEARCHED_VARIANT_COLUMNS)
# Fields of the API that columns belong to, where they have other names.
_LOG_NAMES = {"image_alts": "images.alt"}
_AMOUNT_COLUMNS = {name: COLUMNS_BY_FIELD[name][0] for name in VARIANT_FIELD_NAMES if name in AMOUNT_FIELD_NAMES}
_CODE_COLUMNS = {"sku": "variant sku", "barcode": "variant barcode"}
_get_product_values, _get_variant_values = attrgetter(*PRODUCT_FIELD_NAMES), attrgetter(*VARIANT_FIELD_NAMES)
_LOCKED_PRODUCT_COLUMNS = tuple(
    dict.fromkeys(("id", "handle", "version", *_DERIVED_COLUMNS, *PRODUCT_FIELD_NAMES, *FILTERED_PRODUCT_COLUMNS))
)


@dataclass(slots=True)
class WritePlan:
    """The rows of a store that one batch inserts, updates and deletes, with their log entries, and what is refused of it."""

    config_id: str
    created: list[ColumnValues] = field(default_factory=list)
    updated: list[ColumnValues] = field(default_factory=list)
    variants_created: list[ColumnValues] = field(default_factory=list)
    variants_updated: list[ColumnValues] = field(default_factory=list)
    variants_removed: list[str] = field(default_factory=list)
    alts_updated: list[ColumnValues] = field(default_factory=list)
    kept_cells_updated: list[ColumnValues] = field(default_factory=list)
    image_changes: list[ImageChange] = field(default_factory=list)
    entries: list[LogEntry] = field(default_factory=list)
    changes: list[ProductChange] = field(default_factory=list)
    row_errors: list[RowError] = field(default_factory=list)
    unchanged_count: int = 0


async def plan_writes(
    connection: Connection,
    config_id: str,
    batch: Sequence[ProductRow],
    attribution: Mapping[str, Any],
    *,
    currency: str,
    delete_missing_variants: bool = False,
    describes_changes: bool,
) -> AsyncIterator[WritePlan]:
    """Diff a batch against the stored products, which are locked. Yields one plan for most batches, and several where there are
    more than MAX_STORED_VARIANTS variants to compare with. `attribution`: columns of all log entries. `currency`: of the store.
    The stored variants of a product that the source does not have stay, unless `delete_missing_variants`. `describes_changes`:
    whether plans have `changes`.
    """
    batch, errors = await find_products_by_sku(connection, config_id, batch)
    if errors:
        yield WritePlan(config_id, row_errors=errors)
    handles = [product.handle for product in batch]
    # The lock order of all commands, which prevents deadlocks: products by id, then their variants.
    rows = await connection.fetch(_lock_products_statement(), {"config_id": config_id, "handles": handles})
    stored = {row.handle: row for row in rows}
    # Reading so many rows takes a time slice.
    await asyncio.sleep(0)
    time_slice = TimeSlice()
    batch = await _find_fetched_images(connection, config_id, batch, stored)
    hosted_images = await _load_hosted_images(connection, config_id, batch)
    for group in _split_by_stored_variants(batch, stored):
        variants: dict[str, list[StoredVariant]] = {
            stored[product.handle].id: [] for product in group if product.handle in stored
        }
        for row in await lock_variants(connection, config_id, list(variants)):
            variants[row.product_id].append(row)
        await asyncio.sleep(0)
        kept_cells = await _load_kept_cells(connection, config_id, group, [*variants])
        plan = WritePlan(config_id)
        for product in group:
            stored_product = stored.get(product.handle)
            existing = variants[stored_product.id] if stored_product else []
            planner = _ProductPlanner(
                plan,
                product,
                stored_product,
                existing,
                attribution,
                currency,
                delete_missing_variants,
                describes_changes,
                hosted_images,
                kept_cells,
            )
            await run_in_thread_if_long(len(product.variants) + len(existing), planner.plan_product)
            await time_slice.yield_if_expired()
        yield plan


async def _find_fetched_images(
    connection: Connection, config_id: str, batch: Sequence[ProductRow], stored: Mapping[str, StoredProduct]
) -> list[ProductRow]:
    """The batch with the present URLs of images that were fetched from the URLs that it has."""
    shown = [stored[product.handle] for product in batch if product.images and product.handle in stored]
    ids = [row.id for row in shown if any(map(parse_image_id, row.images))]
    if not ids:
        return [*batch]
    sources: dict[str, dict[str, str]] = {}
    for row in await connection.fetch(_select_sources_statement(), {"config_id": config_id, "ids": ids}):
        sources.setdefault(row.product_id, {})[row.id] = row.source_url
    found = list[ProductRow]()
    for product in batch:
        row = stored.get(product.handle)
        sources_by_id = sources.get(row.id, {}) if row else {}
        addresses = (
            {sources_by_id[id_]: url for url in row.images if (id_ := parse_image_id(url)) in sources_by_id} if row else {}
        )
        found.append(_replace_images(product, addresses) if addresses else product)
    return found


def _replace_images(product: ProductRow, addresses: Mapping[str, str]) -> ProductRow:
    return replace(
        product,
        images=[*dict.fromkeys(addresses.get(url, url) for url in product.images)],
        image_alts={addresses.get(url, url): alt for url, alt in product.image_alts.items()},
        variants=[
            replace(variant, image=addresses.get(variant.image, variant.image)) if variant.image else variant
            for variant in product.variants
        ],
    )


@cache
def _select_sources_statement() -> Statement:
    in_store = image_table.c.config_id == bindparam("config_id")
    of_product = image_table.c.product_id == any_(bindparam("ids", type_=ARRAY(Uuid)))
    is_fetched = image_table.c.source_url.is_not(None) & image_table.c.swept_at.is_(None)
    return compile_statement(
        select(image_table.c.id, image_table.c.product_id, image_table.c.source_url).where(in_store, of_product, is_fetched)
    )


async def _load_hosted_images(connection: Connection, config_id: str, batch: Sequence[ProductRow]) -> dict[str, ImageRow]:
    """The uploaded images of the store that the batch has alternative texts of, by URL, locked."""
    urls_by_id = {id_: url for product in batch for url in product.image_alts if (id_ := parse_image_id(url))}
    if not urls_by_id:
        return {}
    rows = await connection.fetch(_lock_images_statement(), {"config_id": config_id, "ids": [*urls_by_id]})
    return {urls_by_id[row.id]: row for row in rows if is_image_address(row, urls_by_id[row.id])}


async def _load_kept_cells(
    connection: Connection, config_id: str, group: Sequence[ProductRow], product_ids: Sequence[str]
) -> dict[str, Mapping[str, str]]:
    """The cells without a field of the stored variants, by id, if the group has such cells."""
    if not product_ids or not any(row.kept_cells for product in group for row in product.variants):
        return {}
    rows = await connection.fetch(_select_kept_cells_statement(), {"config_id": config_id, "ids": product_ids})
    return {row.id: row.kept_cells for row in rows}


def _split_by_stored_variants(batch: Sequence[ProductRow], stored: Mapping[str, StoredProduct]) -> Iterator[list[ProductRow]]:
    """Groups of products with at most MAX_STORED_VARIANTS stored variants together, or a single product with more."""
    group, stored_count = list[ProductRow](), 0
    for product in batch:
        variant_count = stored[product.handle].variants_total if product.handle in stored else 0
        if group and stored_count + variant_count > MAX_STORED_VARIANTS:
            yield group
            group, stored_count = [], 0
        group.append(product)
        stored_count += variant_count
    if group:
        yield group


class _RejectedProductError(Exception):
    """A product that is rejected with all of its rows."""

    def __init__(self, *errors: RowError) -> None:
        super().__init__(*errors)
        self.errors = errors


@dataclass(slots=True)
class _ProductPlanner:
    """Plans the writes of one product. `old` and `variants`: as it is stored."""

    plan: WritePlan
    product: ProductRow
    old: StoredProduct | None
    variants: Sequence[StoredVariant]
    attribution: Mapping[str, Any]
    currency: str
    delete_missing_variants: bool
    describes_changes: bool
    # The uploaded images of the store, by URL.
    hosted_images: Mapping[str, ImageRow]
    # Of the stored variants, by id.
    kept_cells: Mapping[str, Mapping[str, str]]
    changed_alts: dict[str, str] = field(default_factory=dict)
    # Filled by the methods below.
    errors: list[RowError] = field(default_factory=list)
    new_options: OptionEditor | None = None
    written: list[WrittenVariant] = field(default_factory=list)
    written_ids: list[str] = field(default_factory=list)
    kept: list[StoredVariant] = field(default_factory=list)
    removed: list[StoredVariant] = field(default_factory=list)

    def plan_product(self) -> None:
        """Add the writes of the product to the plan, or the error of a product that is rejected."""
        try:
            self._plan_variants()
            self._add_to_plan()
        except _RejectedProductError as rejection:
            self.plan.row_errors += rejection.errors
        else:
            self.plan.row_errors += self.errors

    # ------------------------------------------------------------------------------------------- variants

    def _plan_variants(self) -> None:
        old = self.old
        if old is None and "title" not in self.product.stated_fields:
            self._reject("is missing: the product is new, fill it in on its first row", "title")
        product, rows = self.product, self._fit_amounts()
        is_complete = product.is_complete and not self.errors
        may_replace = self.delete_missing_variants and is_complete and "option1 value" in product.layout.spellings
        matched = match_variants(product, rows, self.variants, old.options if old else (), replaces_variants=may_replace)
        self.errors += matched.errors
        pairs = [pair for pair in matched.pairs if self._check_price(*pair) and self._check_codes(*pair)]
        # A refused row may be one of the stored variants, so that none is deleted.
        self._set_unmatched(pairs, may_replace=may_replace and not self.errors)
        editor = OptionEditor(old.options if old else ())
        self.written = [(row, stored, self._build_columns(row, stored, editor)) for row, stored in pairs]
        self._refuse_equal_variants()
        if old is None:
            self._check_new_product()
            # Without refused rows these are the options of the product already.
            self.new_options = editor if len(self.written) == len(pairs) else None

    def _fit_amounts(self) -> list[VariantRow]:
        """The variants with the digits of the currency, without those whose amounts have more, which are refused."""
        variants = list[VariantRow]()
        for row in self.product.variants:
            try:
                _quantize_amounts(row, self.currency)
            except InvalidRowError as error:
                self._refuse_row(row, error.problem, error.column)
            else:
                variants.append(row)
        if not variants and self.errors:
            first, *others = self.errors
            raise _RejectedProductError(replace(first, row_count=self.product.row_count - len(others)), *others)
        return variants

    def _check_price(self, row: VariantRow, stored: StoredVariant | None) -> bool:
        if stored is None and "price" not in row.stated_fields:
            self._refuse_row(row, "is missing: the variant is new, fill it in", "variant price")
            return False
        return True

    def _check_codes(self, row: VariantRow, stored: StoredVariant | None) -> bool:
        """Refuse a code that is the stored one as a spreadsheet has rounded it. JSON Lines are not edited in spreadsheets."""
        if stored is None or self.product.layout.is_exact:
            return True
        for name, column in _CODE_COLUMNS.items():
            cell, code = getattr(row, name), getattr(stored, name)
            if cell and code and cell != code and name in row.stated_fields and is_rounded_form(cell, code):
                problem = f"“{cell}” is the stored “{truncate_value(code)}” as a spreadsheet has rounded it: "
                self._refuse_row(row, f"{problem}format the column as text, and enter it again", column)
                return False
        return True

    def _check_new_product(self) -> None:
        """A new product without its first variant is rejected: what it is, is on the row of that."""
        first_error = next((error for error in self.errors if error.line == self.product.line), None)
        if not self.written and not self.errors:
            self._reject("has no variant: the product is new, add the rows of its variants")
        if first_error is not None or not self.written:
            error = first_error or self.errors[0]
            raise _RejectedProductError(replace(error, row_count=self.product.row_count))

    def _set_unmatched(self, pairs: Sequence[VariantPair], *, may_replace: bool) -> None:
        matched_ids = {stored.id for _, stored in pairs if stored}
        unmatched = [stored for stored in self.variants if stored.id not in matched_ids]
        self.kept, self.removed = ([], unmatched) if may_replace and pairs else (unmatched, [])

    def _build_columns(self, row: VariantRow, stored: StoredVariant | None, editor: OptionEditor) -> ColumnValues:
        """The columns of a variant: those that the row states, and the others as they are stored."""
        columns = _merge_columns(row, stored, VARIANT_FIELD_NAMES, _get_variant_values)
        stated_fields = row.stated_fields
        if stored is None or "attributes" in stated_fields:
            # As the options of the product spell them, to which new ones are added.
            columns["attributes"] = attributes = editor.adopt(row.attributes)
            if "name" not in stated_fields or row.name == build_variant_name(row.attributes):
                columns["name"] = (
                    follow_attributes(stored.name, stored.attributes, attributes)
                    if stored and "name" not in stated_fields
                    else build_variant_name(attributes)
                )
        if "inventory_policy" not in stated_fields and "inventory" in stated_fields:
            columns["inventory"] = clamp_inventory(row.inventory, columns["inventory_policy"])
        if row.weight and stored and stored.weight and "weight_unit" not in stated_fields and "weight" in stated_fields:
            columns["weight"] = build_weight(Decimal(row.weight["value"]), stored.weight["unit"])
        columns["compare_at_price"] = self._choose_compare_at_price(row, stored, columns)
        return columns

    def _choose_compare_at_price(self, row: VariantRow, stored: StoredVariant | None, columns: ColumnValues) -> str | None:
        """The compare-at price: none if the price has reached it."""
        compare_at_price, price = columns["compare_at_price"], columns["price"]
        is_stated = "compare_at_price" in row.stated_fields
        if compare_at_price is None or (stored and not is_stated and price == stored.price):
            return compare_at_price
        is_exact = "storefront" in self.product.layout.spellings and is_stated
        is_reached = Decimal(compare_at_price) < Decimal(price) or (not is_exact and Decimal(compare_at_price) == Decimal(price))
        return None if is_reached else compare_at_price

    def _refuse_equal_variants(self) -> None:
        """Refuse the rows that would give a variant the options of another one."""
        while True:
            occupied = {fold_attributes(stored.attributes) for stored in self.kept}
            written, refused = list[WrittenVariant](), list[WrittenVariant]()
            for entry in self.written:
                key = fold_attributes(entry[2]["attributes"])
                (refused if key in occupied else written).append(entry)
                occupied.add(key)
            if not refused:
                return
            self.written = written
            # What would have been deleted may be what the refused rows mean.
            self.kept, self.removed = self.kept + self.removed, []
            for row, stored, columns in refused:
                problem = f"would give two variants the options “{build_variant_name(columns['attributes'])}”: give each its own"
                self._refuse_row(row, problem, "option1 value")
                self.kept += [stored] if stored else []

    # -------------------------------------------------------------------------------------------- product

    def _add_to_plan(self) -> None:
        product, old, plan = self.product, self.old, self.plan
        is_listing = bool(product.handle and product.is_complete and not self.errors and not self.kept)
        created, updated, rows = self._build_variant_rows(is_listing)
        kept_changes = self._plan_kept_cells()
        values = self._build_product_columns(rows, is_listing)
        new: ColumnValues = {"id": old.id if old else new_id(), "handle": product.handle, **values}
        has_changed_variants = bool(created or updated or self.removed)
        derived = self._derive_columns(rows, has_changed_variants)
        changed = [name for name in PRODUCT_FIELD_NAMES if old and getattr(old, name) != new[name]]
        if old and self.changed_alts and "image_alts" not in changed:
            changed.append("image_alts")
        if has_changed_variants:
            shown = (*SETTABLE_COLUMNS, "options")
            changed += ["variants", *(name for name in shown if old and getattr(old, name) != derived[name])]
        elif old and derived["options"] != old.options:
            changed.append("options")
        if old and not changed:
            # Only exports see the cells that are kept.
            plan.unchanged_count += 1
            if kept_changes and self.describes_changes:
                plan.changes.append(ProductChange(product.line, product.handle, kept_changes))
            return
        removed_ids = [stored.id for stored in self.removed]
        plan.variants_removed += removed_ids
        for row in created:
            row["config_id"], row["product_id"] = plan.config_id, new["id"]
        plan.variants_created += created
        written = [row for row, _ in updated]
        plan.variants_updated += written
        plan.alts_updated += [{"id": id_, "alt": alt} for id_, alt in self.changed_alts.items()]
        new |= derived
        new["search_vector"] = build_search_vector(new, list_codes(sorted(rows, key=itemgetter("position", "id"))))
        (plan.updated if old else plan.created).append(new)
        plan.image_changes.append((new["id"], old.images if old else (), new["images"]))
        if self.describes_changes:
            changes = [*self._describe(new, created, updated), *kept_changes]
            plan.changes.append(ProductChange(product.line, product.handle, changes))
        plan.entries.append(
            LogEntry(
                kind="product_updated" if old else "product_created",
                entity_id=new["id"],
                product_id=new["id"],
                version=old.version + 1 if old else 1,
                was_visible=old is not None and old.status == "active",
                is_visible=new["status"] == "active",
                changed_fields=[_LOG_NAMES.get(name, to_camel_case(name)) for name in changed] if old else [],
                former_product=get_former_product(old) if old else None,
                former_variants=get_former_variants(self.variants, created, written, removed_ids) if old else None,
                **self.attribution,
            )
        )

    def _plan_kept_cells(self) -> list[Change]:
        """Plan the cells without a field. Those of a first row that names no variant are of the first one that is stored."""
        kept_cells_by_id = {
            id_: row.kept_cells for (row, _, _), id_ in zip(self.written, self.written_ids, strict=True) if row.kept_cells
        }
        first_row, written_lines = next(iter(self.product.variants), None), {row.line for row, _, _ in self.written}
        first = min(self.variants, key=lambda stored: (stored.position, stored.id), default=None)
        if first and first_row and first_row.kept_cells and first_row.line not in written_lines and not first_row.sku:
            kept_cells_by_id.setdefault(first.id, first_row.kept_cells)
        changes = list[Change]()
        names = {stored.id: stored.name for stored in self.variants}
        for id_, cells in kept_cells_by_id.items():
            before = self.kept_cells.get(id_, {})
            after = {name: cell for name, cell in {**before, **cells}.items() if cell}
            if after != before:
                self.plan.kept_cells_updated.append({"id": id_, "kept_cells": after})
                differing = [name for name in cells if before.get(name) != after.get(name)]
                changes += [
                    Change(
                        UPDATE_VARIANT, names.get(id_), name, truncate_value(before.get(name)), truncate_value(after.get(name))
                    )
                    for name in differing
                ]
        return changes if self.old else []

    def _describe(
        self, new: ColumnValues, created: Sequence[ColumnValues], updated: Sequence[tuple[ColumnValues, StoredVariant]]
    ) -> list[Change]:
        changes = describe_product(new, self.old, created, updated, self.removed)
        alts = [
            Change(UPDATE_PRODUCT, None, "imageAlts", image.alt, self.changed_alts[image.id])
            for image in self.hosted_images.values()
            if image.id in self.changed_alts
        ]
        return [*changes, *alts]

    def _build_variant_rows(
        self, is_listing: bool
    ) -> tuple[list[ColumnValues], list[tuple[ColumnValues, StoredVariant]], list[ColumnValues]]:
        """New rows, changed rows with the stored ones, and all variants as they are afterwards."""
        created = list[ColumnValues]()
        updated = list[tuple[ColumnValues, StoredVariant]]()
        remaining = [{name: getattr(stored, name) for name in _REMAINING_COLUMNS} for stored in self.kept]
        # Only a source that lists all variants by their options knows their order.
        is_ordered = is_listing and all("attributes" in row.stated_fields for row, _, _ in self.written)
        for (_, stored, columns), position in zip(self.written, self._assign_positions(is_ordered), strict=True):
            row = {"id": stored.id if stored else new_id(), "position": position, **columns}
            remaining.append(row)
            self.written_ids.append(row["id"])
            if not stored:
                created.append(row)
            elif any(getattr(stored, name) != value for name, value in row.items()):
                updated.append((row, stored))
        return created, updated, remaining

    def _assign_positions(self, is_ordered: bool) -> Iterator[int]:
        """The position of each written variant: they ascend in the order of the source, and stored ones change only where they
        have to. If the source does not know the order, stored positions stay, and new variants follow.
        """
        last = -1 if is_ordered else max((stored.position for stored in self.variants), default=-1)
        for _, stored, _ in self.written:
            if stored and (stored.position > last or not is_ordered):
                last = max(last, stored.position)
                yield stored.position
            else:
                last += 1
                yield last

    def _build_product_columns(self, rows: Sequence[ColumnValues], is_listing: bool) -> ColumnValues:
        product, old = self.product, self.old
        values = _merge_columns(product, old, PRODUCT_FIELD_NAMES, _get_product_values)
        if "track_inventory" not in product.stated_fields and any(
            stored is None or "inventory" in row.stated_fields for row, stored, _ in self.written
        ):
            values["track_inventory"] = any(row["inventory"] is not None for row in rows)
        if old:
            # Whether a product is published does not say that it is no longer archived.
            if old.status == "archived" and "status_cell" not in product.stated_fields:
                values["status"] = old.status
            if "images" not in product.stated_fields or not (is_listing or product.layout.is_exact):
                values["images"] = [*dict.fromkeys([*old.images, *product.images])]
        values["image_alts"] = self._merge_alts(values["images"])
        if len(values["images"]) > MAX_IMAGES:
            problem = f"a product may have {MAX_IMAGES} images, with those that it has it would be {len(values['images'])}"
            self._reject(f"{problem}: remove some", "image src")
        return values

    def _merge_alts(self, images: Sequence[str]) -> dict[str, str]:
        """The alternative texts of images that are hosted elsewhere. Those of uploaded images go to their own rows."""
        product, stored_alts = self.product, self.old.image_alts if self.old else {}
        if product.image_alts and "storefront" in product.layout.spellings:
            stored_alts = {url: alt for url, alt in stored_alts.items() if url not in product.images}
        if product.layout.is_exact and "image_alts" in product.stated_fields:
            stored_alts = {}
        alts = {**stored_alts, **(product.image_alts if "image_alts" in product.stated_fields else {})}
        for url, image in self.hosted_images.items():
            if (alt := alts.pop(url, None)) and alt != image.alt and url in product.image_alts:
                self.changed_alts[image.id] = alt
        return {url: alts[url] for url in images if url in alts}

    def _derive_columns(self, rows: Sequence[ColumnValues], has_changed_variants: bool) -> ColumnValues:
        """The columns that follow the variants. Raises _RejectedProductError if there are more than a product may have."""
        old = self.old
        states_options = "options" in self.product.stated_fields
        if old and not has_changed_variants and not states_options:
            return {name: getattr(old, name) for name in _DERIVED_COLUMNS}
        if len(rows) > MAX_VARIANTS:
            problem = f"a product may have {MAX_VARIANTS:,} variants, with those that it has it would be {len(rows):,}: split it"
            self._reject(problem, "option1 value")
        editor = self.new_options
        if editor is None:
            editor = OptionEditor(old.options if old else ())
            for row in rows:
                editor.adopt(row["attributes"])
            editor.drop_unused([stored.attributes for stored in self.variants], [row["attributes"] for row in rows])
        if states_options:
            editor.arrange(self.product.options)
        if (count := len(editor.options)) > MAX_ATTRIBUTES:
            self._reject(f"the product would have {count} options, at most {MAX_ATTRIBUTES} are allowed", "option1 name")
        if (count := max((len(option["values"]) for option in editor.options), default=0)) > MAX_VARIANTS:
            self._reject(f"an option would have {count:,} values, at most {MAX_VARIANTS:,} are allowed", "option1 value")
        return {**summarize_variants(rows), "options": editor.options}

    # --------------------------------------------------------------------------------------------- errors

    def _refuse_row(self, row: VariantRow, problem: str, column: str) -> None:
        self.errors.append(self.product.reject_row(row.line, problem, column))

    def _reject(self, problem: str, column: str = "") -> NoReturn:
        raise _RejectedProductError(self.product.reject(problem, column))


def _quantize_amounts(row: VariantRow, currency: str) -> None:
    """Give the amounts of the row, which stay the same, the digits of the currency. Raises InvalidRowError if one has more."""
    for name, column in _AMOUNT_COLUMNS.items():
        if (amount := getattr(row, name)) is not None:
            try:
                setattr(row, name, quantize_amount(amount, currency))
            except ExcessDigitsError as error:
                raise InvalidRowError(column, str(error)) from None


def _merge_columns(
    row: ProductRow | VariantRow,
    stored: StoredProduct | StoredVariant | None,
    names: Sequence[str],
    get_values: Callable[[Any], Iterable[Any]],
) -> ColumnValues:
    """The columns that the row states, and the others as they are stored. Amounts are text, as the database returns them.

    `get_values`: the values of an object by these names.
    """
    columns = dict(zip(names, get_values(row), strict=True))
    if stored is not None:
        stated_fields = row.stated_fields
        columns |= {name: value for name, value in zip(names, get_values(stored), strict=True) if name not in stated_fields}
    for name in _AMOUNT_COLUMNS:
        if columns.get(name) is not None:
            columns[name] = str(columns[name])
    return columns


async def apply_plan(connection: Connection, config_id: str, plan: WritePlan) -> bool:
    """Write the plan; False if it is stale, because a concurrent writer has created one of its products."""
    if plan.created:
        rows = await render_rows(plan.created)
        created = await connection.fetch(_insert_products_statement(), {"config_id": config_id, "rows": rows})
        if len(created) < len(plan.created):
            return False
        enqueue_handle_takeover(connection, config_id, [row.id for row in created])
    if plan.updated:
        rows = await render_rows(plan.updated)
        await connection.fetch(_update_products_statement(), {"config_id": config_id, "rows": rows})
    enqueue_image_changes(connection, config_id, plan.image_changes)
    if plan.alts_updated:
        await connection.fetch(_update_alts_statement(), {"config_id": config_id, "rows": to_json(plan.alts_updated)})
    created, updated, removed_ids = plan.variants_created, plan.variants_updated, plan.variants_removed
    await write_variants(connection, config_id, created=created, updated=updated, removed_ids=removed_ids)
    if plan.kept_cells_updated:
        rows = to_json(plan.kept_cells_updated)
        await connection.fetch(_update_kept_cells_statement(), {"config_id": config_id, "rows": rows})
    return True


@cache
def _lock_products_statement() -> Statement:
    in_store = product_table.c.config_id == bindparam("config_id")
    has_handle = product_table.c.handle == any_(bindparam("handles", type_=ARRAY(Text)))
    columns = [product_table.c[name] for name in _LOCKED_PRODUCT_COLUMNS]
    return compile_statement(select(*columns).where(in_store & has_handle).order_by(product_table.c.id).with_for_update())


@cache
def _lock_images_statement() -> Statement:
    in_store = image_table.c.config_id == bindparam("config_id")
    has_id = image_table.c.id == any_(bindparam("ids", type_=ARRAY(Uuid)))
    return compile_statement(select(image_table).where(in_store & has_id).order_by(image_table.c.id).with_for_update())


@cache
def _select_kept_cells_statement() -> Statement:
    in_store = variant_table.c.config_id == bindparam("config_id")
    of_product = variant_table.c.product_id == any_(bindparam("ids", type_=ARRAY(Uuid)))
    has_cells = variant_table.c.kept_cells != text("'{}'::jsonb")
    return compile_statement(select(variant_table.c.id, variant_table.c.kept_cells).where(in_store, of_product, has_cells))


@cache
def _update_kept_cells_statement() -> Statement:
    entry = select_json_rows(variant_table, "id", "kept_cells")
    in_store = variant_table.c.config_id == bindparam("config_id")
    statement = update(variant_table).values(kept_cells=entry.c.kept_cells)
    return compile_statement(statement.where(in_store & (variant_table.c.id == entry.c.id)))


@cache
def _update_alts_statement() -> Statement:
    entry = select_json_rows(image_table, "id", "alt")
    statement = update(image_table).values(alt=entry.c.alt, version=image_table.c.version + 1)
    in_store = image_table.c.config_id == bindparam("config_id")
    return compile_statement(statement.where(in_store & (image_table.c.id == entry.c.id)))


@cache
def _insert_products_statement() -> Statement:
    names = ["id", "handle", *PRODUCT_FIELD_NAMES, *_DERIVED_COLUMNS, "search_vector"]
    entry = select_json_rows(product_table, *names)
    # Ordered by handle: concurrent imports of the same products insert in the same order, and cannot deadlock.
    published_at: ColumnElement[Any] = literal_column(build_published_at("entry.status"))
    rows = select(bindparam("config_id", type_=product_table.c.config_id.type), *entry.c, published_at).order_by(entry.c.handle)
    insertion = upsert(product_table).from_select(["config_id", *names, "published_at"], rows, include_defaults=False)
    unique = [product_table.c.config_id, product_table.c.handle]
    return compile_statement(insertion.on_conflict_do_nothing(index_elements=unique).returning(product_table.c.id))


@cache
def _update_products_statement() -> Statement:
    names = (*PRODUCT_FIELD_NAMES, *_DERIVED_COLUMNS, "search_vector")
    entry = select_json_rows(product_table, "id", *names)
    published_at: ColumnElement[Any] = literal_column(build_published_at("entry.status", "products.published_at"))
    values = {**{name: entry.c[name] for name in names}, "published_at": published_at}
    statement = update(product_table).values(**values, version=product_table.c.version + 1, updated_at=func.now())
    is_in_store = product_table.c.config_id == bindparam("config_id")
    return compile_statement(statement.where(is_in_store, product_table.c.id == entry.c.id))
