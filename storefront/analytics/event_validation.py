"""Validation of events, and their conversion to rows. Each event is validated on its own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid5

import orjson

from storefront.analytics.bots import is_bot
from storefront.core.currencies import AMOUNT_LIMIT, MAX_FRACTION_DIGITS, MAX_INTEGER_DIGITS, ExcessDigitsError, quantize_amount
from storefront.core.ids import parse_id, uuid7
from storefront.core.net.client_info import ClientInfo, truncate_address
from storefront.writes import validation
from storefront.writes.field_errors import FieldError, InvalidInputReason, make_invalid_input_error
from storefront.writes.validation import InvalidValueError, Rule, Rules

MAX_PROPERTIES_BYTES = 8_192
MAX_TEXT_LENGTH = 200
# With the host of the referrer these are a rollup key, which must fit into an index.
MAX_CAMPAIGN_LENGTH = 150
MAX_URL_LENGTH = 2_048

# A phone may have been offline for days. Timestamps in the future, up to a day, are clamped to now.
MAX_EVENT_AGE = timedelta(days=7)
MAX_CLOCK_SKEW = timedelta(days=1)

_TEXT_ID_NAMESPACE = UUID("0b64c6c6-1ecf-4b8e-8f70-5d2c2e0a61f5")
_ESCAPED_NUL_PATTERN = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class RequestOrigin:
    """Defaults for the events of a request: client network, user agent, and the URL and host of the sending page."""

    network: str | None
    user_agent: str | None
    page_url: str | None
    page_host: str | None


def read_request_origin(client_info: ClientInfo) -> RequestOrigin:
    """Read the headers, once for all events of a request."""
    user_agent, page_url = (
        _truncate_header(client_info.headers.get("user-agent"), 1_000),
        _truncate_header(client_info.headers.get("referer"), MAX_URL_LENGTH),
    )
    return RequestOrigin(client_info.network, user_agent, page_url, _parse_host(client_info.headers.get("origin", "")))


def validate_event(
    event: Any, path: tuple[str, ...], origin: RequestOrigin, now: datetime
) -> tuple[dict[str, Any] | None, list[FieldError]]:
    """Convert an event to its row; (None, errors) if it is invalid. `keyed` in the row: the client chose the id.

    Browser and referrer default to those of the request.
    """
    if not isinstance(event, Mapping):
        return None, [
            make_invalid_input_error(path, 'must be an object, such as {"event": "page_view"}.', InvalidInputReason.MALFORMED)
        ]
    if not event.keys() <= EVENT_RULES.keys():
        unknown = next(name for name in event if name not in EVENT_RULES)[:60].encode(errors="replace").decode()
        return None, [
            make_invalid_input_error(
                (*path, unknown),
                f"is not a field of an event. The fields are {', '.join(EVENT_RULES)}.",
                InvalidInputReason.NOT_ALLOWED,
            )
        ]
    fields = {name: value for name, value in event.items() if value is not None}
    # A missing name gets the same error as an empty one.
    fields.setdefault("event", "")
    values, field_errors = validation.validate_fields(EVENT_RULES, fields, path)
    properties, property_errors = ({}, []) if field_errors else _validate_properties(values, path)
    field_errors += property_errors
    return (None, field_errors) if field_errors else (_build_row(values, properties, origin, now), [])


def _build_row(values: Mapping[str, Any], properties: Mapping[str, Any], origin: RequestOrigin, now: datetime) -> dict[str, Any]:
    client_event_id, user_agent = values.get("clientEventId"), values.get("userAgent") or origin.user_agent
    return {
        "id": client_event_id or str(uuid7()),
        "keyed": client_event_id is not None,
        "event": values["event"],
        "properties": orjson.Fragment(orjson.dumps(properties)),
        "session_id": values.get("sessionId"),
        "user_id": values.get("userId"),
        "user_agent": user_agent,
        "ip_address": values.get("ipAddress") or origin.network,
        "referrer": _choose_referrer(values.get("referrer"), origin),
        **_choose_campaign(values, properties, origin),
        "is_bot": bool(user_agent and is_bot(user_agent)),
        # Clock skew of the client: no event is in the future.
        "timestamp": min(values.get("timestamp", now), now),
    }


# -------------------------------------------------------------------------------------------------- fields


def _text_rule(max_length: int) -> Rule:
    """A rule for untyped JSON: text of at most so many characters; None if it is empty."""
    check_text = validation.text_rule(max_length, min_characters=0)

    def check(value: Any) -> str | None:
        if type(value) is str and len(value) <= max_length and value.isascii() and value.isprintable():
            return value.strip() or None
        if not isinstance(value, str):
            raise InvalidValueError("must be text.")
        # Lone surrogates are valid in JSON escapes, and cannot be stored.
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InvalidValueError("must be valid Unicode, without lone surrogates.")
        return check_text(value) or None

    return check


_check_short_text, _check_text = _text_rule(64), _text_rule(MAX_TEXT_LENGTH)


def _check_event_name(value: Any) -> str:
    name = _check_short_text(value)
    if name is None:
        raise InvalidValueError('must be the name of an event, such as "page_view".', InvalidInputReason.REQUIRED)
    return str(name)


def _parse_event_id(value: Any) -> str | None:
    # Any text maps to a stable UUID (v5), so that deduplication works for ids of any form.
    text = _check_text(value)
    return None if text is None else parse_id(text) or str(uuid5(_TEXT_ID_NAMESPACE, text))


def _parse_timestamp(value: Any) -> datetime:
    try:
        timestamp = datetime.fromisoformat(value) if isinstance(value, str) else None
        if timestamp is None or timestamp.tzinfo is None:
            raise ValueError
        timestamp = timestamp.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidValueError('must be RFC 3339 text with a time zone, such as "2026-11-22T10:00:00.000Z".') from None
    now = datetime.now(UTC)
    if timestamp > now + MAX_CLOCK_SKEW:
        raise InvalidValueError(
            f"is in the future ({timestamp:%Y-%m-%d}): correct the clock, or omit the field for the current time.",
            InvalidInputReason.TOO_LARGE,
        )
    if timestamp < now - MAX_EVENT_AGE:
        raise InvalidValueError(
            f"is {timestamp:%Y-%m-%d}, more than {MAX_EVENT_AGE.days} days ago: correct the clock, or omit the field for now.",
            InvalidInputReason.TOO_SMALL,
        )
    return timestamp


def _check_properties_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValueError("must be an object, such as {}.")
    try:
        text = orjson.dumps(value)
    except TypeError as error:
        raise InvalidValueError(f"cannot be stored: {str(error)[:100]}.") from None
    if len(text) > MAX_PROPERTIES_BYTES:
        raise InvalidValueError(
            f"must have at most {MAX_PROPERTIES_BYTES:,} bytes as JSON, not {len(text):,}.", InvalidInputReason.TOO_LONG
        )
    # The plain substring search first takes a tenth of the time of the expression.
    if b"\\u0000" in text and _ESCAPED_NUL_PATTERN.search(text):
        raise InvalidValueError("must not contain the character NUL.")
    return value


def _parse_network(value: Any) -> str:
    network = truncate_address(value) if isinstance(value, str) else None
    if network is None:
        raise InvalidValueError('must be an IP address such as "203.0.113.7". Only its network is stored.')
    return network


EVENT_RULES: Rules = {
    "clientEventId": _parse_event_id,
    "event": _check_event_name,
    "properties": _check_properties_object,
    "sessionId": _check_text,
    "userId": _check_text,
    "userAgent": _text_rule(1_000),
    "ipAddress": _parse_network,
    "referrer": _text_rule(MAX_URL_LENGTH),
    "utmSource": _text_rule(MAX_CAMPAIGN_LENGTH),
    "utmMedium": _text_rule(MAX_CAMPAIGN_LENGTH),
    "utmCampaign": _text_rule(MAX_CAMPAIGN_LENGTH),
    "timestamp": _parse_timestamp,
}


# ---------------------------------------------------------------------------------------------- properties


def _check_id(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidValueError("must be an id, as text.")
    return validation.validate_id(value)


def _integer_rule(minimum: int, description: str) -> Rule:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value < 2**31:
            raise InvalidValueError(f"must be {description}.")
        return value

    return check


_AMOUNT_PATTERN = re.compile(rf"\d{{1,{MAX_INTEGER_DIGITS}}}(\.\d{{1,{MAX_FRACTION_DIGITS}}})?", re.ASCII)


def _check_amount(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < AMOUNT_LIMIT
    if not is_number and not (isinstance(value, str) and _AMOUNT_PATTERN.fullmatch(value)):
        raise InvalidValueError('must be an amount such as "19.90".')
    return value


def _check_currency(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidValueError('must be the ISO 4217 code of a currency, such as "EUR".')
    return validation.validate_currency(value)


_PAGE_RULES: dict[str, Rule] = {"path": _text_rule(MAX_URL_LENGTH), "url": _text_rule(MAX_URL_LENGTH), "title": _text_rule(1_000)}
_PRODUCT_RULES: dict[str, Rule] = {
    "productId": _check_id,
    "variantId": _check_id,
    "quantity": _integer_rule(1, "a whole number from 1 on"),
}
_ORDER_RULES: dict[str, Rule] = {"orderId": _text_rule(MAX_TEXT_LENGTH), "total": _check_amount, "currency": _check_currency}

# Rules for the properties of known events; all are optional. Further properties, and those of other events, are not validated.
PROPERTY_RULES_BY_EVENT: Mapping[str, Rules] = {
    "page_view": _PAGE_RULES | _PRODUCT_RULES,
    "product_click": _PAGE_RULES | _PRODUCT_RULES,
    "add_to_cart": _PAGE_RULES | _PRODUCT_RULES,
    "purchase": _PAGE_RULES | _PRODUCT_RULES | _ORDER_RULES,
    "search": _PAGE_RULES | {"query": _text_rule(MAX_TEXT_LENGTH), "results": _integer_rule(0, "a whole number from 0 on")},
}


def _validate_properties(values: Mapping[str, Any], path: tuple[str, ...]) -> tuple[dict[str, Any], list[FieldError]]:
    properties, property_rules = values.get("properties", {}), PROPERTY_RULES_BY_EVENT.get(values["event"])
    if not properties or property_rules is None:
        return properties, []
    constrained = {name: value for name, value in properties.items() if name in property_rules and value is not None}
    normalized, field_errors = validation.validate_fields(property_rules, constrained, (*path, "properties"))
    field_errors += _find_excess_digits(normalized, (*path, "properties"))
    return {**properties, **normalized}, field_errors


def _find_excess_digits(properties: Mapping[str, Any], path: tuple[str, ...]) -> list[FieldError]:
    """The error of a total with more decimals than its currency has. Of JSON numbers, which are floats, four are regarded."""
    total, currency = properties.get("total"), properties.get("currency")
    if total is None or currency is None:
        return []
    try:
        quantize_amount(Decimal(total if isinstance(total, str) else f"{total:.{MAX_FRACTION_DIGITS}f}"), currency)
    except ExcessDigitsError as error:
        return [make_invalid_input_error([*path, "total"], str(error), InvalidInputReason.MALFORMED)]
    return []


# ------------------------------------------------------------------------------------------ of the request


def _choose_referrer(referrer: str | None, origin: RequestOrigin) -> str | None:
    # Browsers send the URL of the page as Referer, and its origin as Origin. A page of the shop itself is not a referrer.
    url = referrer or origin.page_url
    return None if url and origin.page_host and _parse_host(url) == origin.page_host else url


def _choose_campaign(values: Mapping[str, Any], properties: Mapping[str, Any], origin: RequestOrigin) -> dict[str, str | None]:
    campaign = {
        "utm_source": values.get("utmSource"),
        "utm_medium": values.get("utmMedium"),
        "utm_campaign": values.get("utmCampaign"),
    }
    if not any(campaign.values()):
        for url in (properties.get("url"), origin.page_url):
            if isinstance(url, str) and "utm_" in url:
                return _parse_campaign_url(url)
    return campaign


def _parse_campaign_url(url: str) -> dict[str, str | None]:
    try:
        parameters = parse_qs(urlsplit(url).query, max_num_fields=100)
    except ValueError:
        parameters = {}
    return {
        name: _truncate_header(parameters.get(name, [None])[0], MAX_CAMPAIGN_LENGTH)
        for name in ("utm_source", "utm_medium", "utm_campaign")
    }


def _parse_host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _truncate_header(text: str | None, max_length: int) -> str | None:
    """The value of a header, truncated: it is not user input, so there is no error to report."""
    return (text.replace("\0", "")[:max_length].strip() or None) if text else None
