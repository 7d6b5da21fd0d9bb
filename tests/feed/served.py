"""Runs the command line in a process that is forked from one that has imported everything."""

import gc
import multiprocessing
import os
import signal
import sys
from importlib import import_module

import uvicorn._subprocess
from uvicorn.supervisors.multiprocess import SIGNALS

from storefront.cli.main import app
from storefront.core.build_id import compute_build_id
from storefront.core.memory import pause_garbage_collection
from storefront.core.net.tls import load_tls_context
from storefront.core.settings import get_settings

# What the command imports when it runs.
with pause_garbage_collection():
    for name in ("storefront.cli.serve", "storefront.cli.users", "storefront.server", "storefront.app"):
        import_module(name)
# What is computed once per process.
load_tls_context()
compute_build_id()
gc.collect()
gc.freeze()


def run_command(command: list[str], environment: dict[str, str], log: str, output: str = os.devnull) -> None:
    """Run a command in this process, which exits with its code.

    What it writes to its standard error is added to the log, and what it writes to its standard output to `output`.
    """
    os.environ.clear()
    os.environ.update(environment)
    get_settings.cache_clear()
    for path, descriptor in ((output, 1), (log, 2)):
        with open(path, "ab") as file:
            os.dup2(file.fileno(), descriptor)
    # Worker processes are forked as well. They begin without the handlers of the supervisor.
    uvicorn._subprocess.spawn = multiprocessing.get_context("fork")  # type: ignore[assignment]
    os.register_at_fork(after_in_child=_reset_signals)
    sys.argv = command
    app()


def _reset_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
