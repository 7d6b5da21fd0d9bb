"""Format of log lines, and redaction of secrets and inputs."""

import json
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID

import psycopg
import pytest
from pydantic import SecretStr

from storefront.core import logs
from storefront.core.request_context import RequestContext
from storefront.core.settings import Settings


def format_line(
    formatter: logs.LineFormatter, message: str, *args: object, error: BaseException | None = None, name: str = "storefront"
) -> str:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return formatter.format(logging.LogRecord(name, logging.WARNING, "", 0, message, args, exc_info))


@pytest.fixture(autouse=True)
def forget_secrets() -> Iterator[None]:
    before = set(logs._secrets)
    yield
    logs._secrets.clear()
    logs._secrets.update(before)


def test_json_line_has_all_standard_fields() -> None:
    with RequestContext("r-1"):
        line = json.loads(format_line(logs.JsonLines(), "%s things", 3))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "storefront", "message": "3 things", "requestId": "r-1"}
    assert "requestId" not in json.loads(format_line(logs.JsonLines(), "of no request"))


def test_text_line_has_the_same_fields() -> None:
    record = logging.LogRecord("storefront", logging.WARNING, "", 0, "slow operation", (), None)
    record.fields = {"seconds": 1.5, "operation": "Shop", "variables": {"first": "Int"}}
    with RequestContext("r-1"):
        line = logs.TextLines().format(record)
    assert line.endswith('Z WARNING slow operation requestId=r-1 seconds=1.5 operation=Shop variables={"first":"Int"}')


@pytest.mark.parametrize(
    "words",
    [
        "authorization: Bearer kept-to-myself",
        "the token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.kept-to-myself is refused",
        "no answer from postgresql://shop:kept-to-myself@db.internal:5432/shop",
    ],
)
def test_text_that_looks_secret_is_redacted(words: str) -> None:
    for formatter in (logs.JsonLines(), logs.TextLines()):
        line = format_line(formatter, words)
        assert "kept-to-myself" not in line and logs.REDACTED in line


def test_setting_secrets_and_their_parts_are_redacted() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://shop:pass-word@db/shop"),
        secret=SecretStr("a secret of thirty-two characters"),
        authjs_secret=SecretStr("newest-secret, older-secret"),
    )
    logs.register_secrets(settings.list_secret_values())
    line = format_line(logs.JsonLines(), "pass-word; a secret of thirty-two characters; older-secret; newest-secret")
    assert json.loads(line)["message"] == "; ".join([logs.REDACTED] * 4)


def test_inputs_are_redacted_in_all_quoted_forms() -> None:
    inputs = {"email": "ada@example.com", "deep": [{"note": 'she said "yes"\n'}], "amount": 123_456, "first": 3, "is": True}
    with RequestContext("r-1", sensitive_inputs=[inputs]):
        line = format_line(logs.JsonLines(), "%r and %s", inputs, "first 3 of ada@example.com")
        line += format_line(logs.JsonLines(), "failed", error=ValueError(f"{inputs!r} {json.dumps(inputs)}"))
    assert not [value for value in ("ada@", "she said", "123456") if value in line]
    assert "first 3 of" in line and "True" in line


def test_value_cannot_inject_a_line() -> None:
    with RequestContext("r-1", sensitive_inputs=[['","level":"', '"message"', "warning"]]):
        line = json.loads(format_line(logs.JsonLines(), 'warning: {"a","level":"b"}'))
    assert line["level"] == "warning" and line["requestId"] == "r-1"


