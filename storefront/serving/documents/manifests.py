"""Manifests of trusted documents, as front ends' build tools write them: Apollo's, Relay's, GraphQL Code Generator's."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

APOLLO = "apollo-persisted-query-manifest"
FORMATS = f'{{"id": "text", …}}, or {{"format": "{APOLLO}", "version": 1, "operations": [{{"id", "body"}}, …]}}'


class UnusableManifest(Exception):
    """A manifest that cannot be read, or a document of one that cannot be run. The message names it."""


def read(paths: Iterable[Path]) -> dict[str, str]:
    """The documents of all these files by their ids. Raises UnusableManifest."""
    found: dict[str, str] = {}
    for path in paths:
        for id_, text in _documents(path).items():
            if found.setdefault(id_, text) != text:
                raise UnusableManifest(f"{path}: another manifest has another document under the id {id_[:100]!r}.")
    return found


def _documents(path: Path) -> Mapping[str, str]:
    try:
        given = orjson.loads(path.read_bytes())
    except OSError as error:
        raise UnusableManifest(f"{path} cannot be read: {error.strerror}.") from None
    except orjson.JSONDecodeError as error:
        raise UnusableManifest(f"{path} is not JSON: {error}.") from None
    documents = _of_apollo(path, given) if isinstance(given, dict) and given.get("format") == APOLLO else given
    if not isinstance(documents, dict) or not all(isinstance(text, str) for text in documents.values()):
        raise UnusableManifest(f"{path} is no manifest of documents. Such are {FORMATS}.")
    return documents


def _of_apollo(path: Path, given: Mapping[str, Any]) -> Any:
    if given.get("version") != 1:
        raise UnusableManifest(f"{path} has version {given.get('version')!r} of Apollo's manifest; version 1 is known.")
    try:
        documents: dict[str, Any] = {}
        for operation in given["operations"]:
            if documents.setdefault(str(operation["id"]), operation["body"]) != operation["body"]:
                raise UnusableManifest(f"{path} has two documents under the id {operation['id'][:100]!r}.")
    except (KeyError, TypeError):
        return None
    return documents
