"""What lines of the log look like, and what stands in none of them."""

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


def line_of(
    formatter: logs.LineFormatter, message: str, *args: object, error: BaseException | None = None, name: str = "storefront"
) -> str:
    told = (type(error), error, error.__traceback__) if error else None
    return formatter.format(logging.LogRecord(name, logging.WARNING, "", 0, message, args, told))


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    before = set(logs._secrets)
    yield
    logs._secrets.clear()
    logs._secrets.update(before)


def test_lines_of_json_name_time_level_logger_message_and_request() -> None:
    with RequestContext("r-1"):
        line = json.loads(line_of(logs.JsonLines(), "%s things", 3))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "storefront", "message": "3 things", "requestId": "r-1"}
    assert "requestId" not in json.loads(line_of(logs.JsonLines(), "of no request"))


def test_lines_of_text_say_the_same() -> None:
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
def test_what_looks_like_a_secret_is_hidden(words: str) -> None:
    for formatter in (logs.JsonLines(), logs.TextLines()):
        line = line_of(formatter, words)
        assert "kept-to-myself" not in line and logs.REDACTED in line


def test_secrets_of_the_settings_are_hidden_each_part_by_itself() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://shop:pass-word@db/shop"),
        secret=SecretStr("a secret of thirty-two characters"),
        authjs_secret=SecretStr("newest-secret, older-secret"),
    )
    logs.register_secrets(settings.list_secret_values())
    line = line_of(logs.JsonLines(), "pass-word; a secret of thirty-two characters; older-secret; newest-secret")
    assert json.loads(line)["message"] == "; ".join([logs.REDACTED] * 4)


def test_what_was_asked_with_is_hidden_however_it_is_quoted() -> None:
    given = {"email": "ada@example.com", "deep": [{"note": 'she said "yes"\n'}], "amount": 123_456, "first": 3, "is": True}
    with RequestContext("r-1", sensitive_inputs=[given]):
        line = line_of(logs.JsonLines(), "%r and %s", given, "first 3 of ada@example.com")
        line += line_of(logs.JsonLines(), "failed", error=ValueError(f"{given!r} {json.dumps(given)}"))
    assert not [value for value in ("ada@", "she said", "123456") if value in line]
    assert "first 3 of" in line and "True" in line


def test_a_value_cannot_break_a_line() -> None:
    with RequestContext("r-1", sensitive_inputs=[['","level":"', '"message"', "warning"]]):
        line = json.loads(line_of(logs.JsonLines(), 'warning: {"a","level":"b"}'))
    assert line["level"] == "warning" and line["requestId"] == "r-1"


