"""Helpers of the groups of settings: comma-separated lists, rates, and files with a generated secret."""

import time
from collections.abc import Callable
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from pydantic import SecretStr
from throttled.exceptions import BaseThrottledError
from throttled.rate_limiter.quota_parser import parse as parse_quota

from storefront.core.private_files import open_private

# Hosts that name this machine. Unencrypted connections are allowed to these alone.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_RATE_PROBLEM = 'must be one rate, such as 600/m burst 100 (a number per s, m, h or d, and a burst), or "off"'


def split_list(value: str | SecretStr | None) -> list[str]:
    """The items of a comma-separated value, stripped; empty items are dropped."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
    return [item.strip() for item in text.split(",") if item.strip()]


def normalize_rate(rate: str | None) -> str | None:
    """The rate, or None where rate limiting is switched off."""
    return None if rate is None or rate.strip().lower() in ("", "off") else rate


def validate_rate(rate: str | None) -> str | None:
    """The rate as given; raises ValueError unless it is a single rate or "off"."""
    try:
        if normalize_rate(rate) and len(parse_quota(rate or "")) != 1:
            raise ValueError(_RATE_PROBLEM)
    except BaseThrottledError:
        raise ValueError(_RATE_PROBLEM) from None
    return rate


def parse_ipv4_network(text: str) -> IPv4Network | None:
    """The IPv4 network or address; None for IPv6 and for `*`."""
    network = None if text == "*" else ip_network(text)
    return network if isinstance(network, IPv4Network) else None


def load_or_create(path: Path, create: Callable[[], str]) -> str:
    """The text of a file that only this user can read, created on first use. Raises RuntimeError where it stays empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Exclusive creation ("x"): when several processes start at once, exactly one of them writes.
        with open(path, "x", opener=open_private) as file:
            file.write(create())
    except FileExistsError:
        pass
    for _ in range(50):
        content = path.read_text().strip()
        if content:
            return content
        # The process that created the file has not written to it yet.
        time.sleep(0.02)
    # An empty key must never be used for signing or encryption.
    raise RuntimeError(f"{path} is empty: the process that created it was stopped before it wrote. Remove the file, start again.")
