"""Account linking by verified e-mail address, the operator's commands, and merging users."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from alembic import command as alembic
from pydantic import SecretStr
from typer.testing import CliRunner

from storefront.cli.main import app
from storefront.core.db.database import Database
from storefront.core.db.migrations import build_config, connect
from storefront.core.ids import uuid7
from storefront.core.settings import get_settings
from storefront.queries.users import load_address_conflicts
from storefront.users.administration import MergeRejectedError, UserNotFoundError, find_user, merge_users
from tests.client import SECRET, Client, token_of
from tests.conftest import fresh, serving
from tests.core.auth.test_authjs import SECRET as SHARED
from tests.core.auth.test_identity import get_rejection as refusal
from tests.core.auth.test_identity import new_subject as new
from tests.core.auth.test_identity import read_viewer_id as me
from tests.core.auth.test_identity import send_bearer as bearing
from tests.core.auth.test_identity import send_session as bringing
from tests.factories import count_statements, make_product, make_review, make_store, make_user
from tests.issuer import AUDIENCE, Issuer, hosting

Issuers = tuple[Issuer, Issuer]


@pytest_asyncio.fixture(scope="session")
async def issuers() -> AsyncIterator[Issuers]:
    async with hosting() as host:
        yield host.issuer(), host.issuer()


@pytest_asyncio.fixture(scope="session")
async def server(
    postgres: str, template: str, issuers: Issuers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Client]:
    options: dict[str, Any] = {
        "oidc_issuer": ",".join(issuer.url for issuer in issuers),
        "oidc_audience": AUDIENCE,
        "authjs_secret": SecretStr(SHARED),
    }
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("addresses"), **options) as client:
        yield client


async def user_of(server: Client, token: str) -> Any:
    return me(await bearing(server, token))


async def holder(server: Client, email: str) -> str | None:
    """The user with this verified address."""
    try:
        return await find_user(server.database, email=email)
    except UserNotFoundError:
        return None


@pytest.mark.parametrize("comes_first", ["owner", "squatter"])
@pytest.mark.parametrize("said", [{"email_verified": False}, {}, {"email_verified": "true"}, {"email_verified": 1}])
async def test_unverified_address_links_no_account(
    server: Client, issuers: Issuers, comes_first: str, said: dict[str, Any]
) -> None:
    email, (issuer, other) = new(), issuers
    tokens = {
        "owner": issuer.token(sub=email, email=email, email_verified=True),
        "squatter": other.token(sub=email, email=email.upper(), **said),
    }
    order = sorted(tokens, key=lambda name: name != comes_first)
    found = {name: await user_of(server, tokens[name]) for name in order}
    assert found["owner"]["id"] != found["squatter"]["id"]
    assert await holder(server, email) == found["owner"]["id"]
    assert {name: await user_of(server, tokens[name]) for name in order} == found


async def test_session_does_not_take_addresses(server: Client, issuers: Issuers) -> None:
    email = new()
    squatter = me(await bringing(server, {"sub": email, "email": email, "email_verified": True}))
    assert await holder(server, email) is None
    owner = await user_of(server, issuers[0].token(sub=email, email=email, email_verified=True))
    assert owner["id"] != squatter["id"]
    assert await holder(server, email) == owner["id"]


async def test_verified_addresses_link_issuers_in_any_spelling(server: Client, issuers: Issuers) -> None:
    email, (issuer, other) = new(), issuers
    first = await user_of(server, issuer.token(sub=email, email=f" {email.upper()} ", email_verified=True))
    assert first["email"] == email.upper()
    assert await user_of(server, other.token(sub=email, email=email, email_verified=True)) == first
    assert await user_of(server, token_of(email, email=f"{email}.", email_verified=True)) == first


async def test_one_issuer_never_links_two_subs(server: Client, issuers: Issuers) -> None:
    email, issuer = new(), issuers[0]
    await user_of(server, issuer.token(sub=f"1 {email}", email=email, email_verified=True))
    second = await bearing(server, issuer.token(sub=f"2 {email}", email=email.title(), email_verified=True))
    assert "another sub of the same issuer" in refusal(second, 401, "UNAUTHENTICATED")
    await user_of(server, token_of(f"1 {email}", email=email))
    third = await bearing(server, token_of(f"2 {email}", email=email.upper()))
    assert "another sub of the same issuer" in refusal(third, 401, "UNAUTHENTICATED")


async def test_verification_may_come_later(server: Client, issuers: Issuers) -> None:
    email, issuer = new(), issuers[0]
    first = await user_of(server, issuer.token(sub=email, email=email, email_verified=False))
    assert await holder(server, email) is None
    verified = issuer.token(sub=email, email=email, email_verified=True)
    assert await user_of(server, verified) == first
    assert await holder(server, email) == first["id"]
    # An access token names the address without a word on whether it is verified: nothing is taken back.
    await user_of(server, issuer.token(sub=email, email=email))
    assert await holder(server, email) == first["id"]


async def test_late_verification_takes_no_address_of_another(server: Client, issuers: Issuers) -> None:
    email, (issuer, other) = new(), issuers
    late = await user_of(server, issuer.token(sub=email, email=email))
    owner = await user_of(server, other.token(sub=email, email=email, email_verified=True))
    for _ in range(2):
        assert await user_of(server, issuer.token(sub=email, email=email, email_verified=True)) == late
    assert await holder(server, email) == owner["id"]
    assert (late["id"], owner["id"]) in [(row.id, row.holder_id) for row in await load_address_conflicts(server.database)]
    # Once the other one has another address, this one is free for whom it belongs to.
    await user_of(server, other.token(sub=email, email=new(), email_verified=True))
    await user_of(server, issuer.token(sub=email, email=email, email_verified=True))
    assert await holder(server, email) == late["id"]


@pytest.mark.parametrize("verified", [True, False])
async def test_address_changes_with_its_issuer(server: Client, issuers: Issuers, verified: bool) -> None:
    before, after, issuer = new(), new(), issuers[0]
    old = issuer.token(sub=before, iat=int(time.time()) - 60, email=before, email_verified=True)
    first = await user_of(server, old)
    changed = await user_of(server, issuer.token(sub=before, email=after, email_verified=verified))
    assert changed == {"id": first["id"], "email": after}
    assert await holder(server, before) is None
    assert await holder(server, after) == (first["id"] if verified else None)
    # A token of before the change changes nothing back.
    assert await user_of(server, old) == changed
    assert await holder(server, before) is None
    # Whoever is given the address next is another person.
    heir = await user_of(server, issuer.token(sub=f"heir of {before}", email=before, email_verified=True))
    assert heir["id"] != first["id"] and await holder(server, before) == heir["id"]


async def test_address_stays_while_an_identity_has_it(server: Client, issuers: Issuers) -> None:
    email, work, (issuer, other) = new(), new(), issuers
    first = await user_of(server, issuer.token(sub=email, email=email, email_verified=True))
    await user_of(server, other.token(sub=email, email=email, email_verified=True))
    await user_of(server, other.token(sub=email, email=work, email_verified=True))
    assert [await holder(server, address) for address in (email, work)] == [first["id"]] * 2


@pytest.mark.parametrize("form", ["\uff41{}", "\u200ba{}", "a{}\u200d", "a\u00ad{}"])
async def test_look_alike_address_matches_no_user(server: Client, issuers: Issuers, form: str) -> None:
    rest, (issuer, other) = new(), issuers
    owner = await user_of(server, issuer.token(sub=rest, email=f"a{rest}", email_verified=True))
    for email in (form.format(rest), form.format(rest).upper()):
        found = await user_of(server, other.token(sub=email, email=email, email_verified=True))
        assert (found["id"] != owner["id"], found["email"]) == (True, email)
    assert await holder(server, f"a{rest}") == owner["id"]


@pytest.mark.parametrize("email", ["x" * 1_900 + "@example.com", "no address", "é" * 200 + "@example.com", "a@b@c"])
async def test_odd_addresses_make_users_without_failing(server: Client, email: str) -> None:
    first, second = [await user_of(server, token_of(new(), email=email, email_verified=True)) for _ in range(2)]
    assert first["id"] != second["id"] and first["email"] == email


@pytest.mark.parametrize("email", [None, "", "  ", 5, [], "x" * 3_000, "a\0b@example.com"])
async def test_first_token_needs_an_address(server: Client, issuers: Issuers, email: object) -> None:
    answer = await bearing(server, issuers[0].token(sub=new(), email=email, email_verified=True))
    assert "without an email claim" in refusal(answer, 401, "UNAUTHENTICATED")


async def test_simultaneous_sign_ins_agree_on_one_user(server: Client, issuers: Issuers) -> None:
    for _ in range(3):
        email, (issuer, other) = new(), issuers
        tokens = [
            issuer.token(sub=email, email=email, email_verified=True),
            other.token(sub=email, email=email.upper(), email_verified=True),
            token_of(email, email=email),
        ] * 3
        found = await asyncio.gather(*(user_of(server, token) for token in tokens))
        assert len({one["id"] for one in found}) == 1


async def test_swapped_addresses_do_not_deadlock(server: Client, issuers: Issuers) -> None:
    one, other, issuer = new(), new(), issuers[0]
    for email in (one, other):
        await user_of(server, issuer.token(sub=email, email=email, email_verified=True, iat=int(time.time()) - 9))
    swapped = [issuer.token(sub=sub, email=email, email_verified=True) for sub, email in ((one, other), (other, one))]
    answers = await asyncio.gather(*(bearing(server, token) for token in swapped * 3))
    assert {answer.status_code for answer in answers} == {200}


async def test_known_user_takes_one_statement(server: Client, issuers: Issuers) -> None:
    email = new()
    token = issuers[0].token(sub=email, email=email, email_verified=True)
    await user_of(server, token)
    with count_statements(server.database) as statements:
        await user_of(server, token)
    # Who it is, and what `me` selects.
    assert len(statements) == 2


# -------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def url(empty_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that the CLI uses."""
    monkeypatch.setenv("STOREFRONT_DATABASE_URL", empty_url)
    monkeypatch.setenv("STOREFRONT_SECRET", SECRET)
    monkeypatch.setenv("STOREFRONT_DATA_DIR", str(tmp_path))
    get_settings.cache_clear()
    yield empty_url
    get_settings.cache_clear()


