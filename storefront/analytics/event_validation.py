"""What an event may be, and what is stored of it. Each event is judged on its own: no other one is lost for it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid5

import orjson

from storefront.analytics.bots import is_bot
from storefront.core.ids import parse_id, uuid7
from storefront.core.net.client_info import Sender, truncated
from storefront.writes import validation
from storefront.writes.transaction import Failure, invalid
from storefront.writes.validation import Rule, Rules, Unfit

MOST_PROPERTIES = 8_192
MOST_WORDS = 200
# Together with the host of a referrer these are the key of a count, which must fit into an index.
MOST_CAMPAIGN = 150
MOST_ADDRESS = 2_048

# A phone may have been without a network for days. A clock that is ahead is set right, up to a day.
OLDEST = timedelta(days=7)
FURTHEST_AHEAD = timedelta(days=1)

_OF_TEXTS = UUID("0b64c6c6-1ecf-4b8e-8f70-5d2c2e0a61f5")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Request:
    """What a request tells of all its events: where from, with what, and the address and the host of the page that sent it."""

    network: str | None
    user_agent: str | None
    address: str | None
    host: str | None


def request_of(sender: Sender) -> Request:
    """What the sender tells, looked at once for all events."""
    agent, address = _kept(sender.headers.get("user-agent"), 1_000), _kept(sender.headers.get("referer"), MOST_ADDRESS)
    return Request(sender.network, agent, address, _host(sender.headers.get("origin", "")))


def clean(event: Any, path: tuple[str, ...], request: Request, now: datetime) -> tuple[dict[str, Any] | None, list[Failure]]:
    """The event as the row that is stored, or every fault of it; `keyed` tells whether its sender chose the id.

    What it does not say of the shopper's browser and of where they came from is taken from the request.
    """
    if not isinstance(event, Mapping):
        return None, [invalid(path, 'must be an object, such as {"event": "page_view"}.')]
    if not event.keys() <= EVENT.keys():
        unknown = next(name for name in event if name not in EVENT)[:60].encode(errors="replace").decode()
        return None, [invalid((*path, unknown), f"is no field of an event. The fields are {', '.join(EVENT)}.")]
    given = {name: value for name, value in event.items() if value is not None}
    # A name that is missing is as wrong as an empty one.
    given.setdefault("event", "")
    values, faults = validation.checked(EVENT, given, path)
    properties, more = ({}, []) if faults else _properties(values, path)
    faults += more
    return (None, faults) if faults else (_row(values, properties, request, now), [])


def _row(values: Mapping[str, Any], properties: Mapping[str, Any], request: Request, now: datetime) -> dict[str, Any]:
    chosen, agent = values.get("clientEventId"), values.get("userAgent") or request.user_agent
    return {
        "id": chosen or str(uuid7()),
        "keyed": chosen is not None,
        "event": values["event"],
        "properties": orjson.Fragment(orjson.dumps(properties)),
        "session_id": values.get("sessionId"),
        "user_id": values.get("userId"),
        "user_agent": agent,
        "ip_address": values.get("ipAddress") or request.network,
        "referrer": _referrer(values.get("referrer"), request),
        **_campaign(values, properties, request),
        "is_bot": bool(agent and is_bot(agent)),
        # A clock that is ahead is wrong: nothing has happened in the future.
        "timestamp": min(values.get("timestamp", now), now),
    }


# -------------------------------------------------------------------------------------------------- fields


def _text(most: int) -> Rule:
    """Text, which nobody has checked yet to be one; nothing where it is empty."""
    words = validation.text(most, least=0)

    def rule(value: Any) -> str | None:
        if type(value) is str and len(value) <= most and value.isascii() and value.isprintable():
            return value.strip() or None
        if not isinstance(value, str):
            raise Unfit("must be text.")
        # JSON may hold half a character, which nothing else can.
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise Unfit("must be whole Unicode characters.")
        return words(value) or None

    return rule


_short, _words = _text(64), _text(MOST_WORDS)


def _name(value: Any) -> str:
    name = _short(value)
    if name is None:
        raise Unfit('must name what happened, such as "page_view".')
    return str(name)


def _key(value: Any) -> str | None:
    # Whatever the client calls its events, ours have keys: the same text always the same one.
    text = _words(value)
    return None if text is None else parse_id(text) or str(uuid5(_OF_TEXTS, text))


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is None or moment.tzinfo is None:
            raise ValueError
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Unfit('must be RFC 3339 text with a time zone, such as "2026-11-22T10:00:00.000Z".') from None
    now = datetime.now(UTC)
    if moment > now + FURTHEST_AHEAD:
        raise Unfit(f"lies in the future ({moment:%Y-%m-%d}): set the clock right, or leave it out for now.")
    if moment < now - OLDEST:
        raise Unfit(f"is {moment:%Y-%m-%d}, more than {OLDEST.days} days ago: set the clock right, or leave it out for now.")
    return moment


def _document(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unfit("must be an object, such as {}.")
    try:
        text = orjson.dumps(value)
    except TypeError as error:
        raise Unfit(f"cannot be stored: {str(error)[:100]}.") from None
    if len(text) > MOST_PROPERTIES:
        raise Unfit(f"must have at most {MOST_PROPERTIES:,} bytes as JSON, not {len(text):,}.")
    # To look for it without the expression first takes a tenth of the time.
    if b"\\u0000" in text and _NUL.search(text):
        raise Unfit("must not contain the character NUL.")
    return value


def _network(value: Any) -> str:
    found = truncated(value) if isinstance(value, str) else None
    if found is None:
        raise Unfit('must be an IP address such as "203.0.113.7". All that is kept of it is its network.')
    return found


EVENT: Rules = {
    "clientEventId": _key,
    "event": _name,
    "properties": _document,
    "sessionId": _words,
    "userId": _words,
    "userAgent": _text(1_000),
    "ipAddress": _network,
    "referrer": _text(MOST_ADDRESS),
    "utmSource": _text(MOST_CAMPAIGN),
    "utmMedium": _text(MOST_CAMPAIGN),
    "utmCampaign": _text(MOST_CAMPAIGN),
    "timestamp": _moment,
}


# ---------------------------------------------------------------------------------------------- properties


def _id(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit("must be an id, as text.")
    return validation.key(value)


def _number(least: int, what: str) -> Rule:
    def rule(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
            raise Unfit(f"must be {what}.")
        return value

    return rule


def _amount(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    if not is_number and not (isinstance(value, str) and re.fullmatch(r"\d{1,12}(\.\d{1,4})?", value, re.ASCII)):
        raise Unfit('must be an amount such as "19.90".')
    return value


def _currency(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit('must be the ISO 4217 code of a currency, such as "EUR".')
    return validation.currency(value)


_PAGE: dict[str, Rule] = {"path": _text(MOST_ADDRESS), "url": _text(MOST_ADDRESS), "title": _text(1_000)}
_PRODUCT: dict[str, Rule] = {"productId": _id, "variantId": _id, "quantity": _number(1, "a whole number from 1 on")}
_ORDER: dict[str, Rule] = {"orderId": _text(MOST_WORDS), "total": _amount, "currency": _currency}

# What the properties of known events have to be where they are given. Others may stand beside them; other events are free.
KNOWN: Mapping[str, Rules] = {
    "page_view": _PAGE | _PRODUCT,
    "product_click": _PAGE | _PRODUCT,
    "add_to_cart": _PAGE | _PRODUCT,
    "purchase": _PAGE | _PRODUCT | _ORDER,
    "search": _PAGE | {"query": _text(MOST_WORDS), "results": _number(0, "a whole number from 0 on")},
}


def _properties(values: Mapping[str, Any], path: tuple[str, ...]) -> tuple[dict[str, Any], list[Failure]]:
    given, kinds = values.get("properties", {}), KNOWN.get(values["event"])
    if not given or kinds is None:
        return given, []
    known = {name: value for name, value in given.items() if name in kinds and value is not None}
    checked, faults = validation.checked(kinds, known, (*path, "properties"))
    return {**given, **checked}, faults


# ------------------------------------------------------------------------------------------ of the request


def _referrer(given: str | None, request: Request) -> str | None:
    # A browser names the page that sends the event in Referer, and its origin in Origin. A page of the shop itself is no
    # place that somebody came from.
    found = given or request.address
    return None if found and request.host and _host(found) == request.host else found


def _campaign(values: Mapping[str, Any], properties: Mapping[str, Any], request: Request) -> dict[str, str | None]:
    given = {
        "utm_source": values.get("utmSource"),
        "utm_medium": values.get("utmMedium"),
        "utm_campaign": values.get("utmCampaign"),
    }
    if not any(given.values()):
        for address in (properties.get("url"), request.address):
            if isinstance(address, str) and "utm_" in address:
                return _in_address(address)
    return given


def _in_address(address: str) -> dict[str, str | None]:
    try:
        found = parse_qs(urlsplit(address).query, max_num_fields=100)
    except ValueError:
        found = {}
    return {name: _kept(found.get(name, [None])[0], MOST_CAMPAIGN) for name in ("utm_source", "utm_medium", "utm_campaign")}


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _kept(text: str | None, most: int) -> str | None:
    """What a header says, cut to what there is room for: nobody typed it, so nobody is told."""
    return (text.replace("\0", "")[:most].strip() or None) if text else None
