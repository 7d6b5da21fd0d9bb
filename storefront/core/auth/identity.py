"""Authentication of requests by headers and cookies, independent of the web framework."""

from collections.abc import Callable, Container, Mapping

from storefront.core.auth import csrf, oidc
from storefront.core.auth.authjs import AuthjsSessionVerifier
from storefront.core.auth.jwks import IssuerKeys
from storefront.core.auth.tokens import ALGORITHMS, Claims, TokenVerifier
from storefront.core.errors import Unauthenticated
from storefront.core.settings import Settings


class Authenticator:
    """The three authentication methods: our own bearer tokens, those of OpenID Connect issuers, and Auth.js sessions."""

    def __init__(
        self,
        token_verifier: TokenVerifier,
        issuers: Mapping[str, oidc.Issuer],
        session_verifier: AuthjsSessionVerifier | None,
        allowed_origins: Container[str],
    ) -> None:
        self._token_verifier, self._issuers, self._session_verifier = token_verifier, issuers, session_verifier
        self._allowed_origins = allowed_origins

    async def authenticate(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Claims | None:
        """The verified claims of the request; None for an anonymous one. `headers` by lower-case name.

        Raises Unauthenticated for invalid credentials, Forbidden for a cookie from another origin (CSRF), and
        IssuerUnreachableError where a token cannot be verified now. An Authorization header takes precedence over cookies.
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
        """Whether a request has no credentials at all, valid or invalid. Nothing is verified."""
        if _get_authorization(headers):
            return False
        return self._session_verifier is None or "cookie" not in headers or not self._session_verifier.find_sessions(cookies())

    @property
    def credential_headers(self) -> tuple[str, ...]:
        """The headers that may carry credentials."""
        return ("authorization", "cookie") if self._session_verifier else ("authorization",)

    async def _verify_bearer(self, token: str) -> Claims:
        if not self._issuers or self._token_verifier.get_cached(token):
            return self._token_verifier.verify(token)
        unverified = oidc.parse_token(token)
        # HS256 is verified with our own secret only, all other algorithms with public keys only (algorithm confusion).
        if unverified.header["alg"] in ALGORITHMS:
            return self._token_verifier.verify(token)
        issuer = self._issuers.get(str(unverified.payload.get("iss")))
        if issuer is None:
            raise Unauthenticated("The bearer token is not valid: its issuer is not configured here. Sign in again.")
        return await issuer.verify(unverified)


def create_authenticator(options: Settings) -> Authenticator:
    """The authentication methods that the settings configure."""
    secrets = options.authjs_secrets()
    session_verifier = AuthjsSessionVerifier(secrets, trust_email=options.authjs_trust_email) if secrets else None
    issuers = {url: _create_issuer(url, keys_url, options) for url, keys_url in options.issuers().items()}
    token_verifier = TokenVerifier(options.load_signing_secret(), leeway=options.clock_skew)
    return Authenticator(token_verifier, issuers, session_verifier, options.origins())


def _create_issuer(url: str, keys_url: str | None, options: Settings) -> oidc.Issuer:
    keys = IssuerKeys(url, keys_url, max_age=options.oidc_keys_max_age)
    return oidc.Issuer(url, options.audiences(), keys, leeway=options.clock_skew, trust_email=options.oidc_trust_email)


def _get_authorization(headers: Mapping[str, str]) -> str:
    # Some clients send an empty header when they have no token.
    return headers.get("authorization", "").strip()


def _parse_bearer_token(header: str) -> str:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("The header must be Authorization: Bearer <token>.")
    return token.strip()
