"""Commands that write stores and record the change in their logs. Access tokens are encrypted before they are stored."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Double, bindparam, func, select
from sqlalchemy import text as sql

from storefront.configs.currency_change import fit_amounts_to_currency
from storefront.core.db.database import Statement, compile_statement
from storefront.core.encryption import Vault
from storefront.core.url_templates import find_template_problem
from storefront.feed.log import LogEntry
from storefront.models import configs, jobs, products
from storefront.models.config import MAX_STORE_DESCRIPTION_CHARACTERS
from storefront.models.rows import ConfigRow
from storefront.writes import validation
from storefront.writes.authorization import lock_own_store
from storefront.writes.field_errors import InvalidInputReason, MutationRejected, make_invalid_state_error
from storefront.writes.former_names import enqueue_former_slug, enqueue_slug_takeover
from storefront.writes.optimistic_lock import get_set_values, reject_stale_version
from storefront.writes.sql import convert_to_columns, delete_row, insert_row, update_row
from storefront.writes.transaction import PendingRow, UnitOfWork
from storefront.writes.validation import accept_any, non_null_rule, object_rule, optional_rule, text_rule

Values = Mapping[str, Any]

# Rate limit: seconds between two checks of one integration.
CHECK_INTERVAL_SECONDS = 2

_PUBLISHABLE_KEY_RULE = validation.pattern_rule(r"pk_(test|live)_[A-Za-z0-9]{8,200}", "pk_live_…")


def _check_publishable_key(key: str) -> str:
    # A secret key that was sent here by mistake is compromised.
    if key.strip().startswith(("sk_", "rk_")):
        raise validation.InvalidValueError(
            "is a secret key, but this field is visible to every browser. It was not stored. Revoke it at Stripe (Developers, "
            'API keys), and give the publishable key, which looks like "pk_live_…".',
            InvalidInputReason.NOT_ALLOWED,
        )
    return str(_PUBLISHABLE_KEY_RULE(key))


def _validate_url_template(template: str) -> str:
    if problem := find_template_problem(template):
        raise validation.InvalidValueError(problem, InvalidInputReason.MALFORMED)
    return template


STORE_RULES: validation.Rules = {
    "storeName": non_null_rule(text_rule(255)),
    "slug": non_null_rule(validation.slug_rule(100)),
    "description": optional_rule(text_rule(MAX_STORE_DESCRIPTION_CHARACTERS, min_characters=0)),
    "currency": non_null_rule(validation.validate_currency),
    "reviewPolicy": non_null_rule(accept_any),
    "productUrlTemplate": optional_rule(_validate_url_template),
    "theme": optional_rule(
        object_rule(
            {
                "primaryColor": validation.validate_colour,
                "secondaryColor": validation.validate_colour,
                "fontFamily": validation.validate_font_family,
                "customCSS": optional_rule(validation.validate_css),
            }
        )
    ),
    "layout": optional_rule(
        object_rule(
            {
                "headerStyle": accept_any,
                "gridColumns": validation.integer_rule(2, 4),
                "showPrices": accept_any,
                "showDescriptions": accept_any,
            }
        )
    ),
    "integrations": optional_rule(
        object_rule(
            {
                "shopify": optional_rule(
                    object_rule({"domain": validation.validate_host, "accessToken": optional_rule(text_rule(500))})
                ),
                "stripe": optional_rule(object_rule({"publishableKey": _check_publishable_key})),
                "analytics": optional_rule(
                    object_rule({"googleAnalyticsId": validation.pattern_rule(r"(G|UA|GT|AW)-[A-Z0-9-]{4,30}", "G-…")})
                ),
            }
        )
    ),
}
CREATE_RULES: validation.Rules = {**STORE_RULES, "isPublished": accept_any}
UPDATE_RULES: validation.Rules = {**validation.UPDATE_LOCK_RULES, **STORE_RULES}
PUBLISH_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": accept_any}
CHECK_RULES: validation.Rules = {"configId": validation.validate_id, "integration": accept_any}
DELETE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": accept_any}


async def create_config(unit: UnitOfWork, values: Values, *, vault: Vault) -> Sequence[PendingRow]:
    """Create a store that the actor owns."""
    clean = validation.require_valid_fields(CREATE_RULES, values)
    integrations = _merge_integrations(clean.pop("integrations", None), None, vault)
    row = {"user_id": unit.actor_id, "integrations": integrations, "is_published": False, **convert_to_columns(clean)}
    pending = insert_row(unit, configs, row)
    enqueue_slug_takeover(unit.connection, clean["slug"])
    _record_change(unit, "store_created", None, pending.state, [])
    return [pending]


async def update_config(unit: UnitOfWork, values: Values, *, vault: Vault) -> Sequence[PendingRow]:
    """Update the given fields and integrations of a store. An access token that is left out stays.

    Another currency is refused while an amount of the store has more decimals than it.
    """
    clean = validation.require_valid_fields(UPDATE_RULES, values)
    old = await lock_own_store(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, old.id)
    clean = get_set_values(clean)
    if "integrations" in clean:
        clean["integrations"] = _merge_integrations(clean["integrations"], old.integrations, vault)
    if clean.get("currency", old.currency) != old.currency:
        await fit_amounts_to_currency(unit, old, clean["currency"])
    return _change_config(unit, old, clean, "store_updated")


async def publish_config(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Publish a store."""
    return await _set_published(unit, values, True, "store_published")


