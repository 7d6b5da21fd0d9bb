"""Processes that are forked from one that has imported everything: they start within milliseconds."""

import multiprocessing

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["tests.analytics.counting", "tests.imports.workers", "tests.feed.served"])
