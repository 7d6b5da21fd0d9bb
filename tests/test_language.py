"""Identifiers, docs and the schema use the terms of the field: words that only insiders understand stay out of them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = [
    path
    for folder in ("storefront", "tests", "benchmarks", "migrations")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "node_modules" not in path.parts
]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "schema.graphql", *sorted((ROOT / "docs").rglob("*.md"))]

# What stands for them: viewer or caller, returns or sends, cached or stored, client, timeout, notify, max.
FORBIDDEN_WORDS = {
    "asker",
    "askers",
    "whoever",
    "told",
    "darkroom",
    "stirs",
    "stirred",
    "heeded",
    "mended",
    "abandon",
    "patience",
    "roomy",
    "ample",
    "somebody",
    "confide",
}
# Plain words of prose.
ALLOWED_IN_TEXT = {"abandon", "ample"}
# A function is named by a verb, not by what has been done: `_load_rows`, not `_loaded`.
_PARTICIPLE = re.compile(
    r"_?([a-z]+ed|told|kept|made|found|sent|given|held|known|shown|seen|taken|drawn|written|built|meant|heard|chosen|begun|done|lost|met"
    r"|paid|said|spent|won|bound)"
)
_NOT_PARTICIPLES = {"seed", "feed", "embed", "speed", "need"}
MAX_PARTICIPLES = 0.02


@cache
def list_definitions(path: Path) -> list[tuple[bool, str, str]]:
    """What a module defines: whether it is a function, its name, and where it stands."""
    place, functions = path.relative_to(ROOT), (ast.FunctionDef, ast.AsyncFunctionDef)
    definitions = _iterate_definitions(ast.parse(path.read_text()))
    # Not the nodes: the trees of all modules are a million objects, which the garbage collector would traverse.
    return [(isinstance(node, functions), name, f"{place}:{line} {name}") for node, name, line in definitions]


def _iterate_definitions(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node, node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node, node.arg, node.lineno
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node, node.id if isinstance(node, ast.Name) else node.attr, node.lineno


@cache
def split_words(name: str) -> set[str]:
    """The words of an identifier, in lower case."""
    return set(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().strip("_").split("_"))


def test_identifiers_use_no_forbidden_word() -> None:
    found = [place for path in CODE for _, name, place in list_definitions(path) if split_words(name) & FORBIDDEN_WORDS]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_docs_use_no_forbidden_word(path: Path) -> None:
    pattern = re.compile(rf"\b({'|'.join(sorted(FORBIDDEN_WORDS - ALLOWED_IN_TEXT))})\b", re.IGNORECASE)
    # Code in docs is not prose.
    text = re.sub(r"```.*?```|`[^`\n]*`", lambda code: "\n" * code[0].count("\n"), path.read_text(), flags=re.DOTALL)
    found = [f"{n}: {line}" for n, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
    assert not found, "\n".join(found)


def test_functions_are_named_by_verbs() -> None:
    functions = [
        (name, place)
        for path in CODE
        if path.is_relative_to(ROOT / "storefront")
        for is_function, name, place in list_definitions(path)
        if is_function
    ]
    participles = [place for name, place in functions if _PARTICIPLE.fullmatch(name) and name.lstrip("_") not in _NOT_PARTICIPLES]
    share = len(participles) / len(functions)
    print(f"{len(participles)} of {len(functions)} functions ({share:.2%}) are named by a participle alone")
    assert share < MAX_PARTICIPLES, "\n".join(participles)


TERMS = (
    *("load shedding", "backpressure", "slowloris", "heartbeat", "single-flight", "SSRF", "CSRF", "unit of work", "deadline"),
    *("redact", "look-ahead", "pushdown", "presigned", "optimistic", "keyset", "upsert", "lease", "dispatcher", "fan-out"),
    "rate limit",
)


@pytest.mark.parametrize("term", TERMS)
def test_standard_term_is_found_by_search(term: str) -> None:
    pattern = re.compile(re.escape(term), re.IGNORECASE)
    code = (path for path in CODE if path.is_relative_to(ROOT / "storefront"))
    assert any(pattern.search(path.read_text()) for path in [*code, *TEXTS])
