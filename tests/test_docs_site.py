"""The site of the documentation: the reference has the whole schema, and links between pages lead to pages."""

import posixpath
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from graphql import GraphQLSchema, build_schema, is_introspection_type

ROOT = Path(__file__).parents[1]


def load_hooks() -> ModuleType:
    """The hooks of MkDocs, as it loads them: by their path."""
    spec = spec_from_file_location("docs_site", ROOT / "docs/site.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    return build_schema((ROOT / "schema.graphql").read_text())


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return load_hooks()


@pytest.fixture(scope="module")
def pages(hooks: ModuleType, schema: GraphQLSchema) -> dict[str, str]:
    """The Markdown of all pages of the site, by path."""
    docs = {path.relative_to(ROOT / "docs").as_posix(): path for path in (ROOT / "docs").rglob("*.md")}
    docs |= {uri: path for uri, path in hooks.list_outside_pages().items() if path.suffix == ".md"}
    reference: dict[str, str] = hooks.build_reference(schema)
    return reference | {uri: hooks.rewrite_links(path.read_text(), uri) for uri, path in docs.items()}


def test_reference_has_every_type_field_and_value(schema: GraphQLSchema, pages: dict[str, str]) -> None:
    reference = "\n".join(text for uri, text in pages.items() if uri.startswith("reference/"))
    roots = {schema.query_type, schema.mutation_type, schema.subscription_type}
    for name, type_ in schema.type_map.items():
        members: Any = getattr(type_, "fields", None) or getattr(type_, "values", {})
        if is_introspection_type(type_):
            continue
        if type_ in roots:
            assert all(f"\n## `{member}` " in reference for member in members)
            continue
        assert f"\n## `{name}` {{ #{name.lower()} }}" in reference
        section = re.split(r"\n## ", reference.partition(f"\n## `{name}` ")[2])[0]
        assert [member for member in members if f"`{member}`" not in section] == []


def test_links_lead_to_pages_and_anchors(hooks: ModuleType, pages: dict[str, str]) -> None:
    files = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs/images").iterdir()} | set(
        hooks.list_outside_pages()
    )
    anchors = {uri: set(re.findall(r"\{ #(\S+) \}", text)) for uri, text in pages.items()}
    broken = []
    for uri, text in pages.items():
        for target in hooks._LINK.findall("".join(hooks._CODE.split(text)[::2])):
            path, _, anchor = target[2].partition("#")
            if "://" in path or not path:
                continue
            found = posixpath.normpath(posixpath.join(posixpath.dirname(uri), path))
            is_known = found in pages or found in files
            if not is_known or (found.startswith("reference/") and anchor and anchor not in anchors[found]):
                broken.append(f"{uri}: {target[2]}")
    assert broken == []


def test_navigation_has_every_page_of_docs(pages: dict[str, str]) -> None:
    listed = set(re.findall(r"- ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed <= set(pages) | {"adr/README.md"}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= listed
    assert {uri for uri in pages if uri.startswith("reference/")} <= listed


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="MkDocs is not installed: make docs")
def test_site_is_built_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "reference/objects.html").is_file()
    scripts = re.findall(r'<script[^>]* src="([^"]+)"', (tmp_path / "index.html").read_text())
    assert scripts and not any("://" in script for script in scripts)