async def run(*words: str) -> tuple[int, str]:
    result = await asyncio.to_thread(CliRunner().invoke, app, list(words))
    return result.exit_code, " ".join(result.output.split())


async def test_commands_find_verified_addresses_alone(url: str) -> None:
    async with Database(url) as database:
        squatters = [await make_user(database, email=email, is_verified=False) for email in ("v@corp.test", "V@Corp.test")]
        for name in ("token", "sign-out"):
            code, output = await run(name, "--email", "v@corp.test")
            assert code == 1 and "is not verified for any user" in output and "--user" in output
            assert all(id_ in output for id_ in squatters)
        nobody = await run("sign-out", "--email", "nobody@corp.test")
        assert nobody == (1, "There is no user with the address 'nobody@corp.test'.")
        owner = await make_user(database, email="v@corp.test")
        assert (await run("sign-out", "--email", " V@CORP.test"))[0] == 0
    assert [is_signed_out(url, id_) for id_ in (*squatters, owner)] == [False, False, True]
    assert (await run("sign-out", "--user", squatters[0]))[0] == 0
    assert is_signed_out(url, squatters[0])


async def test_token_command_reports_created_user(url: str) -> None:
    code, output = await run("token", "--email", "Ada@Example.com")
    assert code == 0 and "No user had the address Ada@Example.com: created one." in output
    code, output = await run("token", "--email", " ada@example.COM")
    assert code == 0 and "created one" not in output
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (1,)


