"""Every GraphQL document in the docs, the examples and the tests' documents is valid against the schema."""

import re
from pathlib import Path

import pytest
from graphql import ExecutableDefinitionNode, LoneAnonymousOperationRule, parse, specified_rules, validate

from storefront.schema import schema

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("storefront", "tests/documents")
    for path in (ROOT / folder).rglob("*.graphql")
    if "node_modules" not in path.parts
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
# Strings of the languages of other blocks. JSON is itself in a string where a shell sends it.
_STRINGS = (
    re.compile(r"`([^`]*)`"),
    re.compile(r'"""(.*?)"""', re.DOTALL),
    re.compile(r'"((?:\\.|[^"\\\n])*)"'),
    re.compile(r"'([^'\n]*)'"),
)
_DOCUMENT = re.compile(r"\s*(?:query=)?((?:(?:query|mutation|subscription)\b[^:=]*?[({]|\{\s*\w).*\})\s*", re.DOTALL)


def find_documents(page: str) -> list[str]:
    """The documents in a page: its blocks of GraphQL, and the strings in other blocks that are documents."""
    documents = []
    for _, language, block in _BLOCK.findall(page):
        if language == "graphql":
            documents.append(block)
        else:
            strings = (text for pattern in _STRINGS for text in pattern.findall(block))
            documents += [found[1].replace('\\"', '"') for text in strings if (found := _DOCUMENT.fullmatch(text))]
    return documents


DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text() for path in FILES} | {
    f"{path.relative_to(ROOT)} {number}": document
    for path in PAGES
    for number, document in enumerate(find_documents(path.read_text()), 1)
}
# A block may show several operations.
RULES = [rule for rule in specified_rules if rule is not LoneAnonymousOperationRule]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_valid(name: str) -> None:
    document = parse(DOCUMENTS[name])
    # Type definitions are examples of other schemas.
    if any(isinstance(definition, ExecutableDefinitionNode) for definition in document.definitions):
        assert validate(schema._schema, document, RULES) == []


def test_documents_are_found_in_all_languages() -> None:
    page = """
```graphql
{ me { id } }
query Named { me { name } }
```

```sh
curl -d '{"query": "query ($id: ID!) { node(id: $id) { id } }", "variables": {"id": "…"}}' --data-urlencode 'query={ me { id } }'
```

```js
const a = gql`
  mutation ($i: X!) { a(input: $i) { b } }`, options = { query: a, rest: `no ${document}` }
```
"""
    assert find_documents(page) == [
        "{ me { id } }\nquery Named { me { name } }\n",
        "query ($id: ID!) { node(id: $id) { id } }",
        "{ me { id } }",
        "mutation ($i: X!) { a(input: $i) { b } }",
    ]
    assert {name.rpartition(" ")[0] for name in DOCUMENTS} >= {
        "README.md",
        "docs/guide.md",
        "docs/live.md",
        "docs/media.md",
        "docs/webhooks.md",
    }
