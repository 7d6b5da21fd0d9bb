"""Builds the parts of the site that are no files of `docs/`: the reference of the schema, and pages from elsewhere.

MkDocs calls `on_files` and `on_page_markdown` (mkdocs.yml).
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from graphql import (
    GraphQLArgument,
    GraphQLDirective,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLUnionType,
    Undefined,
    ast_from_value,
    build_schema,
    get_named_type,
    is_introspection_type,
    is_specified_directive,
    is_specified_scalar_type,
    print_ast,
)

ROOT = Path(__file__).parents[1]
SPECIFICATION = "https://spec.graphql.org/October2021/#"

_LINK = re.compile(r"(?<!\\)(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)

Section = tuple[str, str]
"""The heading of a section, and its text."""


# ---------------------------------------------------------------------------------------------- hooks of MkDocs


def list_outside_pages() -> dict[str, Path]:
    """The pages that are not in docs/, by their path in the site. Links between them and docs/ are rewritten."""
    names = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"]
    pages = {name: ROOT / name for name in names} | {"index.md": ROOT / "README.md"}
    results = (path for suffix in ("md", "svg") for path in (ROOT / "benchmarks/results").glob(f"*.{suffix}"))
    return pages | {path.relative_to(ROOT).as_posix(): path for path in results}


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages and those from elsewhere."""
    from mkdocs.structure.files import File  # noqa: PLC0415  only where the site is built

    for uri, path in list_outside_pages().items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for uri, content in build_reference(build_schema((ROOT / "schema.graphql").read_text())).items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page."""
    return markdown if page.file.src_uri.startswith("reference/") else rewrite_links(markdown, page.file.src_uri)


def rewrite_links(markdown: str, uri: str) -> str:
    """The text of a page whose links lead to pages of the site. Links to other files of the repository become their text."""
    sources = {path.relative_to(ROOT).as_posix(): name for name, path in list_outside_pages().items()}
    sources |= {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix() for path in _list_docs()}
    sources |= {"schema.graphql": "reference/queries.md", "docs/adr": "adr/README.md"}
    source = next((path for path, name in sources.items() if name == uri), f"docs/{uri}")

    def rewrite(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        path, mark, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        name = sources.get(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if name is None:
            return label
        return f"{image}[{label}]({posixpath.relpath(name, posixpath.dirname(uri) or '.')}{mark}{anchor})"

    parts = _CODE.split(markdown)
    return "".join(part if number % 2 else _LINK.sub(rewrite, part) for number, part in enumerate(parts))


def _list_docs() -> Iterable[Path]:
    return (path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".png", ".svg"))


# -------------------------------------------------------------------------------------- the reference of the schema


def build_reference(schema: GraphQLSchema) -> dict[str, str]:
    """The pages of the reference, by their path in the site."""
    roots = {"queries": schema.query_type, "mutations": schema.mutation_type, "subscriptions": schema.subscription_type}
    kinds: Mapping[str, tuple[type, Callable[[Any], str]]] = {
        "objects": (GraphQLObjectType, _describe_fields_type),
        "interfaces": (GraphQLInterfaceType, _describe_fields_type),
        "unions": (GraphQLUnionType, _describe_union),
        "inputs": (GraphQLInputObjectType, _describe_input),
        "enums": (GraphQLEnumType, _describe_enum),
        "scalars": (GraphQLScalarType, _describe_scalar),
    }
    pages: dict[str, list[Section]] = {
        page: [(name, _describe_field(field)) for name, field in sorted(root.fields.items())]
        for page, root in roots.items()
        if root is not None
    }
    for page, (kind, describe) in kinds.items():
        pages[page] = [
            (name, describe(type_))
            for name, type_ in sorted(schema.type_map.items())
            if isinstance(type_, kind) and type_ not in roots.values() and not is_introspection_type(type_)
        ]
    directives = [directive for directive in schema.directives if not is_specified_directive(directive)]
    pages["directives"] = [(f"@{directive.name}", _describe_directive(directive)) for directive in directives]
    return {f"reference/{page}.md": _format_page(page, sections) for page, sections in pages.items()}


def _format_page(page: str, sections: list[Section]) -> str:
    body = "\n\n".join(f"## `{name}` {{ #{_anchor(name)} }}\n\n{text}" for name, text in sections)
    return f"# {page.capitalize()}\n\n{body}\n"


def _anchor(name: str) -> str:
    return name.removeprefix("@").lower()


def _link(type_: Any) -> str:
    named: GraphQLNamedType = get_named_type(type_)
    page = next(page for kind, page in _PAGES_BY_KIND if isinstance(named, kind))
    return f"[`{type_}`]({page}.md#{_anchor(named.name)})"


_PAGES_BY_KIND: list[tuple[type, str]] = [
    (GraphQLObjectType, "objects"),
    (GraphQLInterfaceType, "interfaces"),
    (GraphQLUnionType, "unions"),
    (GraphQLInputObjectType, "inputs"),
    (GraphQLEnumType, "enums"),
    (GraphQLScalarType, "scalars"),
]


def _describe_fields_type(type_: GraphQLObjectType | GraphQLInterfaceType) -> str:
    interfaces = f"Implements {', '.join(map(_link, type_.interfaces))}.\n\n" if type_.interfaces else ""
    fields = "\n\n".join(
        f"### `{name}` {{ #{_anchor(type_.name)}.{name.lower()} }}\n\n{_describe_field(field)}"
        for name, field in type_.fields.items()
    )
    return f"{_text(type_.description)}\n\n{interfaces}{fields}"


def _describe_field(field: GraphQLField) -> str:
    arguments = "".join(f"\n- `{name}`: {_describe_input_value(argument)}" for name, argument in field.args.items())
    return f"{_link(field.type)}{_deprecation(field.deprecation_reason)}\n\n{_text(field.description)}\n{arguments}"


def _describe_input_value(value: GraphQLArgument | GraphQLInputField) -> str:
    node = None if value.default_value is Undefined else ast_from_value(value.default_value, value.type)
    default = f" = `{print_ast(node)}`" if node else ""
    return f"{_link(value.type)}{default}{_deprecation(value.deprecation_reason)}. {_text(value.description)}"


def _describe_input(type_: GraphQLInputObjectType) -> str:
    fields = "\n".join(f"- `{name}`: {_describe_input_value(field)}" for name, field in type_.fields.items())
    one_of = "Exactly one of the fields has to be given.\n\n" if type_.is_one_of else ""
    return f"{_text(type_.description)}\n\n{one_of}{fields}"


def _describe_union(type_: GraphQLUnionType) -> str:
    return f"{_text(type_.description)}\n\nOne of {', '.join(map(_link, type_.types))}."


def _describe_enum(type_: GraphQLEnumType) -> str:
    values = "\n".join(
        f"- `{name}`{_deprecation(value.deprecation_reason)}: {_text(value.description)}" for name, value in type_.values.items()
    )
    return f"{_text(type_.description)}\n\n{values}"


def _describe_scalar(type_: GraphQLScalarType) -> str:
    url = f"{SPECIFICATION}sec-{type_.name}" if is_specified_scalar_type(type_) else type_.specified_by_url
    return _text(type_.description) + (f"\n\n[Specification]({url})" if url else "")


def _describe_directive(directive: GraphQLDirective) -> str:
    arguments = "".join(f"\n- `{name}`: {_describe_input_value(argument)}" for name, argument in directive.args.items())
    locations = ", ".join(location.name for location in directive.locations)
    return f"{_text(directive.description)}\n\nOn {locations}.\n{arguments}"


def _deprecation(reason: str | None) -> str:
    return f" **deprecated**: {_text(reason)}" if reason else ""


def _text(text: str | None) -> str:
    """A description as one paragraph, without HTML."""
    return re.sub(r"<(?=[a-zA-Z/])", "&lt;", " ".join((text or "").split()))