def test_of_a_failed_statement_no_data_is_told(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE note (word text CONSTRAINT note_once UNIQUE)")
        connection.execute("INSERT INTO note VALUES ('confidential')")
        for statement, told in (
            ("INSERT INTO note VALUES ('confidential')", "constraint note_once"),
            ("SELECT 'confidential'::int", "sqlstate 22P02"),
        ):
            with pytest.raises(psycopg.Error) as raised:
                connection.execute(statement)
            assert "confidential" in str(raised.value)
            line = line_of(logs.JsonLines(), "failed", error=raised.value)
            assert "confidential" not in line and told in line and type(raised.value).__name__ in line


def test_an_exception_is_told_with_where_it_comes_from_and_what_led_to_it() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ExceptionGroup("several", [ValueError("one of them")]) from error
    except ExceptionGroup as error:
        told = json.loads(line_of(logs.JsonLines(), "failed", error=error))["exception"]
    assert [
        word for word in ("KeyError: 'inner'", "several", "ValueError: one of them", "test_logs.py") if word not in told
    ] == []


def test_paths_are_logged_without_what_they_ask() -> None:
    args = ("1.2.3.4:5", "GET", "/graphql?variables=%7B%22email%22", "1.1", 200)
    line = line_of(logs.JsonLines(), '%s - "%s %s HTTP/%s" %d', *args, name="uvicorn.access")
    assert json.loads(line)["message"] == '1.2.3.4:5 - "GET /graphql HTTP/1.1" 200'


# ------------------------------------------------------------------------------------ values, and words of ours


FORMATTERS = [logs.JsonLines(), logs.TextLines()]
HIDDEN = logs.REDACTED


def formatted(
    formatter: logs.LineFormatter, template: Any, *args: object, error: BaseException | None = None, name: str = "storefront"
) -> str:
    """The line of a record that was made at a fixed time; a single mapping is what its template names."""
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(name, logging.ERROR, "", 0, template, args, info)
    record.created = 1_800_000_000.0
    record.fields = {"seconds": 1.5, "kind": "query", "path": ["products", 0]}
    return formatter.format(record)


def raised(value: object, other: object = None) -> Exception:
    """An exception with frames and a cause, whose messages have values amid words of ours."""
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
def test_redaction_leaves_words_of_ours(formatter: logs.LineFormatter, is_named: bool) -> None:
    error = raised("x-y-z@example.com", "another value")
    template, args = "failed at %s: the next try is in %.1f s, %d of them", (logs.Verbatim(["products", 0]), 1.5, 7)
    given = ["x-y-z@example.com", "another value"]
    with RequestContext("r-1", sensitive_inputs=given):
        expected = formatted(formatter, template, *args, error=error)
    assert expected.count(HIDDEN) == 3 and "failed to read a line of the File" in expected
    for word in OUR_WORDS:
        with RequestContext("r-1", sensitive_inputs=[*given, {word: word} if is_named else word]):
            assert formatted(formatter, template, *args, error=error) == expected, word


def test_redaction_leaves_frames_and_access_lines() -> None:
    words = [__file__, "test_logs.py", "raised", "GET", "/graphql", "graphql", "HTTP", "1.1", "200", "::1"]
    access = '%s - "%s %s HTTP/%s" %d', "::1", "GET", "/graphql", "1.1", 200
    with RequestContext("r-1", sensitive_inputs=[{"words": words}]):
        told = json.loads(line_of(logs.JsonLines(), "failed", error=raised(1)))["exception"]
        line = json.loads(line_of(logs.JsonLines(), *access, name="uvicorn.access"))
    assert f'File "{__file__}", line ' in told and ", in raised" in told
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
def test_values_are_hidden_wherever_they_are_values(
    formatter: logs.LineFormatter, value: Any, template: str, argument: Any
) -> None:
    with RequestContext("r-1", sensitive_inputs=[{"deep": [value]}]):
        line = formatted(formatter, template, argument(value))
    with RequestContext("r-1", sensitive_inputs=[{"deep": ["another"]}]):
        expected = formatted(formatter, template, argument(HIDDEN))
        shown = formatted(formatter, template, argument(value))
    assert line == expected != shown


@pytest.mark.parametrize("value", [value for value in [*WORDS, ID] if len(str(value)) >= logs.MIN_WORD_CHARACTERS], ids=ascii)
def test_values_are_hidden_in_messages_of_libraries(value: Any) -> None:
    with RequestContext("r-1", sensitive_inputs=[{"deep": [value]}]):
        line = json.loads(line_of(logs.JsonLines(), f"Unclosed session of {value}.", name="library"))
    assert line["message"] == f"Unclosed session of {HIDDEN}."


def test_lone_surrogates_lose_no_line() -> None:
    assert json.loads(line_of(logs.JsonLines(), "not given: %s", "\ud83d"))["message"] == "not given: \ud83d"


def test_arguments_that_are_no_text_are_hidden() -> None:
    with RequestContext("r-1", sensitive_inputs=[{"n": 4_242, "f": 42.125, "id": ID, "in": {"s": "Smith"}}]):
        message = json.loads(line_of(logs.JsonLines(), "%d %5.1f %s %s %s", 4_242, 42.125, Decimal("42.125"), UUID(ID), 7))[
            "message"
        ]
        named = json.loads(line_of(logs.JsonLines(), "%(failed)s: %(n)d", {"failed": "Smith", "n": 3}))["message"]
        words = json.loads(line_of(logs.JsonLines(), "no %s", f"Smith, Smithson, {ID}x, x4242, 4242"))["message"]
    assert message == f"{HIDDEN} {HIDDEN} {HIDDEN} {HIDDEN} 7"
    assert named == f"{HIDDEN}: 3"
    assert words == f"no {HIDDEN}, Smithson, {HIDDEN}x, x4242, {HIDDEN}"


def test_values_in_exceptions_are_hidden_amid_our_words() -> None:
    with RequestContext("r-1", sensitive_inputs=[{"unused": "failed", "word": "File", "other": "Smith"}]):
        told = json.loads(line_of(logs.JsonLines(), "failed", error=raised("failed", "Smith")))["exception"]
    assert f"ValueError: failed to read a line of the File, which was '{HIDDEN}' or {HIDDEN}" in told
    assert f"RuntimeError: the file failed: a line of {HIDDEN} in it" in told


def test_inner_activities_know_what_outer_ones_were_given() -> None:
    with (
        RequestContext("request", sensitive_inputs=["the header's token"]),
        RequestContext("operation", sensitive_inputs=[{"v": "the variable"}]),
    ):
        line = line_of(logs.JsonLines(), "%s and %s", "the header's token", "the variable")
    assert json.loads(line)["message"] == f"{HIDDEN} and {HIDDEN}"


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["json", "text"])
@pytest.mark.parametrize("secret", ["pw", "p@s", "0pen", "pass-word", 'q"uo\\te', "p@ss/w:rd"])
def test_secrets_are_hidden_in_values_of_any_kind(formatter: logs.LineFormatter, secret: str) -> None:
    logs.register_secrets([secret])
    words = f"no entry for {secret!r}: user=shop password={secret} host=db"
    group = ExceptionGroup("several", [RuntimeError(f"cannot take {secret!r}"), raised(secret, words)])
    # A part of it that was given hides nothing of the rest.
    with RequestContext("r-1", sensitive_inputs=[secret[:-1], secret[1:]]):
        lines = [
            formatted(formatter, "File %s: %r", words, [f"postgresql://shop:{quote(secret, safe='')}@db/shop"], error=group),
            formatted(formatter, "File %s", OSError(words)),
            formatted(formatter, "File: " + words, name="library"),
        ]
    for line in lines:
        assert HIDDEN in line and "File" in line
        for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], json.dumps(json.dumps(secret)[1:-1])[1:-1]):
            assert form not in line


