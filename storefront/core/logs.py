"""Logging: lines of text or JSON with the request id, and redaction of secrets and of values in clients' inputs."""

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

LogFormat = Literal["text", "json"]

# Replaces redacted values. docs/adr/log-redaction.md describes where values are searched.
REDACTED = "[hidden]"
# Below WARNING, these libraries log their internals or the data they send.
QUIET_LOGGERS = ("asyncio", "botocore", "httpcore", "httpx", "opentelemetry", "psycopg", "urllib3", "websockets")
MIN_LEVELS = {"uvicorn": "INFO", **dict.fromkeys(QUIET_LOGGERS, "WARNING")}
# Loggers whose message templates are constants in code: only their arguments can contain values.
CONSTANT_TEMPLATES = ("storefront", "uvicorn")
# Minimum lengths of values that are redacted anywhere in a text, and as a whole word; shorter ones only in quotes.
MIN_ANYWHERE_CHARACTERS, MIN_WORD_CHARACTERS = 16, 4
# Maximum number of values that are searched per request: as many as a request may have.
MAX_REDACTED_VALUES = 20_000
# Maximum number of exceptions of a chain, and of stack frames of each, that are logged.
MAX_EXCEPTION_LINKS, MAX_FRAMES = 5, 20

# Secrets by their form: bearer tokens, JSON Web Tokens, passwords in URLs, tokens in image URLs.
_SECRET_PATTERN = re.compile(
    r"(?i)(?<=\bbearer )\S+|\beyJ[\w-]+(?:\.[\w-]*){1,4}|(?<=://)[^/@\s:]*:[^@\s]+(?=@)|(?<=\bpassword=)(?:'[^']*'|\S+)"
    r"|(?<=/media/[0-9a-f-]{36}-)[0-9a-f]{32}"
)
# Placeholders in templates, of %-formatting and str.format.
_PLACEHOLDER_PATTERN = re.compile(r"%[#0\- +]*\d*(?:\.\d+)?[a-zA-Z%]|\{[^{}]*\}")
_UNESCAPED_PATTERN = re.compile(r"[ !#-&(-\[\]-~]*")
_NUMBER_PLACEHOLDER_PATTERN = re.compile(r"%[#0\- +]*\d*(?:\.\d+)?[diouxXeEfFgG]")
# SQLSTATE class 22, data exceptions: their messages quote values.
_DATA_EXCEPTION_CLASS = "22"

_secrets: set[str] = set()


def register_secrets(secrets: Iterable[str]) -> None:
    """Redact these secrets in all log lines of this process, in all quoted forms."""
    _secrets.update(form for secret in secrets if secret for form in {*_list_quoted_forms(secret), quote(secret, safe="")})


class Verbatim(str):
    """A log argument that needs no redaction, such as a path of fields: it is written as it is."""

    __slots__ = ()


