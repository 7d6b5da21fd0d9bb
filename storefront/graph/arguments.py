"""Validation of arguments that several fields share. Each function returns the value, or raises InvalidInput for the field."""

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
MAX_RATING = 5

# Two years; hourly series are limited to stay below 10,000 points.
MAX_REPORT_DAYS = 731
MAX_HOURLY_REPORT_DAYS = 400


def check_id(text: str, field: str) -> str:
    """The canonical form of an id (a UUID)."""
    canonical_id = parse_id(text)
    if canonical_id is None:
        raise InvalidInput(field, f"{text[:40]!r} is not an id. Ids look like 018f0000-0000-7000-8000-000000000000.")
    return canonical_id


def check_row_count(number: int, field: str = "first", max_rows: int = MAX_ROWS, min_rows: int = 1) -> int:
    """The number of rows to return, `min_rows` to `max_rows`."""
    if not min_rows <= number <= max_rows:
        raise InvalidInput(field, f"must be between {min_rows} and {max_rows}, not {number}.")
    return number


def check_rating(number: int, field: str = "rating") -> int:
    """A number of stars, 1 to 5."""
    if not 1 <= number <= MAX_RATING:
        raise InvalidInput(field, f"must be between 1 and {MAX_RATING}, not {number}.")
    return number


def check_number(value: float, field: str) -> float:
    """A finite number. JSON and GraphQL literals such as `1e999` are read as infinity."""
    if not isfinite(value):
        raise InvalidInput(field, "must be a finite number.")
    return value


def check_text(value: str, field: str) -> str:
    """Text without NUL, which Postgres cannot store. `storefront.graph.limits` limits the length per input."""
    if "\0" in value:
        raise InvalidInput(field, "must not contain the character NUL.")
    return value


def check_texts(values: Sequence[str], field: str) -> tuple[str, ...]:
    """Texts without NUL, sorted and without duplicates, so that equal filters compare equal."""
    return tuple(sorted({check_text(value, field) for value in values}))


def build_window(
    first_: int | None,
    after: str | None,
    last: int | None = None,
    before: str | None = None,
    *,
    default: int = 20,
    max_rows: int = MAX_ROWS,
) -> Window:
    """The keyset window of Relay's pagination arguments: forward by first and after, backward by last and before."""
    if last is None and before is None:
        count = check_row_count(default if first_ is None else first_, max_rows=max_rows)
        return Window(count, _check_cursor(after, "after"))
    if first_ is not None or after is not None:
        raise InvalidInput("last", "use first with after, or last with before, not both.")
    count = check_row_count(default if last is None else last, "last", max_rows)
    return Window(count, _check_cursor(before, "before"), backward=True)


def _check_cursor(value: str | None, field: str) -> str | None:
    return None if value is None else check_text(value, field)


def build_date_range(start: datetime | str, end: datetime | str, field: str) -> Span:
    """The half-open time range [start, end) in UTC."""
    span = Span(*(datetime.fromisoformat(str(moment)).astimezone(UTC) for moment in (start, end)))
    if span.start >= span.end:
        raise InvalidInput(f"{field}.to", "must be later than from.")
    if span.start.year < 1970 or span.end.year > 2100:
        raise InvalidInput(field, "must lie between the years 1970 and 2100.")
    return span


def build_report_range(start: datetime | str, end: datetime | str, field: str) -> Span:
    """A time range of at most MAX_REPORT_DAYS."""
    span = build_date_range(start, end, field)
    if span.end - span.start > timedelta(days=MAX_REPORT_DAYS):
        raise InvalidInput(field, f"must be at most {MAX_REPORT_DAYS} days long.")
    return span


def check_series_interval(interval: str, span: Span, field: str) -> None:
    """Raise InvalidInput if an interval divides a time range into 10,000 points or more."""
    if interval == "hour" and span.end - span.start > timedelta(days=MAX_HOURLY_REPORT_DAYS):
        raise InvalidInput(field, f"must not be HOUR when the range is longer than {MAX_HOURLY_REPORT_DAYS} days.")


def check_time_zone(name: str, field: str) -> str:
    """An IANA time zone name."""
    if name not in _load_time_zones():
        raise InvalidInput(field, f'{name[:40]!r} is not the IANA name of a time zone, such as "Europe/Berlin" or "UTC".')
    return name


@cache
def _load_time_zones() -> frozenset[str]:
    return frozenset(available_timezones())
