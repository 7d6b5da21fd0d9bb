"""Who sends a request, by whichever proof it carries. Knows headers and cookies, but no web framework."""

from collections.abc import Callable, Collection, Mapping

from storefront.core.auth import csrf, oidc
from storefront.core.auth.authjs import AuthjsSessionVerifier
from storefront.core.auth.jwks import IssuerKeys
from storefront.core.auth.tokens import ALGORITHMS, Claims, TokenVerifier
from storefront.core.errors import Unauthenticated
from storefront.core.settings import Settings


class Authenticator:
    """All proofs that the server accepts: tokens of its own, of OpenID Connect issuers, sessions of Auth.js front ends."""

    def __init__(
        self,
        token_verifier: TokenVerifier,
        issuers: Mapping[str, oidc.Issuer],
        session_verifier: AuthjsSessionVerifier | None,
        allowed_origins: Collection[str],
    ) -> None:
        self._token_verifier, self._issuers, self._session_verifier = token_verifier, issuers, session_verifier
        self._allowed_origins = allowed_origins

    async def authenticate(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Claims | None:
        """What the request proves of its user, None where it claims nothing. `headers` by lower-case name.

        Raises Unauthenticated for a proof that does not hold, Forbidden for a cookie that another site's page sent along,
        IssuerUnreachable where a token cannot be checked now. With an Authorization header, cookies count for nothing.
        """
        header = _get_authorization(headers)
        if header:
            return await self._verify_bearer(_parse_bearer_token(header))
        session_cookies = self._session_verifier.find_sessions(cookies) if self._session_verifier else {}
        if not self._session_verifier or not session_cookies:
            return None
        csrf.check_request_origin(headers, self._allowed_origins)
        return self._session_verifier.verify(session_cookies)

    def has_no_credentials(self, headers: Mapping[str, str], cookies: Callable[[], Mapping[str, str]]) -> bool:
        """Whether a request has no proof at all, neither good nor bad: known without a look at any."""
        if _get_authorization(headers):
            return False
        return self._session_verifier is None or "cookie" not in headers or not self._session_verifier.find_sessions(cookies())

    @property
    def credential_headers(self) -> tuple[str, ...]:
        """The headers that may prove who sends a request."""
        return ("authorization", "cookie") if self._session_verifier else ("authorization",)

    async def _verify_bearer(self, token: str) -> Claims:
        if not self._issuers or self._token_verifier.get_cached(token):
            return self._token_verifier.verify(token)
        unverified = oidc.parse_token(token)
        # By this name only our own secret is ever tried, and by no other name: a public key never stands in for it.
        if unverified.header["alg"] in ALGORITHMS:
            return self._token_verifier.verify(token)
        issuer = self._issuers.get(str(unverified.payload.get("iss")))
        if issuer is None:
            raise Unauthenticated("The bearer token is not valid: this server does not know its issuer. Sign in again.")
        return await issuer.verify(unverified)


def create_authenticator(options: Settings) -> Authenticator:
    """The proofs that these settings accept."""
    secrets = options.authjs_secrets()
    session_verifier = AuthjsSessionVerifier(secrets, trust_email=options.authjs_trust_email) if secrets else None
    issuers = {url: _create_issuer(url, keys_url, options) for url, keys_url in options.issuers().items()}
    token_verifier = TokenVerifier(options.load_signing_secret(), leeway=options.clock_skew)
    return Authenticator(token_verifier, issuers, session_verifier, options.origins())


def _create_issuer(url: str, keys_url: str | None, options: Settings) -> oidc.Issuer:
    keys = IssuerKeys(url, keys_url, max_age=options.oidc_keys_max_age)
    return oidc.Issuer(url, options.audiences(), keys, leeway=options.clock_skew, trust_email=options.oidc_trust_email)


def _get_authorization(headers: Mapping[str, str]) -> str:
    # An empty header is none: some clients send it where they have no token.
    return headers.get("authorization", "").strip()


def _parse_bearer_token(header: str) -> str:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("The header must be Authorization: Bearer <token>.")
    return token.strip()
