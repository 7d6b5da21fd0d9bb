"""Arguments that several fields share, checked: each function returns the value or raises InvalidInput naming the field."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from math import isfinite
from zoneinfo import available_timezones

from storefront.core.errors import InvalidInput
from storefront.core.ids import parse_id
from storefront.queries.analytics import Span
from storefront.queries.keyset import Window

MAX_ROWS = 100

# Two years; and for series by the hour as many days as stay below 10,000 points.
MAX_REPORT_DAYS = 731
MAX_HOURLY_REPORT_DAYS = 400


def check_id(text: str, field: str) -> str:
    """An id of ours in its canonical form."""
    canonical_id = parse_id(text)
    if canonical_id is None:
        raise InvalidInput(field, f"{text[:40]!r} is not an id. Ids look like 018f0000-0000-7000-8000-000000000000.")
    return canonical_id


def check_row_count(number: int, field: str = "first", max_rows: int = MAX_ROWS) -> int:
    """How many rows to return."""
    if not 1 <= number <= max_rows:
        raise InvalidInput(field, f"must be between 1 and {max_rows}, not {number}.")
    return number


def check_number(value: float, field: str) -> float:
    """A number that is not too large for one: `1e999` is infinite."""
    if not isfinite(value):
        raise InvalidInput(field, "must be a finite number.")
    return value


def check_text(value: str, field: str) -> str:
    """Text to look something up by. How long it may be is declared where it is taken (`storefront.graph.limits`)."""
    if "\0" in value:
        raise InvalidInput(field, "must not contain the character NUL.")
    return value


def check_texts(values: Sequence[str], field: str) -> tuple[str, ...]:
    """A list of such texts, without repeats, in an order of its own."""
    return tuple(sorted({check_text(value, field) for value in values}))


def build_window(
    first_: int | None, after: str | None, last: int | None = None, before: str | None = None, *, default: int = 20
) -> Window:
    """The part of a list that Relay's four arguments ask for: forwards by first and after, backwards by last and before."""
    if last is None and before is None:
        return Window(check_row_count(default if first_ is None else first_), _check_cursor(after, "after"))
    if first_ is not None or after is not None:
        raise InvalidInput("last", "use first with after, or last with before, not both.")
    return Window(check_row_count(default if last is None else last, "last"), _check_cursor(before, "before"), backward=True)


def _check_cursor(value: str | None, field: str) -> str | None:
    return None if value is None else check_text(value, field)


def build_date_range(start: datetime | str, end: datetime | str, field: str) -> Span:
    """The time from one moment up to another."""
    span = Span(*(datetime.fromisoformat(str(moment)).astimezone(UTC) for moment in (start, end)))
    if span.start >= span.end:
        raise InvalidInput(f"{field}.to", "must be later than from.")
    if span.start.year < 1970 or span.end.year > 2100:
        raise InvalidInput(field, "must lie between the years 1970 and 2100.")
    return span


def build_report_range(start: datetime | str, end: datetime | str, field: str, interval: str) -> Span:
    """The same, as long as a report may be."""
    span = build_date_range(start, end, field)
    max_days, condition = (MAX_HOURLY_REPORT_DAYS, " when interval is HOUR") if interval == "hour" else (MAX_REPORT_DAYS, "")
    if span.end - span.start > timedelta(days=max_days):
        raise InvalidInput(field, f"must be at most {max_days} days long{condition}.")
    return span


def check_time_zone(name: str, field: str) -> str:
    """The name of a time zone."""
    if name not in _load_time_zones():
        raise InvalidInput(field, f'{name[:40]!r} is not the IANA name of a time zone, such as "Europe/Berlin" or "UTC".')
    return name


@cache
def _load_time_zones() -> frozenset[str]:
    return frozenset(available_timezones())
