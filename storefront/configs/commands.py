"""Writes of stores, each with the change that it records. Access tokens are encrypted before they get to the database."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Double, bindparam, func, select
from sqlalchemy import text as sql

from storefront.core.db.database import Row, Statement, compiled
from storefront.core.encryption import Vault
from storefront.feed.log import Entry
from storefront.models import configs, jobs, products
from storefront.writes import validation
from storefront.writes.authorization import own_store
from storefront.writes.optimistic_lock import refuse_stale
from storefront.writes.sql import change_row, columns, delete_row, insert_row
from storefront.writes.transaction import Refused, Unit, Written, invalid
from storefront.writes.validation import as_is, given, optional, record, text

Values = Mapping[str, Any]

# Seconds between two tries of one integration.
BETWEEN_CHECKS = 2

_PUBLISHABLE = validation.matching(r"pk_(test|live)_[A-Za-z0-9]{8,200}", "pk_live_…")


def _publishable(key: str) -> str:
    # Whoever mistakes one for the other has given it away already.
    if key.strip().startswith(("sk_", "rk_")):
        raise validation.Unfit(
            "is a secret key, and this one is told to every browser. It was not stored. Revoke it at Stripe (Developers, API "
            'keys), and give the publishable key, which looks like "pk_live_…".'
        )
    return str(_PUBLISHABLE(key))


STORE: validation.Rules = {
    "storeName": given(text(255)),
    "slug": given(validation.slug),
    "description": optional(text(10_000, least=0)),
    "currency": given(validation.currency),
    "theme": optional(
        record(
            {
                "primaryColor": validation.colour,
                "secondaryColor": validation.colour,
                "fontFamily": validation.font_family,
                "customCSS": optional(validation.css),
            }
        )
    ),
    "layout": optional(
        record({"headerStyle": as_is, "gridColumns": validation.whole(2, 4), "showPrices": as_is, "showDescriptions": as_is})
    ),
    "integrations": optional(
        record(
            {
                "shopify": optional(record({"domain": validation.host, "accessToken": optional(text(500))})),
                "stripe": optional(record({"publishableKey": _publishable})),
                "analytics": optional(record({"googleAnalyticsId": validation.matching(r"(G|UA|GT|AW)-[A-Z0-9-]{4,30}", "G-…")})),
            }
        )
    ),
}
CREATE: validation.Rules = {**STORE, "isPublished": as_is}
UPDATE: validation.Rules = {"id": validation.key, "expectedVersion": as_is, **STORE}
PUBLISH: validation.Rules = {"id": validation.key, "expectedVersion": as_is, "isPublished": as_is}
CHECK: validation.Rules = {"configId": validation.key, "integration": as_is}
DELETE: validation.Rules = {"id": validation.key, "expectedVersion": as_is}


async def create_config(unit: Unit, values: Values, *, vault: Vault) -> Sequence[Written]:
    """A store of the actor's."""
    clean = validation.require(CREATE, values)
    integrations = _joined(clean.pop("integrations", None), None, vault)
    row = {"user_id": unit.actor_id, "integrations": integrations, "is_published": False, **columns(clean)}
    made = insert_row(unit, configs, row)
    _record(unit, "store_created", None, made.state, [])
    return [made]


async def update_config(unit: Unit, values: Values, *, vault: Vault) -> Sequence[Written]:
    """Those fields of a store that are given. Of the integrations those that are given; an access token left out is kept."""
    clean = validation.require(UPDATE, values)
    old = await own_store(unit, clean.pop("id"), ["id"])
    await refuse_stale(unit, old, clean.pop("expectedVersion", None), old.id)
    if "integrations" in clean:
        clean["integrations"] = _joined(clean["integrations"], old.integrations, vault)
    return _changed(unit, old, clean, "store_updated")