def build_logging_config(format_: LogFormat, level: str) -> dict[str, Any]:
    """The configuration for logging.config.dictConfig, of this process and its workers. Lines go to stderr."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": f"{__name__}.{'JsonLines' if format_ == 'json' else 'TextLines'}"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": {name: {"level": _select_stricter_level(level, minimum)} for name, minimum in MIN_LEVELS.items()},
    }


def _select_stricter_level(level: str, minimum: str) -> str:
    numbers = logging.getLevelNamesMapping()
    return max(level.upper(), minimum, key=numbers.__getitem__)


class LineFormatter(logging.Formatter):
    """Formats a record as one redacted line. `extra={"fields": {…}}` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The redacted line of a record."""
        context = request_context.get_current_context()
        redactor = Redactor(context.sensitive_inputs if context else None)
        error = record.exc_info[1] if record.exc_info else None
        return self.render_line(
            {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": _render_message(record, redactor),
                **({"requestId": context.request_id} if context else {}),
                **_redact_fields(getattr(record, "fields", {})),
                **({"exception": _render_exception(error, redactor)} if error else {}),
            }
        )

    def render_line(self, fields: Mapping[str, Any]) -> str:
        """Serialize the fields as a line."""
        raise NotImplementedError


class JsonLines(LineFormatter):
    """Formats lines as JSON."""

    def render_line(self, fields: Mapping[str, Any]) -> str:
        """The fields as a JSON object."""
        return _to_json(fields)


class TextLines(LineFormatter):
    """Formats lines as text for people."""

    def render_line(self, fields: Mapping[str, Any]) -> str:
        """Time, level, message and fields, followed by the exception."""
        extra_fields = {
            name: value for name, value in fields.items() if name not in ("time", "level", "logger", "message", "exception")
        }
        start = f"{fields['time']} {fields['level'].upper():<7} {fields['message']}"
        suffix = "".join(f" {name}={_render_value(value)}" for name, value in extra_fields.items())
        return start + suffix + ("\n" + fields["exception"] if "exception" in fields else "")


def _render_value(value: Any) -> str:
    return value if isinstance(value, str) and " " not in value else _to_json(value)


def _to_json(value: Any) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:
        # orjson rejects lone surrogates and integers beyond 64 bits; the line must not be lost.
        return json.dumps(value, default=str)


# -------------------------------------------------------------------------------------------------- redaction


class Redactor:
    """Redacts secrets and the values in `sensitive_inputs` from log arguments and texts."""

    def __init__(self, sensitive_inputs: object) -> None:
        self._sensitive_inputs = sensitive_inputs

    @cached_property
    def _sensitive_values(self) -> frozenset[str]:
        return frozenset(_iterate_values(self._sensitive_inputs))

    def redact_text(self, text: str, literals: Iterable[str] = (), *, quoted_only: bool = False) -> str:
        """Redact a text that may contain values. Occurrences inside of `literals`, which are constants in code, remain.

        `quoted_only`: redact values in quotes only.
        """
        if text in self._sensitive_values:
            return REDACTED
        text = redact_secrets(text, is_value=True)
        contained_values = sorted((value for value in self._sensitive_values if value in text), key=len, reverse=True)
        if not contained_values:
            return text
        protected_spans = [match.span() for literal in (REDACTED, *literals) for match in re.finditer(re.escape(literal), text)]

        def replace_match(match: re.Match[str]) -> str:
            start, end = match.span()
            is_protected = any(first <= start and end <= last and last - first > end - start for first, last in protected_spans)
            return match[0] if is_protected else REDACTED

        return re.sub("|".join(_build_pattern(value, quoted_only=quoted_only) for value in contained_values), replace_match, text)

    def redact_argument(self, value: object) -> object:
        """Redact an argument of a log line; the result is formatted like the argument."""
        if value is None or isinstance(value, bool | Verbatim):
            return value
        if isinstance(value, Number):
            return REDACTED if len(str(value)) >= MIN_WORD_CHARACTERS and str(value) in self._sensitive_values else value
        return self.redact_text(value) if isinstance(value, str) else _RedactedArgument(value, self)


class _RedactedArgument:
    """An argument that is converted to text and redacted when its line is formatted."""

    def __init__(self, value: object, redactor: Redactor) -> None:
        self._value, self._redactor = value, redactor

    def __str__(self) -> str:
        if isinstance(self._value, BaseException):
            return _render_error(self._value, self._redactor)
        return self._redactor.redact_text(str(self._value))

    def __repr__(self) -> str:
        if isinstance(self._value, BaseException):
            return f"{type(self._value).__name__}({_render_error(self._value, self._redactor)})"
        return self._redactor.redact_text(repr(self._value))


def redact_secrets(text: str, *, is_value: bool = False) -> str:
    """Redact the secrets of the process, and text with the form of one. Very short secrets are redacted in values only."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret not in text:
            continue
        if len(secret) >= MIN_WORD_CHARACTERS:
            text = text.replace(secret, REDACTED)
        elif is_value:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", REDACTED, text)
    return _SECRET_PATTERN.sub(REDACTED, text)


def _build_pattern(value: str, *, quoted_only: bool) -> str:
    escaped = re.escape(value)
    if quoted_only or len(value) < MIN_WORD_CHARACTERS:
        return rf"(?<=['\"`]){escaped}(?=['\"`])"
    if len(value) >= MIN_ANYWHERE_CHARACTERS:
        return escaped
    return (r"(?<!\w)" if _is_word_character(value[0]) else "") + escaped + (r"(?!\w)" if _is_word_character(value[-1]) else "")


def _is_word_character(character: str) -> bool:
    return character.isalnum() or character == "_"