async def test_printed_token_is_of_the_user_found(url: str, tmp_path: Path) -> None:
    async with serving(url, tmp_path) as server:
        user = await make_user(server.database, issuer="https://issuer.test", email="ada@example.com")
        for words in (("--email", "ADA@example.com"), ("--user", user)):
            code, token = await run("token", *words)
            assert code == 0 and (await user_of(server, token))["id"] == user


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--email", "ada"], "is not an e-mail address"),
        (["--email", "\uff41da@example.com"], "is not an e-mail address"),
        (["--user", "ada"], "is not the id of a user"),
        (["--user", "01900000-0000-7000-8000-00000000000a"], "There is no user with the id"),
        ([], "either --email or --user"),
        (["--user", "x", "--email", "y@z.test"], "either --email or --user"),
    ],
)
async def test_commands_reject_unknown_users(url: str, words: list[str], message: str) -> None:
    for name in ("token", "sign-out"):
        code, output = await run(name, *words)
        assert code == 1 and message in output


def is_signed_out(url: str, user_id: str) -> bool:
    with psycopg.connect(url) as connection:
        [(found,)] = connection.execute("SELECT signed_out_at IS NOT NULL FROM users WHERE id = %s", [user_id]).fetchall()
    return bool(found)


# ----------------------------------------------------------------------------------------------- migrating

BEFORE = "20261204_products_by_grain"
OLD_USERS = [
    # Who was there first, by the order of these lines: name, address, sub.
    ("squatter", "victim@corp.test", "https://issuer.test/|mallory"),
    ("session", "s@corp.test", "authjs|github:1"),
    ("first", " Ada@corp.test", "ada"),
    ("second", "ada@CORP.test", "auth0|ada"),
    ("third", "ADA@corp.test", None),
    ("imported", "i@corp.test", None),
    ("odd", "no address", "odd"),
]


def step(url: str, down: bool = False) -> None:
    with connect(url) as connection:
        (alembic.downgrade if down else alembic.upgrade)(build_config(connection), BEFORE if down else "head")
        connection.commit()


