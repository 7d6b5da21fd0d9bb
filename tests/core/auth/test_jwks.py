"""How the keys of an issuer are fetched and kept: through changes, floods, failures and nonsense. Time is set by hand."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from joserfc.util import urlsafe_b64encode
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse

from storefront.core.auth import jwks
from storefront.core.auth.jwks import IssuerKeys, IssuerUnreachableError
from tests.issuer import Host, Issuer, hosting, key


@pytest_asyncio.fixture(scope="session")
async def host() -> AsyncIterator[Host]:
    async with hosting() as one:
        yield one


@pytest.fixture
def issuer(host: Host) -> Issuer:
    return host.issuer()


class Clock:
    """Seconds that pass when they are told to."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def always(response: Callable[[], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return response()

    return answer


down = always(lambda: PlainTextResponse("down for repairs", 503))


async def finds(keys: IssuerKeys, kid: str | None = "first") -> bool:
    return await keys.find_key(kid, "ES256") is not None


async def test_keys_are_fetched_once_while_they_are_fresh(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, clock=clock)
    assert all([await finds(keys) for _ in range(50)])
    clock.now += 599
    assert await finds(keys)
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]
    clock.now += 1
    assert await finds(keys)
    assert issuer.fetches() == 2


@pytest.mark.parametrize(
    ("said", "fresh"),
    [("public, max-age=60", 60), ("max-age=86400", 600), ("max-age=0", 30), ("no-store", 600), ("s-maxage=60", 600)],
)
async def test_the_issuer_may_shorten_that(issuer: Issuer, clock: Clock, said: str, fresh: int) -> None:
    issuer.headers["cache-control"] = said
    keys = IssuerKeys(issuer.url, clock=clock)
    assert await finds(keys)
    clock.now += fresh - 1
    assert await finds(keys)
    assert issuer.fetches() == 1
    clock.now += 1
    assert await finds(keys)
    assert issuer.fetches() == 2


async def test_a_known_address_of_the_keys_needs_no_discovery(issuer: Issuer) -> None:
    assert await finds(IssuerKeys("https://elsewhere.example", f"{issuer.url}/keys"))
    assert issuer.asked == ["/keys"]


async def test_a_new_key_counts_at_once_and_an_old_one_until_the_keys_are_fetched_again(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, clock=clock)
    assert await finds(keys)
    issuer.keys = [key(kid="second"), key()]
    assert await finds(keys, "second")
    issuer.keys = [key(kid="second")]
    assert await finds(keys)
    clock.now += 600
    assert not await finds(keys)


async def test_a_flood_of_unknown_keys_costs_one_fetch_in_thirty_seconds(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, clock=clock)
    assert await finds(keys)
    for _ in range(2):
        found = await asyncio.gather(*(finds(keys, f"unknown {number}") for number in range(200)))
        assert not any(found)
        assert not await finds(keys, "another")
    assert issuer.fetches() == 2
    clock.now += 30
    assert not await finds(keys, "another")
    assert not await finds(keys, "another")
    assert issuer.fetches() == 3


async def test_who_knows_a_new_key_waits_for_the_fetch_that_a_flood_began(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, clock=clock)
    assert await finds(keys)
    issuer.keys.append(key(kid="second"))
    found = await asyncio.gather(finds(keys, "unknown"), finds(keys, "second"))
    assert list(found) == [False, True]


def slowly(issuer: Issuer, seconds: float) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        await asyncio.sleep(seconds)
        issuer.answer = None
        issuer.asked.pop()
        return await issuer.answers(request)

    return answer


async def test_many_who_wait_wait_for_one_fetch(issuer: Issuer) -> None:
    keys = IssuerKeys(issuer.url, f"{issuer.url}/keys")
    issuer.answer = slowly(issuer, 0.2)
    assert all(await asyncio.gather(*(finds(keys) for _ in range(50))))
    assert issuer.fetches() == 1


async def test_one_who_leaves_does_not_take_the_fetch_along(issuer: Issuer) -> None:
    keys = IssuerKeys(issuer.url, f"{issuer.url}/keys")
    issuer.answer = slowly(issuer, 0.2)
    leaver, stayer = asyncio.create_task(finds(keys)), asyncio.create_task(finds(keys))
    await asyncio.sleep(0.1)
    leaver.cancel()
    assert await stayer
    assert issuer.fetches() == 1


async def test_old_keys_work_for_an_hour_while_the_issuer_is_down(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, f"{issuer.url}/keys", clock=clock)
    assert await finds(keys)
    issuer.answer = down
    clock.now += 600
    assert await finds(keys)
    assert await finds(keys)
    assert issuer.fetches() == 2
    clock.now += 3_599
    assert await finds(keys)
    clock.now += 1
    with pytest.raises(IssuerUnreachableError):
        await finds(keys)
    clock.now += 30
    issuer.answer = None
    assert await finds(keys)


