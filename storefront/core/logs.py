"""What the log looks like: lines of text or of JSON, each with the id of its request, none with a secret."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from psycopg import Error

from storefront.core import activity

Format = Literal["text", "json"]

HIDDEN = "[hidden]"
# What libraries say below that is about themselves, or what was sent.
QUIET = ("asyncio", "botocore", "httpcore", "httpx", "opentelemetry", "psycopg", "urllib3", "websockets")
LEAST = {"uvicorn": "INFO", **dict.fromkeys(QUIET, "WARNING")}
# What is shorter is hidden nowhere: it would be found in half of all words.
SHORTEST = 4
# Values that are looked for in the lines of one request.
MOST_VALUES = 1_000
# Exceptions of a chain, and frames of each, that are told.
MOST_LINKS, MOST_FRAMES = 5, 20

# What gives something away by its looks: bearer tokens, JSON Web Tokens, passwords in URLs.
_TELLING = re.compile(r"(?i)(?<=\bbearer )\S+|\beyJ[\w-]+(?:\.[\w-]*){1,4}|(?<=://)[^/@\s:]*:[^@\s]+(?=@)")
# Of the data of statements, Postgres quotes what it cannot read.
_DATA_EXCEPTION = "22"

_secrets: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """Let none of these into the log of this process."""
    _secrets.update(secret for secret in secrets if len(secret) >= SHORTEST)


def configuration(format_: Format, level: str) -> dict[str, Any]:
    """How this process logs, and every worker of it: for logging.config.dictConfig. All goes to stderr."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": f"{__name__}.{'JsonLines' if format_ == 'json' else 'TextLines'}"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": {name: {"level": _at_least(level, least)} for name, least in LEAST.items()},
    }


def _at_least(level: str, least: str) -> str:
    numbers = logging.getLevelNamesMapping()
    return max(level.upper(), least, key=numbers.__getitem__)


class Lines(logging.Formatter):
    """One line for each record, without what must not be in it. `extra={"fields": {…}}` gives it fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told = activity.current()
        asked = told.asked if told else None
        error = record.exc_info[1] if record.exc_info else None
        return self.line(
            {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": cleaned(_without_queries(record).getMessage(), asked),
                **({"requestId": told.request_id} if told else {}),
                **getattr(record, "fields", {}),
                **({"exception": cleaned(_exception(error), asked)} if error else {}),
            }
        )

    def line(self, fields: Mapping[str, Any]) -> str:
        """The fields as a line."""
        raise NotImplementedError


class JsonLines(Lines):
    """Lines of JSON."""

    def line(self, fields: Mapping[str, Any]) -> str:
        """An object."""
        return orjson.dumps(fields, default=str).decode()


class TextLines(Lines):
    """Lines to be read."""

    def line(self, fields: Mapping[str, Any]) -> str:
        """Time, level, message, the fields, and below it what went wrong."""
        own = {name: value for name, value in fields.items() if name not in ("time", "level", "logger", "message", "exception")}
        start = f"{fields['time']} {fields['level'].upper():<7} {fields['message']}"
        after = "".join(f" {name}={_written(value)}" for name, value in own.items())
        return start + after + ("\n" + fields["exception"] if "exception" in fields else "")


def _written(value: Any) -> str:
    return value if isinstance(value, str) and " " not in value else orjson.dumps(value, default=str).decode()


def cleaned(words: str, asked: object = None) -> str:
    """The words without secrets, and without the values that were `asked` with."""
    for value in sorted({*_secrets, *_values(asked)}, key=len, reverse=True):
        if value in words:
            words = words.replace(value, HIDDEN)
    return _TELLING.sub(HIDDEN, words)


def _values(asked: object) -> Iterator[str]:
    """The values in what was asked, as they may be quoted."""
    left, count = [asked], 0
    while left and count < MOST_VALUES:
        value, count = left.pop(), count + 1
        if isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
        elif isinstance(value, str | int | float) and len(text := str(value)) >= SHORTEST and not isinstance(value, bool):
            yield from {text, repr(text)[1:-1], orjson.dumps(text).decode()[1:-1]}


def _without_queries(record: logging.LogRecord) -> logging.LogRecord:
    """Uvicorn tells the paths that were asked for with all that stands behind the question mark: variables, tokens."""
    if record.name.startswith("uvicorn") and isinstance(record.args, tuple):
        record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
    return record


def _exception(error: BaseException) -> str:
    """Where an exception comes from and what it says, with those that led to it; of Postgres' own words none that quote data."""
    links = ("".join([*_frames(link), f"{type(link).__name__}: {_words(link)}"]) for link in _chain(error))
    return "\nwhich came of:\n".join(links)


def _chain(error: BaseException) -> Iterator[BaseException]:
    left, count = [error], 0
    while left and count < MOST_LINKS:
        link, count = left.pop(0), count + 1
        yield link
        left += link.exceptions if isinstance(link, BaseExceptionGroup) else ()
        before = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        left += [before] if before else []


def _frames(error: BaseException) -> list[str]:
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f'  File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_name}\n')
        traceback = traceback.tb_next
    return frames[-MOST_FRAMES:]


def _words(error: BaseException) -> str:
    if not isinstance(error, Error) or error.sqlstate is None:
        return str(error)
    told = error.diag.message_primary if not error.sqlstate.startswith(_DATA_EXCEPTION) else None
    facts = {"table": error.diag.table_name, "constraint": error.diag.constraint_name, "sqlstate": error.sqlstate}
    return ", ".join([told or "data that Postgres cannot take", *(f"{name} {value}" for name, value in facts.items() if value)])
