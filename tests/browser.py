"""A headless Chromium, controlled over the DevTools protocol, that can reach this machine only."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install one, or name it in the variable CHROMIUM")


class Browser:
    """A page of the browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.sent = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: object) -> dict[str, Any]:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv(timeout=30))).get("id") != self.sent:
            self.events.append(message)
        assert "error" not in message, message
        return cast(dict[str, Any], message["result"])

    def run(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> Any:
        """Wait until the script returns a truthy value; returns that value."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"{script} did not become true; page: {self.run('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def asked(self) -> list[str]:
        """The URLs of all requests so far."""
        return [event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[Any]:
        """Problems that the browser has reported: policy violations, failed requests, exceptions."""
        return [event["params"] for event in self.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]


@contextmanager
def chromium(profile: Path) -> Iterator[ClientConnection]:
    """Run a browser; yields the DevTools connection to its page."""
    flags = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0"]
    flags += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1400,900"]
    # Chromium cannot sandbox as root, the user of tests in most containers.
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    process = subprocess.Popen([str(CHROMIUM), *flags, "about:blank"], stderr=subprocess.DEVNULL)
    try:
        with connect(_page_address(profile), max_size=None) as socket:
            yield socket
    finally:
        process.terminate()
        process.wait(10)


def watched(page: Browser) -> None:
    """Enable the events of what the page loads and logs."""
    for domain in ("Page", "Network", "Log", "Runtime"):
        page.call(f"{domain}.enable")


def _page_address(profile: Path) -> str:
    deadline = time.monotonic() + 30
    while not (written := profile / "DevToolsActivePort").is_file() or len(written.read_text().splitlines()) < 2:
        assert time.monotonic() < deadline, "Chromium did not start"
        time.sleep(0.05)
    with urlopen(f"http://127.0.0.1:{written.read_text().splitlines()[0]}/json/list") as answer:
        return next(str(target["webSocketDebuggerUrl"]) for target in json.load(answer) if target["type"] == "page")
