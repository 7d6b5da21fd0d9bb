"""Who sends a request, by whichever proof it carries. Knows headers and cookies, but no web framework."""

from collections.abc import Callable, Collection, Mapping

from storefront.core.auth import csrf, oidc
from storefront.core.auth.authjs import Sessions
from storefront.core.auth.jwks import Keys
from storefront.core.auth.tokens import ALGORITHMS, Claims, Tokens
from storefront.core.errors import Unauthenticated
from storefront.core.settings import Settings


class Identity:
    """All proofs that the server accepts: tokens of its own, of OpenID Connect issuers, sessions of Auth.js front ends."""

    def __init__(
        self,
        tokens: Tokens,
        issuers: Mapping[str, oidc.Issuer],
        sessions: Sessions | None,
        allowed_origins: Collection[str],
    ) -> None:
        self._tokens, self._issuers, self._sessions = tokens, issuers, sessions
        self._allowed_origins = allowed_origins

    async def claims(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Claims | None:
        """What the request proves of its user, None where it claims nothing. `headers` by lower-case name.

        Raises Unauthenticated for a proof that does not hold, Forbidden for a cookie that another site's page sent along,
        IssuerUnreachable where a token cannot be checked now. With an Authorization header, cookies count for nothing.
        """
        header = _authorization(headers)
        if header:
            return await self._bearer(_token(header))
        held = self._sessions.held(cookies) if self._sessions else {}
        if not self._sessions or not held:
            return None
        csrf.check(headers, self._allowed_origins)
        return self._sessions.claims(held)

    def claims_nothing(self, headers: Mapping[str, str], cookies: Callable[[], Mapping[str, str]]) -> bool:
        """Whether a request has no proof at all, neither good nor bad: known without a look at any."""
        if _authorization(headers):
            return False
        return self._sessions is None or "cookie" not in headers or not self._sessions.held(cookies())

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The headers that may prove who sends a request."""
        return ("authorization", "cookie") if self._sessions else ("authorization",)

    async def _bearer(self, token: str) -> Claims:
        if not self._issuers or self._tokens.known(token):
            return self._tokens.verify(token)
        unverified = oidc.parse(token)
        # By this name only our own secret is ever tried, and by no other name: a public key never stands in for it.
        if unverified.header["alg"] in ALGORITHMS:
            return self._tokens.verify(token)
        issuer = self._issuers.get(str(unverified.payload.get("iss")))
        if issuer is None:
            raise Unauthenticated("The bearer token is not valid: this server does not know its issuer. Sign in again.")
        return await issuer.claims(unverified)


def identity(options: Settings) -> Identity:
    """The proofs that these settings accept."""
    secrets = options.authjs_secrets()
    sessions = Sessions(secrets, trust_email=options.authjs_trust_email) if secrets else None
    issuers = {url: _issuer(url, keys_url, options) for url, keys_url in options.issuers().items()}
    tokens = Tokens(options.signing_secret(), leeway=options.clock_skew)
    return Identity(tokens, issuers, sessions, options.origins())


def _issuer(url: str, keys_url: str | None, options: Settings) -> oidc.Issuer:
    keys = Keys(url, keys_url, max_age=options.oidc_keys_max_age)
    return oidc.Issuer(url, options.audiences(), keys, leeway=options.clock_skew, trust_email=options.oidc_trust_email)


def _authorization(headers: Mapping[str, str]) -> str:
    # An empty header is none: some clients send it where they have no token.
    return headers.get("authorization", "").strip()


def _token(header: str) -> str:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("The header must be Authorization: Bearer <token>.")
    return token.strip()
