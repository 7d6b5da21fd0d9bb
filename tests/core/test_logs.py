"""What lines of the log look like, and what stands in none of them."""

import json
import logging
from collections.abc import Iterator

import psycopg
import pytest
from pydantic import SecretStr

from storefront.core import logs
from storefront.core.activity import Activity
from storefront.core.settings import Settings


def line_of(
    formatter: logs.Lines, message: str, *args: object, error: BaseException | None = None, name: str = "storefront"
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
    with Activity("r-1"):
        line = json.loads(line_of(logs.JsonLines(), "%s things", 3))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "storefront", "message": "3 things", "requestId": "r-1"}
    assert "requestId" not in json.loads(line_of(logs.JsonLines(), "of no request"))


def test_lines_of_text_say_the_same() -> None:
    record = logging.LogRecord("storefront", logging.WARNING, "", 0, "slow operation", (), None)
    record.fields = {"seconds": 1.5, "operation": "Shop", "variables": {"first": "Int"}}
    with Activity("r-1"):
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
        assert "kept-to-myself" not in line and logs.HIDDEN in line


def test_secrets_of_the_settings_are_hidden_each_part_by_itself() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://shop:pass-word@db/shop"),
        secret=SecretStr("a secret of thirty-two characters"),
        authjs_secret=SecretStr("newest-secret, older-secret"),
    )
    logs.hide(settings.secret_words())
    line = line_of(logs.JsonLines(), "pass-word; a secret of thirty-two characters; older-secret; newest-secret")
    assert json.loads(line)["message"] == "; ".join([logs.HIDDEN] * 4)


def test_what_was_asked_with_is_hidden_however_it_is_quoted() -> None:
    given = {"email": "ada@example.com", "deep": [{"note": 'she said "yes"\n'}], "amount": 123_456, "first": 3, "is": True}
    with Activity("r-1", asked=[given]):
        line = line_of(logs.JsonLines(), "%r and %s", given, "first 3 of ada@example.com")
        line += line_of(logs.JsonLines(), "failed", error=ValueError(f"{given!r} {json.dumps(given)}"))
    assert not [value for value in ("ada@", "she said", "123456") if value in line]
    assert "first 3 of" in line and "True" in line


def test_a_value_cannot_break_a_line() -> None:
    with Activity("r-1", asked=[['","level":"', '"message"', "warning"]]):
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
