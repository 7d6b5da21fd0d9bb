"""The cache of our own verified tokens."""

import time

import pytest

from storefront.core.auth import tokens
from storefront.core.auth.tokens import Claims, TokenVerifier, sign_token
from storefront.core.errors import Unauthenticated

SECRET = "s" * 32
ADA = Claims("ada", "ada@example.com")


def set_time(monkeypatch: pytest.MonkeyPatch, moment: float) -> None:
    monkeypatch.setattr(time, "time", lambda: moment)


def test_verified_token_is_cached() -> None:
    ours, token = TokenVerifier(SECRET), sign_token(ADA, SECRET, seconds=60)
    assert ours.get_cached(token) is None
    first = ours.verify(token)
    assert (first.subject, first.email) == ("ada", "ada@example.com")
    assert ours.get_cached(token) is first and ours.verify(token) is first


def test_cached_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, token, now = TokenVerifier(SECRET, leeway=30), sign_token(ADA, SECRET, seconds=60), time.time()
    ours.verify(token)
    set_time(monkeypatch, now + 85)
    assert ours.verify(token).subject == "ada"
    set_time(monkeypatch, now + 95)
    with pytest.raises(Unauthenticated, match="expired"):
        ours.verify(token)


def test_altered_cached_token_is_rejected() -> None:
    ours, token = TokenVerifier(SECRET), sign_token(ADA, SECRET, seconds=60)
    ours.verify(token)
    head, payload, signature = token.split(".")
    _, other, _ = sign_token(Claims("eve"), SECRET, seconds=60).split(".")
    for forged in (f"{head}.{other}.{signature}", f"{head}.{payload}.", f"{head}.{payload}.{signature[:-2]}AA", f"{token}="):
        assert ours.get_cached(forged) is None
        with pytest.raises(Unauthenticated):
            ours.verify(forged)
    with pytest.raises(Unauthenticated):
        TokenVerifier("t" * 32).verify(token)


def test_cache_is_lru_and_skips_long_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_CACHED_TOKENS", 3)
    ours = TokenVerifier(SECRET)
    issued = [sign_token(Claims(f"user {n}"), SECRET, seconds=60) for n in range(5)]
    for token in issued:
        ours.verify(token)
        ours.verify(issued[0])
    assert [ours.get_cached(token) is not None for token in issued] == [True, False, False, True, True]
    long = sign_token(Claims("ada", picture="x" * 2_000), SECRET, seconds=60)
    assert ours.verify(long).subject == "ada" and ours.get_cached(long) is None