def test_failed_statement_logs_no_data(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE note (word text CONSTRAINT note_once UNIQUE)")
        connection.execute("INSERT INTO note VALUES ('confidential')")
        for statement, rendered in (
            ("INSERT INTO note VALUES ('confidential')", "constraint note_once"),
            ("SELECT 'confidential'::int", "sqlstate 22P02"),
        ):
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(statement)
            assert "confidential" in str(caught.value)
            line = format_line(logs.JsonLines(), "failed", error=caught.value)
            assert "confidential" not in line and rendered in line and type(caught.value).__name__ in line


def test_exception_is_logged_with_frames_and_causes() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ExceptionGroup("several", [ValueError("one of them")]) from error
    except ExceptionGroup as error:
        rendered = json.loads(format_line(logs.JsonLines(), "failed", error=error))["exception"]
    assert [
        word for word in ("KeyError: 'inner'", "several", "ValueError: one of them", "test_logs.py") if word not in rendered
    ] == []


def test_paths_are_logged_without_query_strings() -> None:
    args = ("1.2.3.4:5", "GET", "/graphql?variables=%7B%22email%22", "1.1", 200)
    line = format_line(logs.JsonLines(), '%s - "%s %s HTTP/%s" %d', *args, name="uvicorn.access")
    assert json.loads(line)["message"] == '1.2.3.4:5 - "GET /graphql HTTP/1.1" 200'


# ------------------------------------------------------------------------------------ values and constant text


FORMATTERS = [logs.JsonLines(), logs.TextLines()]
HIDDEN = logs.REDACTED


def format_record(
    formatter: logs.LineFormatter, template: Any, *args: object, error: BaseException | None = None, name: str = "storefront"
) -> str:
    """The line of a record with a fixed time; a single mapping holds named arguments of the template."""
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(name, logging.ERROR, "", 0, template, args, info)
    record.created = 1_800_000_000.0
    record.fields = {"seconds": 1.5, "kind": "query", "path": ["products", 0]}
    return formatter.format(record)


def build_exception(value: object, other: object = None) -> Exception:
    """An exception with frames and a cause, whose messages contain values."""
    try:
        try:
            raise RuntimeError("the file failed: a line of %s in it" % (other,))  # noqa: UP031  both ways to write values are tried
        except RuntimeError as error:
            raise ValueError(f"failed to read a line of the File, which was {value!r} or {value}") from error
    except ValueError as error:
        return error


OUR_WORDS = r"""failed File line in a f ai ailed Error ValueError RuntimeError exception error ERROR message level logger time
  requestId storefront uvicorn test_logs.py test_logs core tests py raised read which was of the seconds kind query path products
  1 0 7 27 1.5 2027 2027-01-15 .* [a-z]+ ( [ \ \d . , : " ' % %s r-1 came of: hidden [hidden] 5 s next try is them""".split()


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["json", "text"])
@pytest.mark.parametrize("is_named", [False, True])
def test_redaction_leaves_constant_text(formatter: logs.LineFormatter, is_named: bool) -> None:
    error = build_exception("x-y-z@example.com", "another value")
    template, args = "failed at %s: the next try is in %.1f s, %d of them", (logs.Verbatim(["products", 0]), 1.5, 7)
    inputs = ["x-y-z@example.com", "another value"]
    with RequestContext("r-1", sensitive_inputs=inputs):
        expected = format_record(formatter, template, *args, error=error)
    assert expected.count(HIDDEN) == 3 and "failed to read a line of the File" in expected
    for word in OUR_WORDS:
        with RequestContext("r-1", sensitive_inputs=[*inputs, {word: word} if is_named else word]):
            assert format_record(formatter, template, *args, error=error) == expected, word


def test_redaction_leaves_frames_and_access_lines() -> None:
    words = [__file__, "test_logs.py", "raised", "GET", "/graphql", "graphql", "HTTP", "1.1", "200", "::1"]
    access = '%s - "%s %s HTTP/%s" %d', "::1", "GET", "/graphql", "1.1", 200
    with RequestContext("r-1", sensitive_inputs=[{"words": words}]):
        rendered = json.loads(format_line(logs.JsonLines(), "failed", error=build_exception(1)))["exception"]
        line = json.loads(format_line(logs.JsonLines(), *access, name="uvicorn.access"))
    assert f'File "{__file__}", line ' in rendered and ", in build_exception" in rendered
    assert line["message"] == '::1 - "GET /graphql HTTP/1.1" 200'


WORDS = ["failed", "a", "42", 4_242, 42.125, ".*", "a+b(c)[d]", "\\d", 'say "no"\n', "Café ☕", "in%s", "[hidden]x", "\ud83d!"]
ID = "018f0000-0000-7000-8000-00000000000b"


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["json", "text"])
@pytest.mark.parametrize("value", [*WORDS, ID], ids=ascii)
@pytest.mark.parametrize(
    ("template", "argument"),
    [
        ("it failed: %s", str),
        ("it failed: %r", str),
        ("it failed: %s", lambda value: [{"key": [str(value)]}]),
        ("it failed: %s", lambda value: ValueError(str(value))),
        ("it failed: %r", lambda value: KeyError(str(value))),
        ("it failed: %s", lambda value: json.dumps({"key": str(value)})),
    ],
)
def test_values_are_redacted_in_every_argument(formatter: logs.LineFormatter, value: Any, template: str, argument: Any) -> None:
    with RequestContext("r-1", sensitive_inputs=[{"deep": [value]}]):
        line = format_record(formatter, template, argument(value))
    with RequestContext("r-1", sensitive_inputs=[{"deep": ["another"]}]):
        expected = format_record(formatter, template, argument(HIDDEN))
        shown = format_record(formatter, template, argument(value))
    assert line == expected != shown


@pytest.mark.parametrize("value", [value for value in [*WORDS, ID] if len(str(value)) >= logs.MIN_WORD_CHARACTERS], ids=ascii)
def test_values_are_redacted_in_library_messages(value: Any) -> None:
    with RequestContext("r-1", sensitive_inputs=[{"deep": [value]}]):
        line = json.loads(format_line(logs.JsonLines(), f"Unclosed session of {value}.", name="library"))
    assert line["message"] == f"Unclosed session of {HIDDEN}."