def test_fields_have_no_secrets() -> None:
    logs.register_secrets(["pass-word"])
    record = logging.LogRecord("storefront", logging.WARNING, "", 0, "slow operation", (), None)
    record.fields = {"variables": {"pass-word": "String", "n": [1, "pass-word"]}}
    assert json.loads(logs.JsonLines().format(record))["variables"] == {HIDDEN: "String", "n": [1, HIDDEN]}


def test_no_value_of_a_full_request_is_overlooked() -> None:
    given = {"all": [f"value number {n}" for n in range(15_000)]}
    with RequestContext("r-1", sensitive_inputs=[given, given["all"]]):
        line = line_of(logs.JsonLines(), "%s, %s", "value number 0", "value number 14999")
    assert json.loads(line)["message"] == f"{HIDDEN}, {HIDDEN}"


def test_words_of_postgres_are_left_where_values_are_not(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.UndefinedColumn) as column:
            connection.execute("SELECT t.absent FROM (SELECT 1) AS t")
        with pytest.raises(psycopg.errors.SyntaxError) as query:
            connection.execute("SELECT to_tsquery(%s)", ["confidential word"])
    with RequestContext("r-1", sensitive_inputs=["column", "exist", "syntax", "error", "confidential word"]):
        lines = [line_of(logs.JsonLines(), "failed", error=raised.value) for raised in (column, query)]
    assert "column t.absent does not exist" in lines[0]
    assert f'syntax error in tsquery: \\"{HIDDEN}\\"' in lines[1]
