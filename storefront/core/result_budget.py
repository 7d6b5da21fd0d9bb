"""Bounds what one operation reads and returns: the bytes of its rows while they arrive, and of its response before it is encoded.

A response is refused when it is too large. Without these bounds it would exist by then: as rows, as objects and as JSON, many
times as large as the limit where values are repeated (docs/adr/result-budgets.md).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import orjson

from storefront.core.errors import LimitExceeded, RequestError, Unavailable

# Rows of up to so many bytes are never refused: statements that precede a write are among them.
SMALL_RESULT_BYTES = 65_536
# Beyond this part of the limit, values are counted in bytes of JSON instead of characters, of which each is up to six bytes.
EXACT_COUNT_DIVISOR = 8

_ROW_PROBLEM = "The rows that this reads are too large. Select fewer fields or ask for shorter pages"
_CROWDED_MESSAGE = "Too many large responses are in progress. Ask for shorter pages, or try again soon."


class ResultBudget:
    """What one operation has read and what it returns, in bytes. The errors are the first of each kind.

    The rows of a statement that is refused are given back, so that later small statements are executed.
    """

    __slots__ = ("_budgets", "_is_released", "_max_bytes", "response_bytes", "response_error", "row_bytes", "row_error")

    def __init__(self, budgets: "ResultBudgets", max_bytes: int) -> None:
        self._budgets, self._max_bytes, self._is_released = budgets, max_bytes, False
        self.row_bytes = self.response_bytes = 0
        self.row_error: RequestError | None = None
        self.response_error: RequestError | None = None

    @property
    def error(self) -> RequestError | None:
        """Why rows or the response were refused; None if they were not."""
        return self.row_error or self.response_error

    @property
    def min_exact_bytes(self) -> int:
        """Results of which more was counted while they arrived have to be counted exactly: there may be a multiple of it."""
        return self._max_bytes // EXACT_COUNT_DIVISOR // 2

    def charge_rows(self, count: int, batch_bytes: int) -> None:
        """Count bytes of rows that arrive; `batch_bytes` are those of the same batch of statements so far.

        Raises LimitExceeded, and Unavailable if all operations together have too many and this one more than its share.
        """
        if self._is_released:
            return
        self.row_bytes += count
        self._budgets.row_bytes += count
        if batch_bytes > SMALL_RESULT_BYTES:
            if self.row_bytes > self._max_bytes:
                self.row_error = self.row_error or LimitExceeded("rowBytes", self._max_bytes, None, _ROW_PROBLEM, "bytes")
                raise self.row_error
            if self._budgets.is_exceeded_by(self.row_bytes):
                self.row_error = self.row_error or Unavailable(_CROWDED_MESSAGE)
                raise self.row_error

    def return_rows(self, count: int) -> None:
        """Give bytes of rows back that were dropped."""
        if not self._is_released:
            self.row_bytes -= count
            self._budgets.row_bytes -= count

    def charge_texts(self, values: Sequence[str | None]) -> None:
        """Count texts of the response. Raises LimitExceeded."""
        characters = sum(map(len, filter(None, values)))
        if self.response_bytes + characters <= self._max_bytes // EXACT_COUNT_DIVISOR:
            self.response_bytes += characters
        else:
            self._charge_each(values, _measure_json)

    def charge_json(self, texts: Sequence[str]) -> None:
        """Count JSON texts of the response. Raises LimitExceeded."""
        characters = sum(map(len, texts))
        if self.response_bytes + characters <= self._max_bytes // EXACT_COUNT_DIVISOR:
            self.response_bytes += characters
        else:
            self._charge_each(texts, _measure_text)

    def charge_values(self, values: Sequence[Any]) -> None:
        """Count values of the response, of any class. Raises LimitExceeded."""
        classes = set(map(type, values)) - _SHORT_CLASSES
        if classes == {str}:
            self.charge_texts(values)
        elif classes:
            self._charge_each(values, _measure_json)

    def _charge_each(self, values: Sequence[Any], measure: Callable[[Any], int]) -> None:
        # A value is measured once, however often it is in the response.
        sizes: dict[int, int] = {}
        for value in values:
            size = sizes.get(id(value))
            if size is None:
                size = sizes[id(value)] = measure(value)
            self.response_bytes += size
            if self.response_bytes > self._max_bytes:
                self.response_error = create_response_error(self._max_bytes)
                raise self.response_error

    def release(self) -> None:
        """The operation has ended. What still runs in its context counts no more."""
        self.return_rows(self.row_bytes)
        self._is_released = True


class ResultBudgets:
    """The budgets of a process. Each operation may read `max_bytes` of rows and return as many, all may hold `max_total_bytes`.

    Beyond that, those are refused that read more than `share_bytes`.
    """

    def __init__(self, max_bytes: int, max_total_bytes: int, share_bytes: int) -> None:
        self._max_bytes, self._max_total_bytes, self._share_bytes = max_bytes, max_total_bytes, share_bytes
        self.row_bytes = 0

    def is_exceeded_by(self, row_bytes: int) -> bool:
        """Whether an operation that has read so much has to be refused."""
        return self.row_bytes > self._max_total_bytes and row_bytes > self._share_bytes

    @contextmanager
    def limit_operation(self) -> Iterator[ResultBudget]:
        """The budget of an operation, for all that runs inside the context."""
        budget = ResultBudget(self, self._max_bytes)
        token = _CURRENT.set(budget)
        try:
            yield budget
        finally:
            _CURRENT.reset(token)
            budget.release()


def get_current_budget() -> ResultBudget | None:
    """The budget of the current operation; None outside of one, such as in exports and jobs."""
    return _CURRENT.get()


_CURRENT: ContextVar[ResultBudget | None] = ContextVar("result_budget", default=None)


def create_response_error(max_bytes: int, size: int | None = None, *, is_mutation: bool = False) -> LimitExceeded:
    """The error of a response that is too large; `size` is None if it was not encoded."""
    mutation_note = " The mutation is done." if is_mutation else ""
    problem = f"The response is too large.{mutation_note} Select fewer fields or ask for shorter pages"
    return LimitExceeded("responseBytes", max_bytes, size, problem, "bytes")


# Of values with a few bytes each.
_SHORT_CLASSES = {bool, int, float, type(None)}


def _measure_text(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _measure_json(value: Any) -> int:
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError:
        # Encoding the response reports it.
        return 0