def test_lone_surrogates_are_logged() -> None:
    assert json.loads(format_line(logs.JsonLines(), "not given: %s", "\ud83d"))["message"] == "not given: \ud83d"


def test_non_string_arguments_are_redacted() -> None:
    with RequestContext("r-1", sensitive_inputs=[{"n": 4_242, "f": 42.125, "id": ID, "in": {"s": "Smith"}}]):
        message = json.loads(format_line(logs.JsonLines(), "%d %5.1f %s %s %s", 4_242, 42.125, Decimal("42.125"), UUID(ID), 7))[
            "message"
        ]
        named = json.loads(format_line(logs.JsonLines(), "%(failed)s: %(n)d", {"failed": "Smith", "n": 3}))["message"]
        words = json.loads(format_line(logs.JsonLines(), "no %s", f"Smith, Smithson, {ID}x, x4242, 4242"))["message"]
    assert message == f"{HIDDEN} {HIDDEN} {HIDDEN} {HIDDEN} 7"
    assert named == f"{HIDDEN}: 3"
    assert words == f"no {HIDDEN}, Smithson, {HIDDEN}x, x4242, {HIDDEN}"


def test_values_in_exceptions_are_redacted() -> None:
    with RequestContext("r-1", sensitive_inputs=[{"unused": "failed", "word": "File", "other": "Smith"}]):
        rendered = json.loads(format_line(logs.JsonLines(), "failed", error=build_exception("failed", "Smith")))["exception"]
    assert f"ValueError: failed to read a line of the File, which was '{HIDDEN}' or {HIDDEN}" in rendered
    assert f"RuntimeError: the file failed: a line of {HIDDEN} in it" in rendered


def test_inner_context_inherits_sensitive_inputs() -> None:
    with (
        RequestContext("request", sensitive_inputs=["the header's token"]),
        RequestContext("operation", sensitive_inputs=[{"v": "the variable"}]),
    ):
        line = format_line(logs.JsonLines(), "%s and %s", "the header's token", "the variable")
    assert json.loads(line)["message"] == f"{HIDDEN} and {HIDDEN}"


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["json", "text"])
@pytest.mark.parametrize("secret", ["pw", "p@s", "0pen", "pass-word", 'q"uo\\te', "p@ss/w:rd"])
def test_secrets_are_redacted_in_all_value_types(formatter: logs.LineFormatter, secret: str) -> None:
    logs.register_secrets([secret])
    words = f"no entry for {secret!r}: user=shop password={secret} host=db"
    group = ExceptionGroup("several", [RuntimeError(f"cannot take {secret!r}"), build_exception(secret, words)])
    # An input that is a part of the secret must not prevent its redaction.
    with RequestContext("r-1", sensitive_inputs=[secret[:-1], secret[1:]]):
        lines = [
            format_record(formatter, "File %s: %r", words, [f"postgresql://shop:{quote(secret, safe='')}@db/shop"], error=group),
            format_record(formatter, "File %s", OSError(words)),
            format_record(formatter, "File: " + words, name="library"),
        ]
    for line in lines:
        assert HIDDEN in line and "File" in line
        for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], json.dumps(json.dumps(secret)[1:-1])[1:-1]):
            assert form not in line


def test_fields_are_redacted() -> None:
    logs.register_secrets(["pass-word"])
    record = logging.LogRecord("storefront", logging.WARNING, "", 0, "slow operation", (), None)
    record.fields = {"variables": {"pass-word": "String", "n": [1, "pass-word"]}}
    assert json.loads(logs.JsonLines().format(record))["variables"] == {HIDDEN: "String", "n": [1, HIDDEN]}


def test_all_values_of_largest_request_are_redacted() -> None:
    inputs = {"all": [f"value number {n}" for n in range(15_000)]}
    with RequestContext("r-1", sensitive_inputs=[inputs, inputs["all"]]):
        line = format_line(logs.JsonLines(), "%s, %s", "value number 0", "value number 14999")
    assert json.loads(line)["message"] == f"{HIDDEN}, {HIDDEN}"


def test_postgres_messages_without_values_remain(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.UndefinedColumn) as column:
            connection.execute("SELECT t.absent FROM (SELECT 1) AS t")
        with pytest.raises(psycopg.errors.SyntaxError) as query:
            connection.execute("SELECT to_tsquery(%s)", ["confidential word"])
    with RequestContext("r-1", sensitive_inputs=["column", "exist", "syntax", "error", "confidential word"]):
        lines = [format_line(logs.JsonLines(), "failed", error=caught.value) for caught in (column, query)]
    assert "column t.absent does not exist" in lines[0]
    assert f'syntax error in tsquery: \\"{HIDDEN}\\"' in lines[1]
