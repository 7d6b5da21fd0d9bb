"""Manifests of trusted documents, as the build tools of front ends write them: Apollo, Relay, GraphQL Code Generator."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

APOLLO_FORMAT = "apollo-persisted-query-manifest"
SUPPORTED_FORMATS = f'{{"id": "text", …}}, or {{"format": "{APOLLO_FORMAT}", "version": 1, "operations": [{{"id", "body"}}, …]}}'


class ManifestError(Exception):
    """Raised for a manifest that cannot be read, or that has an invalid document. The message names the manifest or document."""


def load_manifests(paths: Iterable[Path]) -> dict[str, str]:
    """Load the documents of all manifests, by id. Raises ManifestError."""
    documents: dict[str, str] = {}
    for path in paths:
        for id_, text in _load_manifest(path).items():
            if documents.setdefault(id_, text) != text:
                raise ManifestError(f"{path}: another manifest has another document under the id {id_[:100]!r}.")
    return documents


def _load_manifest(path: Path) -> Mapping[str, str]:
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}.") from None
    except orjson.JSONDecodeError as error:
        raise ManifestError(f"{path} is not JSON: {error}.") from None
    documents = (
        _parse_apollo_manifest(path, content) if isinstance(content, dict) and content.get("format") == APOLLO_FORMAT else content
    )
    if not isinstance(documents, dict) or not all(isinstance(text, str) for text in documents.values()):
        raise ManifestError(f"{path} is no manifest of documents. Such are {SUPPORTED_FORMATS}.")
    return documents


def _parse_apollo_manifest(path: Path, manifest: Mapping[str, Any]) -> Any:
    if manifest.get("version") != 1:
        raise ManifestError(f"{path} has version {manifest.get('version')!r} of Apollo's manifest; version 1 is known.")
    try:
        documents: dict[str, Any] = {}
        for operation in manifest["operations"]:
            if documents.setdefault(str(operation["id"]), operation["body"]) != operation["body"]:
                raise ManifestError(f"{path} has two documents under the id {operation['id'][:100]!r}.")
    except (KeyError, TypeError):
        return None
    return documents