async def test_migration_loses_nothing_and_reports_collisions(url: str, tmp_path: Path) -> None:
    step(url, down=True)
    ids = {name: str(uuid7()) for name, *_ in OLD_USERS}
    with psycopg.connect(url) as connection:
        for name, email, subject in OLD_USERS:
            connection.execute("INSERT INTO users (id, email, subject) VALUES (%s, %s, %s)", [ids[name], email, subject])
            store = "INSERT INTO configs (id, user_id, store_name, slug) VALUES (%s, %s, %s, %s)"
            connection.execute(store, [ids[name], ids[name], name, name])
    _, output = await run("migrate")
    assert f"{ids['second']} (address leads to {ids['first']})" in output
    assert f"{ids['third']} (address leads to {ids['first']})" in output
    assert "merge-users" in output and not any(ids[name] in output for name in ("squatter", "session", "imported", "odd"))
    assert "→ Where both are one person: storefront merge-users" in (await run("doctor"))[1]
    with psycopg.connect(url) as connection:
        owners: dict[str, str] = dict(connection.execute("SELECT slug, user_id::text FROM configs").fetchall())
        assert owners == ids
        rows = connection.execute("SELECT address, user_id::text FROM verified_emails ORDER BY 1").fetchall()
        assert rows == [("ada@corp.test", ids["first"]), ("i@corp.test", ids["imported"])]
        statement = "SELECT user_id::text, issuer, subject FROM user_identities"
        found = {(issuer, subject): user for user, issuer, subject in connection.execute(statement).fetchall()}
    assert found == {
        ("https://issuer.test/", "mallory"): ids["squatter"],
        ("authjs", "github:1"): ids["session"],
        # Tokens that were printed for them.
        ("storefront", "https://issuer.test/|mallory"): ids["squatter"],
        ("storefront", "authjs|github:1"): ids["session"],
        ("storefront", "ada"): ids["first"],
        ("storefront", "auth0|ada"): ids["second"],
        ("storefront", "odd"): ids["odd"],
    }
    async with serving(url, tmp_path) as server:
        for name, email, subject in OLD_USERS:
            if subject:
                # As the command line printed them.
                assert (await user_of(server, token_of(subject, email=email)))["id"] == ids[name]
        assert await holder(server, "victim@corp.test") is None
        owner = await user_of(server, token_of(new(), email="victim@corp.test", email_verified=True))
        assert owner["id"] not in ids.values() and await holder(server, "victim@corp.test") == owner["id"]
    step(url, down=True)
    with psycopg.connect(url) as connection:
        subjects: dict[str, str | None] = dict(connection.execute("SELECT id::text, subject FROM users").fetchall())
        assert {name: subjects[ids[name]] for name in ids} == {name: subject for name, _, subject in OLD_USERS}
        emails: dict[str, str] = dict(connection.execute("SELECT id::text, email FROM users").fetchall())
        assert emails[owner["id"]] == "victim@corp.test" and emails[ids["squatter"]] == f"{ids['squatter']}@address.invalid"
    step(url)


# ------------------------------------------------------------------------------------------------- merging

MINE = "{ me { id configs { nodes { id } } } }"


async def test_merge_moves_everything(shopper: Client) -> None:
    database = shopper.database
    emails = [new(), new()]
    keep, other = [await make_user(database, email=email) for email in emails]
    store = await make_store(database, user_id=other, is_published=False)
    await make_review(database, await make_product(database, await make_store(database)), user_id=other)
    moved = await merge_users(database, keep, other)
    assert moved == {"configs": 1, "reviews": 1, "user_identities": 1, "verified_emails": 1}
    for subject in (keep, other):
        assert await shopper.signed_in(subject).ask(MINE) == {"me": {"id": keep, "configs": {"nodes": [{"id": store}]}}}
    assert [await holder(shopper, email) for email in emails] == [keep, keep]


async def test_merge_refuses_two_reviews_of_a_product(shopper: Client) -> None:
    database = shopper.database
    keep, other = [await make_user(database) for _ in range(2)]
    store = await make_store(database, user_id=other)
    product = await make_product(database, await make_store(database))
    for user in (keep, other):
        await make_review(database, product, user_id=user)
    with pytest.raises(MergeRejectedError, match="reviews"):
        await merge_users(database, keep, other)
    assert await shopper.signed_in(other).ask(MINE) == {"me": {"id": other, "configs": {"nodes": [{"id": store}]}}}


async def test_merge_needs_two_users(shopper: Client) -> None:
    user = await make_user(shopper.database)
    with pytest.raises(MergeRejectedError):
        await merge_users(shopper.database, user, user.upper())
    with pytest.raises(UserNotFoundError):
        await merge_users(shopper.database, user, "01900000-0000-7000-8000-00000000000a")


async def test_merge_keeps_the_latest_sign_out(shopper: Client) -> None:
    database = shopper.database
    keep, other = [await make_user(database) for _ in range(2)]
    token = token_of(keep)
    await shopper.signed_in(other).ask("mutation { signOutEverywhere(input: {}) { user { id } } }")
    await merge_users(database, keep, other)
    refusal(await bearing(shopper, token), 401, "UNAUTHENTICATED")