async def test_an_issuer_that_never_answered_is_asked_again_after_five_seconds(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, f"{issuer.url}/keys", clock=clock)
    issuer.answer = down
    for _ in range(3):
        with pytest.raises(IssuerUnreachableError) as caught:
            await finds(keys)
    assert issuer.url not in str(caught.value)
    assert issuer.fetches() == 1
    issuer.answer = None
    clock.now += 5
    assert await finds(keys)


async def test_nobody_listens_there() -> None:
    with pytest.raises(IssuerUnreachableError):
        await finds(IssuerKeys("http://127.0.0.1:1"))


async def test_a_slow_issuer_is_given_up_on(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT_SECONDS", 0.2)

    async def drops() -> AsyncIterator[bytes]:
        # Never silent for long, and never done.
        for _ in range(20):
            yield b" "
            await asyncio.sleep(0.1)

    issuer.answer = always(lambda: StreamingResponse(drops()))
    with pytest.raises(IssuerUnreachableError):
        await asyncio.wait_for(finds(IssuerKeys(issuer.url)), 1)


async def test_a_huge_answer_is_not_read_to_its_end(issuer: Issuer) -> None:
    sent = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(2_000):
            sent += 65_536
            yield b" " * 65_536
            await asyncio.sleep(0)

    issuer.answer = always(lambda: StreamingResponse(flood()))
    with pytest.raises(IssuerUnreachableError):
        await finds(IssuerKeys(issuer.url))
    assert sent < 50_000_000


def json(content: Any) -> Callable[[], Response]:
    return lambda: JSONResponse(content)


NONSENSE: dict[str, Callable[[], Response]] = {
    "no JSON": lambda: PlainTextResponse("<html>"),
    "deep JSON": lambda: PlainTextResponse("[" * 100_000),
    "a list": json([]),
    "no keys": json({}),
    "keys are text": json({"keys": "none"}),
    "no key that is one": json(
        {"keys": [1, None, "x", [], {}, {"kty": "RSA"}, {"kty": 5}, {"kty": "EC", "crv": "P-256", "x": "!", "y": 1}]}
    ),
    "key with odd members": json({"keys": [{**key().as_dict(private=False), "use": ["sig"], "key_ops": 5}]}),
    "key for encryption": json({"keys": [{**key().as_dict(private=False), "use": "enc"}]}),
    "key for signing": json({"keys": [{**key(use=None).as_dict(private=False), "key_ops": ["sign"]}]}),
    "compressed": lambda: Response(gzip.compress(b"{}"), headers={"content-encoding": "gzip"}),
    "elsewhere": lambda: RedirectResponse("/keys2"),
    "an error": lambda: PlainTextResponse("boom", 500),
    "nothing": lambda: Response(status_code=204),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_is_no_key(issuer: Issuer, name: str) -> None:
    issuer.answer = always(NONSENSE[name])
    with pytest.raises(IssuerUnreachableError):
        await finds(IssuerKeys(issuer.url, f"{issuer.url}/keys"))


async def test_nonsense_does_not_replace_keys_that_work(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, f"{issuer.url}/keys", clock=clock)
    assert await finds(keys)
    for nonsense in NONSENSE.values():
        issuer.answer = always(nonsense)
        clock.now += 600 if issuer.fetches() == 1 else 30
        assert await finds(keys)
    assert issuer.fetches() == 1 + len(NONSENSE)


async def test_keys_that_are_broken_or_too_weak_do_not_spoil_the_others(issuer: Issuer) -> None:
    weak = {"kty": "RSA", "kid": "weak", "e": "AQAB", "n": urlsafe_b64encode(b"\xff" * 128).decode()}
    issuer.keys = [
        {"kty": "RSA", "n": "short", "e": "AQAB"},
        {"kty": "new"},
        {"kty": "oct", "kid": "weak", "k": "AAAA"},
        weak,
        key(),
    ]
    keys = IssuerKeys(issuer.url)
    assert await finds(keys)
    for algorithm in ("RS256", "PS256", "HS256"):
        assert await keys.find_key("weak", algorithm) is None


@pytest.mark.parametrize(
    "discovery", [{"issuer": "http://127.0.0.1/other"}, {"jwks_uri": None}, {"jwks_uri": "file:///etc/passwd"}]
)
async def test_discovery_has_to_be_of_this_issuer_and_lead_to_its_keys(issuer: Issuer, discovery: dict[str, Any]) -> None:
    issuer.discovery = discovery
    with pytest.raises(IssuerUnreachableError):
        await finds(IssuerKeys(issuer.url))
    assert issuer.fetches() == 0


async def test_a_token_without_a_key_id_means_the_only_key_there_is(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, clock=clock)
    assert await finds(keys, None)
    issuer.keys = [key(), key(kid="second"), key("P-384", kid="third")]
    clock.now += 600
    assert not await finds(keys, None)
    assert await keys.find_key(None, "ES384")
