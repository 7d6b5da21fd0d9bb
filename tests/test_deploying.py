"""Dockerfile, compose.yaml, the systemd unit and the documentation of deployment agree with the code."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from storefront.core.settings import Settings

ROOT = Path(__file__).parents[1]
FILES = ("Dockerfile", "compose.yaml", "deploy/storefront.service", "docs/deploying.md", "docs/observing.md")


def text(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("name", FILES)
def test_deployment_files_set_existing_settings_only(name: str) -> None:
    known = {f"STOREFRONT_{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(r"\bSTOREFRONT_[A-Z0-9_]+", text(name))) <= known


def test_dockerfile_sources_exist_and_are_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+)$", text("Dockerfile"), re.MULTILINE)
    sources = [word for line in copied for word in line.split()[:-1]]
    let_through = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    assert sources and [source for source in sources if not (ROOT / source).exists()] == []
    assert set(sources) == let_through


def pins(name: str) -> list[str]:
    """The locked versions of a requirements file, each with hashes."""
    return re.findall(r"^([\w.-]+==\S+)(?: ;.*)? \\$\n    --hash=", text(name), re.MULTILINE)


def test_image_installs_the_locked_tested_versions() -> None:
    servers = pins("requirements-server.txt")
    assert set(servers) <= set(pins("requirements-dev.txt"))
    assert len(servers) == len(re.findall(r"^\w", text("requirements-server.txt"), re.MULTILINE))
    assert {"redis", "botocore", "opentelemetry-sdk", "prometheus-client"} <= {pin.partition("==")[0] for pin in servers}


def test_services_have_dependencies_and_no_privileges() -> None:
    services: Any = yaml.safe_load(text("compose.yaml"))["services"]
    assert services["storefront"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    for name in ("migrate", "storefront"):
        assert services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"]
        assert set(services[name]["depends_on"]) <= set(services)
    assert all("healthcheck" in service for name, service in services.items() if name != "storefront")
    assert services["storefront"]["ports"] == ["127.0.0.1:8000:8000"]
