"""What the log looks like: lines of text or of JSON, each with the id of its request, none with a secret."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from numbers import Number
from typing import Any, Literal
from urllib.parse import quote

import orjson
from psycopg import Error

from storefront.core import request_context

Format = Literal["text", "json"]

# What stands in a line instead of a value. docs/adr/log-redaction.md says where values are looked for.
HIDDEN = "[hidden]"
# What libraries say below that is about themselves, or what was sent.
QUIET = ("asyncio", "botocore", "httpcore", "httpx", "opentelemetry", "psycopg", "urllib3", "websockets")
LEAST = {"uvicorn": "INFO", **dict.fromkeys(QUIET, "WARNING")}
# Loggers whose templates are constants in code: what varies in their lines are the arguments.
CONSTANT_TEMPLATES = ("storefront", "uvicorn")
# Values of at least so many characters are found anywhere in a text, of at least so many as a word of it, shorter ones in quotes.
MIN_ANYWHERE_CHARACTERS, MIN_WORD_CHARACTERS = 16, 4
# Values that are looked for in the lines of one request: as many as a request may have.
MAX_VALUES = 20_000
# Exceptions of a chain, and frames of each, that are told.
MOST_LINKS, MOST_FRAMES = 5, 20

# What gives something away by its looks: bearer tokens, JSON Web Tokens, passwords in URLs, tokens in addresses of pictures.
_TELLING = re.compile(
    r"(?i)(?<=\bbearer )\S+|\beyJ[\w-]+(?:\.[\w-]*){1,4}|(?<=://)[^/@\s:]*:[^@\s]+(?=@)|(?<=\bpassword=)(?:'[^']*'|\S+)"
    r"|(?<=/media/[0-9a-f-]{36}-)[0-9a-f]{32}"
)
# What a template's arguments replace, in %-formatting and in str.format.
_PLACEHOLDER = re.compile(r"%[#0\- +]*\d*(?:\.\d+)?[a-zA-Z%]|\{[^{}]*\}")
_NEVER_ESCAPED = re.compile(r"[ !#-&(-\[\]-~]*")
_NUMBER_PLACEHOLDER = re.compile(r"%[#0\- +]*\d*(?:\.\d+)?[diouxXeEfFgG]")
# Of the data of statements, Postgres quotes what it cannot read.
_DATA_EXCEPTION = "22"

_secrets: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """Let none of these into the log of this process, however they are quoted."""
    _secrets.update(form for secret in secrets if secret for form in {*_forms(secret), quote(secret, safe="")})


class Verbatim(str):
    """An argument of a log line that is no value but words of ours, such as a path of fields: written as it is."""

    __slots__ = ()


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
        told = request_context.current()
        redaction = Redaction(told.asked if told else None)
        error = record.exc_info[1] if record.exc_info else None
        return self.line(
            {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": _message(record, redaction),
                **({"requestId": told.request_id} if told else {}),
                **_fields(getattr(record, "fields", {})),
                **({"exception": _exception(error, redaction)} if error else {}),
            }
        )

    def line(self, fields: Mapping[str, Any]) -> str:
        """The fields as a line."""
        raise NotImplementedError


class JsonLines(Lines):
    """Lines of JSON."""

    def line(self, fields: Mapping[str, Any]) -> str:
        """An object."""
        return _json(fields)


class TextLines(Lines):
    """Lines to be read."""

    def line(self, fields: Mapping[str, Any]) -> str:
        """Time, level, message, the fields, and below it what went wrong."""
        own = {name: value for name, value in fields.items() if name not in ("time", "level", "logger", "message", "exception")}
        start = f"{fields['time']} {fields['level'].upper():<7} {fields['message']}"
        after = "".join(f" {name}={_written(value)}" for name, value in own.items())
        return start + after + ("\n" + fields["exception"] if "exception" in fields else "")


def _written(value: Any) -> str:
    return value if isinstance(value, str) and " " not in value else _json(value)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:
        # A lone surrogate, or a number beyond 64 bits: no reason to lose the line.
        return json.dumps(value, default=str)


# -------------------------------------------------------------------------------------------------- redaction


class Redaction:
    """Takes secrets, and the values in what was `asked` with, out of values on their way into a line."""

    def __init__(self, asked: object) -> None:
        self._asked = asked

    @cached_property
    def _given(self) -> frozenset[str]:
        return frozenset(_values(self._asked))

    def text(self, text: str, ours: Iterable[str] = (), *, quoted_only: bool = False) -> str:
        """A text that may have values in it. What is a part of the words `ours` in it is none.

        `quoted_only`: values stand in quotes, if anywhere.
        """
        if text in self._given:
            return HIDDEN
        text = without_secrets(text, is_value=True)
        found = sorted((value for value in self._given if value in text), key=len, reverse=True)
        if not found:
            return text
        kept = [match.span() for words in (HIDDEN, *ours) for match in re.finditer(re.escape(words), text)]

        def replacement(match: re.Match[str]) -> str:
            start, end = match.span()
            is_ours = any(first <= start and end <= last and last - first > end - start for first, last in kept)
            return match[0] if is_ours else HIDDEN

        return re.sub("|".join(_pattern(value, quoted_only=quoted_only) for value in found), replacement, text)

    def argument(self, value: object) -> object:
        """An argument of a log line, to be formatted like the value."""
        if value is None or isinstance(value, bool | Verbatim):
            return value
        if isinstance(value, Number):
            return HIDDEN if len(str(value)) >= MIN_WORD_CHARACTERS and str(value) in self._given else value
        return self.text(value) if isinstance(value, str) else _Redacted(value, self)


class _Redacted:
    """An argument that is made text when its line is."""

    def __init__(self, value: object, redaction: Redaction) -> None:
        self._value, self._redaction = value, redaction

    def __str__(self) -> str:
        if isinstance(self._value, BaseException):
            return _words(self._value, self._redaction)
        return self._redaction.text(str(self._value))

    def __repr__(self) -> str:
        if isinstance(self._value, BaseException):
            return f"{type(self._value).__name__}({_words(self._value, self._redaction)})"
        return self._redaction.text(repr(self._value))


def without_secrets(text: str, *, is_value: bool = False) -> str:
    """The text without secrets of the process, and what looks like one. Very short ones are looked for in values alone."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret not in text:
            continue
        if len(secret) >= MIN_WORD_CHARACTERS:
            text = text.replace(secret, HIDDEN)
        elif is_value:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return _TELLING.sub(HIDDEN, text)