def _iterate_values(sensitive_inputs: object) -> Iterator[str]:
    """The values in the inputs, in all their quoted forms."""
    # An object may occur twice: in the request, and as its variables.
    pending, visited, count = [sensitive_inputs], set[int](), 0
    while pending and count < MAX_REDACTED_VALUES:
        value = pending.pop()
        if isinstance(value, Mapping | list | tuple):
            if id(value) not in visited:
                visited.add(id(value))
                pending += value.values() if isinstance(value, Mapping) else value
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            count += 1
            yield from _list_quoted_forms(str(value)) if value != "" else ()


def _list_quoted_forms(value: str) -> set[str]:
    """A value as it is, and as Python and JSON escape it."""
    if _UNESCAPED_PATTERN.fullmatch(value):
        return {value}
    return {value, repr(value)[1:-1], json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}


# ------------------------------------------------------------------------------------------------ rendering


def _render_message(record: logging.LogRecord, redactor: Redactor) -> str:
    """The message of a record: a constant template with redacted arguments."""
    if not isinstance(record.msg, str) or not record.name.startswith(CONSTANT_TEMPLATES):
        # The message itself may contain values.
        return str(_RedactedArgument(record.msg, redactor)) if not record.args else redactor.redact_text(record.getMessage())
    if not record.args:
        return redact_secrets(record.msg)
    if record.name.startswith("uvicorn"):
        args: Any = tuple(_strip_query(arg) for arg in record.args)
    elif isinstance(record.args, Mapping):
        args = {name: redactor.redact_argument(value) for name, value in record.args.items()}
    else:
        args = tuple(redactor.redact_argument(value) for value in record.args)
    try:
        return redact_secrets(record.msg % args)
    except TypeError:
        # A number was redacted: its placeholder must accept text.
        return redact_secrets(_NUMBER_PLACEHOLDER_PATTERN.sub("%s", record.msg) % args)


def _strip_query(argument: object) -> object:
    """An argument of uvicorn's access log without the query string of a path, which may contain variables and tokens.

    The other arguments (methods, addresses, statuses) are not values of the request, even where they are equal to one.
    """
    return redact_secrets(argument.partition("?")[0], is_value=True) if isinstance(argument, str) else argument


def _redact_fields(fields: Any) -> Any:
    """The extra fields of a record, with secrets redacted."""
    if isinstance(fields, str):
        return redact_secrets(fields)
    if isinstance(fields, Mapping):
        return {redact_secrets(str(name)): _redact_fields(value) for name, value in fields.items()}
    return [_redact_fields(value) for value in fields] if isinstance(fields, list | tuple) else fields


def _render_exception(error: BaseException, redactor: Redactor) -> str:
    """The stack frames and the redacted message of an exception and of its causes. Frames contain no values."""
    rendered_links = (
        "".join([*_render_frames(link), f"{type(link).__name__}: {_render_error(link, redactor)}"])
        for link in _iterate_chain(error)
    )
    return "\nwhich came of:\n".join(rendered_links)


def _iterate_chain(error: BaseException) -> Iterator[BaseException]:
    pending, count = [error], 0
    while pending and count < MAX_EXCEPTION_LINKS:
        link, count = pending.pop(0), count + 1
        yield link
        pending += link.exceptions if isinstance(link, BaseExceptionGroup) else ()
        cause = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        pending += [cause] if cause else []


def _render_frames(error: BaseException) -> list[str]:
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f'  File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_name}\n')
        traceback = traceback.tb_next
    return frames[-MAX_FRAMES:]


def _render_error(error: BaseException, redactor: Redactor) -> str:
    """The redacted message of an exception. Messages of Postgres that quote data are replaced."""
    if not isinstance(error, Error) or error.sqlstate is None:
        return redactor.redact_text(str(error), _find_literals(error))
    primary_message = error.diag.message_primary if not error.sqlstate.startswith(_DATA_EXCEPTION_CLASS) else None
    facts = {"table": error.diag.table_name, "constraint": error.diag.constraint_name, "sqlstate": error.sqlstate}
    text = redactor.redact_text(primary_message, quoted_only=True) if primary_message else "data that Postgres cannot take"
    return ", ".join([text, *(f"{name} {value}" for name, value in facts.items() if value)])


def _find_literals(error: BaseException) -> set[str]:
    """The string constants of the code that raised an exception: the parts of its message that are not values."""
    traceback = error.__traceback__
    if traceback is None:
        return set()
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    constants = (constant for constant in traceback.tb_frame.f_code.co_consts if isinstance(constant, str))
    return {segment for constant in constants for segment in _PLACEHOLDER_PATTERN.split(constant) if len(segment) > 1}
