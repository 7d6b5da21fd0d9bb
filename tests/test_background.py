"""Periodic jobs."""

import asyncio
import logging

import pytest

from storefront import background
from storefront.background import PeriodicJob
from storefront.core.errors import Unavailable
from storefront.core.tasks import running_tasks


@pytest.mark.parametrize(("error", "level"), [(Unavailable("busy"), logging.WARNING), (ValueError("a bug"), logging.ERROR)])
async def test_failed_job_is_logged_and_runs_again(error: Exception, level: int, caplog: pytest.LogCaptureFixture) -> None:
    has_run_again, runs = asyncio.Event(), 0

    async def fail_once() -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise error
        has_run_again.set()
        return 0

    async with running_tasks(background._run_periodically(PeriodicJob("count", fail_once, 0.01))):
        await asyncio.wait_for(has_run_again.wait(), 5)
    logged = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "storefront"]
    assert (level, "count failed; retrying in 0.01 s") in logged
