"""Fetching and caching of JWKS: rotation, rate limits, failures, invalid responses. Tests set the clock."""

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
    async with hosting() as server:
        yield server


@pytest.fixture
def issuer(host: Host) -> Issuer:
    return host.issuer()


class Clock:
    """A clock that tests advance."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def respond_always(response: Callable[[], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return response()

    return answer


down = respond_always(lambda: PlainTextResponse("down for repairs", 503))


async def has_key(keys: IssuerKeys, kid: str | None = "first") -> bool:
    return await keys.find_key(kid, "ES256") is not None


async def test_fresh_keys_are_cached(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, clock=clock)
    assert all([await has_key(keys) for _ in range(50)])
    clock.now += 599
    assert await has_key(keys)
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]
    clock.now += 1
    assert await has_key(keys)
    assert issuer.fetches() == 2


@pytest.mark.parametrize(
    ("said", "fresh"),
    [("public, max-age=60", 60), ("max-age=86400", 600), ("max-age=0", 30), ("no-store", 600), ("s-maxage=60", 600)],
)
async def test_cache_control_shortens_freshness(issuer: Issuer, clock: Clock, said: str, fresh: int) -> None:
    issuer.headers["cache-control"] = said
    keys = IssuerKeys(issuer.url, clock=clock)
    assert await has_key(keys)
    clock.now += fresh - 1
    assert await has_key(keys)
    assert issuer.fetches() == 1
    clock.now += 1
    assert await has_key(keys)
    assert issuer.fetches() == 2


async def test_configured_jwks_url_skips_discovery(issuer: Issuer) -> None:
    assert await has_key(IssuerKeys("https://elsewhere.example", f"{issuer.url}/keys"))
    assert issuer.asked == ["/keys"]


async def test_rotated_key_is_accepted_at_once(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, clock=clock)
    assert await has_key(keys)
    issuer.keys = [key(kid="second"), key()]
    assert await has_key(keys, "second")
    issuer.keys = [key(kid="second")]
    assert await has_key(keys)
    clock.now += 600
    assert not await has_key(keys)


async def test_unknown_keys_cause_limited_fetches(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, clock=clock)
    assert await has_key(keys)
    for _ in range(2):
        found = await asyncio.gather(*(has_key(keys, f"unknown {number}") for number in range(200)))
        assert not any(found)
        assert not await has_key(keys, "another")
    assert issuer.fetches() == 2
    clock.now += 30
    assert not await has_key(keys, "another")
    assert not await has_key(keys, "another")
    assert issuer.fetches() == 3


async def test_new_key_joins_fetch_in_flight(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, clock=clock)
    assert await has_key(keys)
    issuer.keys.append(key(kid="second"))
    found = await asyncio.gather(has_key(keys, "unknown"), has_key(keys, "second"))
    assert list(found) == [False, True]


def respond_slowly(issuer: Issuer, seconds: float) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        await asyncio.sleep(seconds)
        issuer.answer = None
        issuer.asked.pop()
        return await issuer.answers(request)

    return answer


async def test_concurrent_callers_share_one_fetch(issuer: Issuer) -> None:
    keys = IssuerKeys(issuer.url, f"{issuer.url}/keys")
    issuer.answer = respond_slowly(issuer, 0.2)
    assert all(await asyncio.gather(*(has_key(keys) for _ in range(50))))
    assert issuer.fetches() == 1


async def test_cancelled_caller_does_not_cancel_fetch(issuer: Issuer) -> None:
    keys = IssuerKeys(issuer.url, f"{issuer.url}/keys")
    issuer.answer = respond_slowly(issuer, 0.2)
    leaver, stayer = asyncio.create_task(has_key(keys)), asyncio.create_task(has_key(keys))
    await asyncio.sleep(0.1)
    leaver.cancel()
    assert await stayer
    assert issuer.fetches() == 1


async def test_stale_keys_are_used_for_an_hour(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, f"{issuer.url}/keys", clock=clock)
    assert await has_key(keys)
    issuer.answer = down
    clock.now += 600
    assert await has_key(keys)
    assert await has_key(keys)
    assert issuer.fetches() == 2
    clock.now += 3_599
    assert await has_key(keys)
    clock.now += 1
    with pytest.raises(IssuerUnreachableError):
        await has_key(keys)
    clock.now += 30
    issuer.answer = None
    assert await has_key(keys)


async def test_unknown_issuer_is_retried_after_five_seconds(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, f"{issuer.url}/keys", clock=clock)
    issuer.answer = down
    for _ in range(3):
        with pytest.raises(IssuerUnreachableError) as caught:
            await has_key(keys)
    assert issuer.url not in str(caught.value)
    assert issuer.fetches() == 1
    issuer.answer = None
    clock.now += 5
    assert await has_key(keys)


async def test_refused_connection_raises_unreachable() -> None:
    with pytest.raises(IssuerUnreachableError):
        await has_key(IssuerKeys("http://127.0.0.1:1"))


async def test_slow_issuer_times_out(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT_SECONDS", 0.2)

    async def drops() -> AsyncIterator[bytes]:
        # A response that sends data forever.
        for _ in range(20):
            yield b" "
            await asyncio.sleep(0.1)

    issuer.answer = respond_always(lambda: StreamingResponse(drops()))
    with pytest.raises(IssuerUnreachableError):
        await asyncio.wait_for(has_key(IssuerKeys(issuer.url)), 1)


async def test_huge_response_is_not_read_completely(issuer: Issuer) -> None:
    sent = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(2_000):
            sent += 65_536
            yield b" " * 65_536
            await asyncio.sleep(0)

    issuer.answer = respond_always(lambda: StreamingResponse(flood()))
    with pytest.raises(IssuerUnreachableError):
        await has_key(IssuerKeys(issuer.url))
    assert sent < 50_000_000


def json_response(content: Any) -> Callable[[], Response]:
    return lambda: JSONResponse(content)


NONSENSE: dict[str, Callable[[], Response]] = {
    "no JSON": lambda: PlainTextResponse("<html>"),
    "deep JSON": lambda: PlainTextResponse("[" * 100_000),
    "a list": json_response([]),
    "no keys": json_response({}),
    "keys are text": json_response({"keys": "none"}),
    "no key that is one": json_response(
        {"keys": [1, None, "x", [], {}, {"kty": "RSA"}, {"kty": 5}, {"kty": "EC", "crv": "P-256", "x": "!", "y": 1}]}
    ),
    "key with odd members": json_response({"keys": [{**key().as_dict(private=False), "use": ["sig"], "key_ops": 5}]}),
    "key for encryption": json_response({"keys": [{**key().as_dict(private=False), "use": "enc"}]}),
    "key for signing": json_response({"keys": [{**key(use=None).as_dict(private=False), "key_ops": ["sign"]}]}),
    "compressed": lambda: Response(gzip.compress(b"{}"), headers={"content-encoding": "gzip"}),
    "elsewhere": lambda: RedirectResponse("/keys2"),
    "an error": lambda: PlainTextResponse("boom", 500),
    "nothing": lambda: Response(status_code=204),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_invalid_responses_give_no_key(issuer: Issuer, name: str) -> None:
    issuer.answer = respond_always(NONSENSE[name])
    with pytest.raises(IssuerUnreachableError):
        await has_key(IssuerKeys(issuer.url, f"{issuer.url}/keys"))


async def test_invalid_response_does_not_replace_keys(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, f"{issuer.url}/keys", clock=clock)
    assert await has_key(keys)
    for nonsense in NONSENSE.values():
        issuer.answer = respond_always(nonsense)
        clock.now += 600 if issuer.fetches() == 1 else 30
        assert await has_key(keys)
    assert issuer.fetches() == 1 + len(NONSENSE)


async def test_invalid_and_weak_keys_are_skipped(issuer: Issuer) -> None:
    weak = {"kty": "RSA", "kid": "weak", "e": "AQAB", "n": urlsafe_b64encode(b"\xff" * 128).decode()}
    issuer.keys = [
        {"kty": "RSA", "n": "short", "e": "AQAB"},
        {"kty": "new"},
        {"kty": "oct", "kid": "weak", "k": "AAAA"},
        weak,
        key(),
    ]
    keys = IssuerKeys(issuer.url)
    assert await has_key(keys)
    for algorithm in ("RS256", "PS256", "HS256"):
        assert await keys.find_key("weak", algorithm) is None


@pytest.mark.parametrize(
    "discovery", [{"issuer": "http://127.0.0.1/other"}, {"jwks_uri": None}, {"jwks_uri": "file:///etc/passwd"}]
)
async def test_discovery_document_is_validated(issuer: Issuer, discovery: dict[str, Any]) -> None:
    issuer.discovery = discovery
    with pytest.raises(IssuerUnreachableError):
        await has_key(IssuerKeys(issuer.url))
    assert issuer.fetches() == 0


async def test_missing_key_id_selects_the_only_key(issuer: Issuer, clock: Clock) -> None:
    keys = IssuerKeys(issuer.url, clock=clock)
    assert await has_key(keys, None)
    issuer.keys = [key(), key(kid="second"), key("P-384", kid="third")]
    clock.now += 600
    assert not await has_key(keys, None)
    assert await keys.find_key(None, "ES384")