async def unpublish_config(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Unpublish a store."""
    return await _set_published(unit, values, False, "store_unpublished")


async def _set_published(unit: UnitOfWork, values: Values, is_published: bool, kind: str) -> Sequence[PendingRow]:
    clean = validation.require_valid_fields(PUBLISH_RULES, values)
    old = await lock_own_store(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, old.id)
    return _change_config(unit, old, {"isPublished": is_published}, kind)


async def delete_config(unit: UnitOfWork, values: Values) -> Sequence[ConfigRow]:
    """Delete a store with its products, reviews, events and log."""
    clean = validation.require_valid_fields(DELETE_RULES, values)
    old = await lock_own_store(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, old.id)
    # Wait for transactions that write products of the store, or import some: without these locks there would be deadlocks.
    unit.enqueue(_lock_jobs(), {"config_id": old.id})
    await unit.fetch(_lock_products(), {"config_id": old.id})
    delete_row(unit, configs, old)
    unit.record_deleted_store(old.id)
    return [old]


async def claim_check(unit: UnitOfWork, values: Values) -> Sequence[ConfigRow]:
    """The store whose integration the caller may check now: at most one check per CHECK_INTERVAL_SECONDS."""
    clean = validation.require_valid_fields(CHECK_RULES, values)
    store = await lock_own_store(unit, clean["configId"], ["configId"])
    if not await unit.fetch(
        _upsert_check(), {"config_id": store.id, "integration": clean["integration"], "seconds": CHECK_INTERVAL_SECONDS}
    ):
        raise MutationRejected(
            make_invalid_state_error(["integration"], f"was checked a moment ago. Try again in {CHECK_INTERVAL_SECONDS} seconds.")
        )
    return [store]


_CLAIM_CHECK_SQL = """
INSERT INTO integration_checks AS known (config_id, integration) VALUES (:config_id, :integration)
ON CONFLICT (config_id, integration) DO UPDATE SET checked_at = now()
WHERE known.checked_at < now() - make_interval(secs => :seconds) RETURNING config_id
"""


@cache
def _upsert_check() -> Statement:
    return compile_statement(sql(_CLAIM_CHECK_SQL).bindparams(bindparam("seconds", type_=Double)))


@cache
def _lock_products() -> Statement:
    store_rows = select(products.c.id).where(products.c.config_id == bindparam("config_id")).order_by(products.c.id)
    return compile_statement(select(func.count()).select_from(store_rows.with_for_update().subquery()))


@cache
def _lock_jobs() -> Statement:
    store_rows = select(jobs.c.id).where(jobs.c.config_id == bindparam("config_id")).order_by(jobs.c.id)
    return compile_statement(select(func.count()).select_from(store_rows.with_for_update().subquery()))


def _change_config(unit: UnitOfWork, old: ConfigRow, clean: Values, kind: str) -> Sequence[PendingRow]:
    pending = update_row(unit, configs, old, convert_to_columns(clean))
    if "slug" in pending.changed_fields:
        enqueue_former_slug(unit.connection, old, pending.state.slug)
    if pending.changed_fields:
        _record_change(unit, kind, old, pending.state, pending.changed_fields)
    return [pending]


def _record_change(unit: UnitOfWork, kind: str, old: ConfigRow | None, new: ConfigRow, fields: Sequence[str]) -> None:
    entry = LogEntry(
        kind=kind,
        entity_id=new.id,
        version=new.version,
        was_visible=old is not None and old.is_published,
        is_visible=new.is_published,
        changed_fields=fields,
    )
    unit.record_change(new.id, entry)


def _merge_integrations(new_values: Values | None, stored: Values | None, vault: Vault) -> dict[str, Any] | None:
    """The stored integrations with new values: null removes one, and those left out stay."""
    if new_values is None:
        return None
    merged = {**(stored or {}), **new_values}
    if new_values.get("shopify"):
        merged["shopify"] = _encrypt_shopify_token(new_values["shopify"], (stored or {}).get("shopify") or {}, vault)
    return {name: value for name, value in merged.items() if value is not None} or None


def _encrypt_shopify_token(new_values: Values, stored: Values, vault: Vault) -> dict[str, Any]:
    encrypted = {"domain": new_values["domain"]}
    if "accessToken" not in new_values:
        # A token belongs to one shop: with another domain it would leak to that domain.
        stored_token = stored.get("accessToken") if stored.get("domain") == new_values["domain"] else None
        return {**encrypted, "accessToken": stored_token} if stored_token else encrypted
    token = new_values["accessToken"]
    if token is None:
        return encrypted
    return {**encrypted, "accessToken": vault.encrypt(token)}