async def publish_config(unit: Unit, values: Values) -> Sequence[Written]:
    """Open a store to shoppers, or close it."""
    clean = validation.require(PUBLISH, values)
    old = await own_store(unit, clean.pop("id"), ["id"])
    await refuse_stale(unit, old, clean.pop("expectedVersion", None), old.id)
    return _changed(unit, old, clean, "store_published" if clean["isPublished"] else "store_unpublished")


async def delete_config(unit: Unit, values: Values) -> Sequence[Row]:
    """A store with all that it has: products, reviews, events, and its log."""
    clean = validation.require(DELETE, values)
    old = await own_store(unit, clean["id"], ["id"])
    await refuse_stale(unit, old, clean.get("expectedVersion"), old.id)
    # Whoever writes one of its products, or imports some, is let finish first: else they would wait for this, and this for them.
    unit.send(_lock_jobs(), {"config_id": old.id})
    await unit.fetch(_lock_products(), {"config_id": old.id})
    delete_row(unit, configs, old)
    unit.record_gone(old.id)
    return [old]


async def claim_check(unit: Unit, values: Values) -> Sequence[Row]:
    """A store whose integration is to be tried, by whoever gets it."""
    clean = validation.require(CHECK, values)
    store = await own_store(unit, clean["configId"], ["configId"])
    if not await unit.fetch(_checked(), {"config_id": store.id, "integration": clean["integration"], "seconds": BETWEEN_CHECKS}):
        raise Refused(invalid(["integration"], f"was tried a moment ago. Try again in {BETWEEN_CHECKS} seconds."))
    return [store]


_CHECKED = """
INSERT INTO integration_checks AS known (config_id, integration) VALUES (:config_id, :integration)
ON CONFLICT (config_id, integration) DO UPDATE SET checked_at = now()
WHERE known.checked_at < now() - make_interval(secs => :seconds) RETURNING config_id
"""


@cache
def _checked() -> Statement:
    return compiled(sql(_CHECKED).bindparams(bindparam("seconds", type_=Double)))


@cache
def _lock_products() -> Statement:
    mine = select(products.c.id).where(products.c.config_id == bindparam("config_id")).order_by(products.c.id)
    return compiled(select(func.count()).select_from(mine.with_for_update().subquery()))


@cache
def _lock_jobs() -> Statement:
    mine = select(jobs.c.id).where(jobs.c.config_id == bindparam("config_id")).order_by(jobs.c.id)
    return compiled(select(func.count()).select_from(mine.with_for_update().subquery()))


def _changed(unit: Unit, old: Row, clean: Values, kind: str) -> Sequence[Written]:
    made = change_row(unit, configs, old, columns(clean))
    if made.fields:
        _record(unit, kind, old, made.state, made.fields)
    return [made]


def _record(unit: Unit, kind: str, old: Row | None, new: Row, fields: Sequence[str]) -> None:
    entry = Entry(
        kind=kind,
        entity_id=new.id,
        version=new.version,
        was_visible=old is not None and old.is_published,
        is_visible=new.is_published,
        changed_fields=fields,
    )
    unit.record(new.id, entry)


def _joined(given_: Values | None, stored: Values | None, vault: Vault) -> dict[str, Any] | None:
    """The integrations as they will stand: null removes one, and what is left out stays."""
    if given_ is None:
        return None
    joined = {**(stored or {}), **given_}
    if given_.get("shopify"):
        joined["shopify"] = _sealed(given_["shopify"], (stored or {}).get("shopify") or {}, vault)
    return {name: value for name, value in joined.items() if value is not None} or None


def _sealed(given_: Values, stored: Values, vault: Vault) -> dict[str, Any]:
    sealed = {"domain": given_["domain"]}
    if "accessToken" not in given_:
        # A token is of one shop: for another domain it would be sent to a stranger.
        kept = stored.get("accessToken") if stored.get("domain") == given_["domain"] else None
        return {**sealed, "accessToken": kept} if kept else sealed
    token = given_["accessToken"]
    if token is None:
        return sealed
    return {**sealed, "accessToken": vault.encrypt(token)}
