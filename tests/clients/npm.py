"""Installs the npm packages of the clients, once for all tests."""

import asyncio
import hashlib
import json
import os
import re
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from fasteners import InterProcessLock

from storefront.serving.graphiql import assets

CLIENTS = Path(__file__).parents[2] / "clients"
LOCKS = CLIENTS.parent / ".storefront"
# Seconds that anything may take.
TIMEOUT_SECONDS = 30


def installed(folder: Path) -> Path:
    """The path of Node, with the folder's locked packages installed; skips if they cannot be downloaded."""
    stamp = folder / "node_modules" / ".installed"
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    # Several processes run tests, and several runs may be under way: each has a folder for temporary files of its own.
    LOCKS.mkdir(exist_ok=True)
    with InterProcessLock(LOCKS / f"npm-{hashlib.sha256(bytes(folder)).hexdigest()[:16]}.lock"):
        if not stamp.is_file() or stamp.read_text() != wanted:
            try:
                assets.run_npm_ci(folder)
            except assets.InstallError as error:
                pytest.skip(f"the npm packages of {folder.name}/ cannot be fetched: {error}")
            stamp.write_text(wanted)
    return assets.find_node_and_npm()[0]


def environment() -> dict[str, str]:
    """The environment of this process without proxies: the server is local."""
    return {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}


async def lines(node: Path, *command: str) -> list[Any]:
    """The lines that a script prints, parsed as JSON."""
    process = await asyncio.create_subprocess_exec(str(node), *command, stdout=PIPE, stderr=PIPE, env=environment())
    async with asyncio.timeout(TIMEOUT_SECONDS):
        said, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return [json.loads(line) for line in said.splitlines()]


def marked(path: Path) -> str:
    """The part of a file that the guide contains."""
    found = re.search(r"^(?://|#) \[guide\]\n(.*)^(?://|#) \[/guide\]\n", path.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{path} marks nothing for the guide"
    return found[1].rstrip()
