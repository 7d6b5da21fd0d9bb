"""A pytest plugin for graphql-core's own tests: makes the breadth-first executor the default, and counts its uses."""

import atexit
import gc
import os
import sys
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import graphql.execution  # noqa: F401 - the module below is a part of it

from storefront.execution.executor import BreadthFirstExecutor
from storefront.execution.plan import DocumentPlans

USED = {"composite": 0}


class Counting(BreadthFirstExecutor[Any]):
    """Counts the values that it completes. Built twice, so that what is found out the first time is used."""

    @classmethod
    def build(cls, *arguments: Any, **named: Any) -> Any:
        """An executor, or errors."""
        plans = DocumentPlans()
        super().build(*arguments, plans=plans, **named)
        return super().build(*arguments, plans=plans, **named)

    def complete_value(self, *arguments: Any) -> Any:
        """Complete a value."""
        USED["composite"] += 1
        return super().complete_value(*arguments)


def _take_over(function: Any) -> None:
    named = [one.name for one in signature(function).parameters.values() if one.default is not Parameter.empty]
    defaults = list(function.__defaults__)
    defaults[named.index("executor_class")] = Counting
    function.__defaults__ = tuple(defaults)


for _name in ("execute", "execute_sync", "subscribe"):
    _take_over(getattr(sys.modules["graphql.execution.execute"], _name))

atexit.register(lambda: Path(os.environ["STOREFRONT_USED"]).write_text(str(USED["composite"])))


def pytest_collection_finish() -> None:
    """Many of the tests collect garbage, in which what is imported has no part."""
    gc.collect()
    gc.freeze()
