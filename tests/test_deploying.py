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
    [port] = services["storefront"]["ports"]
    assert re.sub(r"\$\{\w+:-(\w+)\}", r"\1", port) == "127.0.0.1:8000:8000"


def test_services_get_every_setting_of_env_file() -> None:
    services: Any = yaml.safe_load(text("compose.yaml"))["services"]
    for name in ("migrate", "storefront"):
        assert services[name]["env_file"] == ".env"
        # What is listed overrides the file: only with the file's own value, or with a default.
        for setting, value in services[name]["environment"].items():
            assert value.startswith((f"${{{setting}:-", f"${{{setting}:?"))


def test_images_are_pinned_by_digest() -> None:
    services: Any = yaml.safe_load(text("compose.yaml"))["services"]
    images = [service["image"] for service in services.values() if "build" not in service]
    images += re.findall(r"^FROM (\S+)", text("Dockerfile"), re.MULTILINE)
    assert len(images) > 5
    assert [image for image in images if not re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image)] == []


def test_profiles_are_optional_and_documented() -> None:
    services: Any = yaml.safe_load(text("compose.yaml"))["services"]
    profiles = {name: service.get("profiles", []) for name, service in services.items()}
    assert {name for name, found in profiles.items() if not found} == {"migrate", "storefront", "postgres"}
    for name, service in services.items():
        for needed, condition in service.get("depends_on", {}).items():
            assert set(profiles[needed]) <= set(profiles[name]) or condition["required"] is False
    listed = re.findall(r"^\| `([a-z]+)` \|", text("docs/deploying.md"), re.MULTILINE)
    assert {profile for found in profiles.values() for profile in found} == set(listed)