def _pattern(value: str, *, quoted_only: bool) -> str:
    escaped = re.escape(value)
    if quoted_only or len(value) < MIN_WORD_CHARACTERS:
        return rf"(?<=['\"`]){escaped}(?=['\"`])"
    if len(value) >= MIN_ANYWHERE_CHARACTERS:
        return escaped
    return (r"(?<!\w)" if _is_word(value[0]) else "") + escaped + (r"(?!\w)" if _is_word(value[-1]) else "")


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _values(asked: object) -> Iterator[str]:
    """The values in what was asked, as they may be quoted."""
    # The same may have been given twice: as a request, and as the variables in it.
    left, seen, count = [asked], set[int](), 0
    while left and count < MAX_VALUES:
        value = left.pop()
        if isinstance(value, Mapping | list | tuple):
            if id(value) not in seen:
                seen.add(id(value))
                left += value.values() if isinstance(value, Mapping) else value
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            count += 1
            yield from _forms(str(value)) if value != "" else ()


def _forms(value: str) -> set[str]:
    """A value as it is, and as Python and JSON quote it."""
    if _NEVER_ESCAPED.fullmatch(value):
        return {value}
    return {value, repr(value)[1:-1], json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}


# ------------------------------------------------------------------------------------------------ what is told


def _message(record: logging.LogRecord, redaction: Redaction) -> str:
    """What a record says: its template as it is, its arguments without what must not be in them."""
    if not isinstance(record.msg, str) or not record.name.startswith(CONSTANT_TEMPLATES):
        # Values may be anywhere in it.
        return str(_Redacted(record.msg, redaction)) if not record.args else redaction.text(record.getMessage())
    if not record.args:
        return without_secrets(record.msg)
    if record.name.startswith("uvicorn"):
        args: Any = tuple(_without_query(arg) for arg in record.args)
    elif isinstance(record.args, Mapping):
        args = {name: redaction.argument(value) for name, value in record.args.items()}
    else:
        args = tuple(redaction.argument(value) for value in record.args)
    try:
        return without_secrets(record.msg % args)
    except TypeError:
        # A number was hidden.
        return without_secrets(_NUMBER_PLACEHOLDER.sub("%s", record.msg) % args)


def _without_query(argument: object) -> object:
    """Uvicorn tells the paths that were asked for with all that stands behind the question mark: variables, tokens.

    Besides paths it tells methods, addresses and statuses, which are no values, whatever values the request has.
    """
    return without_secrets(argument.partition("?")[0], is_value=True) if isinstance(argument, str) else argument


def _fields(given: Any) -> Any:
    """Fields that a record has, without secrets."""
    if isinstance(given, str):
        return without_secrets(given)
    if isinstance(given, Mapping):
        return {without_secrets(str(name)): _fields(value) for name, value in given.items()}
    return [_fields(value) for value in given] if isinstance(given, list | tuple) else given


def _exception(error: BaseException, redaction: Redaction) -> str:
    """Where an exception comes from and what it says, with those that led to it. Frames have no values in them."""
    links = ("".join([*_frames(link), f"{type(link).__name__}: {_words(link, redaction)}"]) for link in _chain(error))
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


def _words(error: BaseException, redaction: Redaction) -> str:
    """What an exception says, without values. Of Postgres' own words none that quote data."""
    if not isinstance(error, Error) or error.sqlstate is None:
        return redaction.text(str(error), _literals(error))
    told = error.diag.message_primary if not error.sqlstate.startswith(_DATA_EXCEPTION) else None
    facts = {"table": error.diag.table_name, "constraint": error.diag.constraint_name, "sqlstate": error.sqlstate}
    words = redaction.text(told, quoted_only=True) if told else "data that Postgres cannot take"
    return ", ".join([words, *(f"{name} {value}" for name, value in facts.items() if value)])


def _literals(error: BaseException) -> set[str]:
    """The words that stand in the code which raised an exception: the parts of its message that are no values."""
    traceback = error.__traceback__
    if traceback is None:
        return set()
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    constants = (constant for constant in traceback.tb_frame.f_code.co_consts if isinstance(constant, str))
    return {part for constant in constants for part in _PLACEHOLDER.split(constant) if len(part) > 1}
