"""Settings of authentication: OpenID Connect issuers, Auth.js sessions, and the origins that may send cookies."""

from itertools import zip_longest
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from storefront.core.auth.csrf import AllowedOrigins
from storefront.core.settings.parsing import LOCAL_HOSTS, split_list


class AuthSettings(BaseSettings):
    """OpenID Connect, Auth.js, CORS and CSRF."""

    oidc_issuer: str | None = Field(
        None,
        description="OpenID Connect issuers whose bearer tokens are accepted, comma-separated, each equal to the `iss` of its "
        "tokens.",
    )
    oidc_audience: str | None = Field(
        None, validate_default=True, description="Accepted audiences, comma-separated: a token's `aud` must have one of them."
    )
    oidc_jwks_url: str | None = Field(
        None, description="JWKS URLs of the issuers, one for each in the same order. Unset: found by OpenID Connect Discovery."
    )
    oidc_keys_max_age: int = Field(600, ge=30, le=86_400, description="Maximum seconds for which the issuers' keys are cached.")
    oidc_trust_email: bool = Field(
        True,
        description="Whether the `email_verified` claim of these issuers is trusted. A verified address links to the existing "
        "user with that address.",
    )
    clock_skew: int = Field(
        30,
        ge=0,
        le=300,
        description="Allowed clock skew of token issuers, in seconds. For as long after a user signs out everywhere, new tokens "
        "of an issuer are refused, too.",
    )
    authjs_secret: SecretStr | None = Field(
        None,
        description="Secret of Auth.js (NextAuth), which decrypts its session cookies; several comma-separated, newest first.",
    )
    authjs_trust_email: bool = Field(
        False, description="Whether addresses in Auth.js sessions count as verified, and link to existing users."
    )
    allowed_origins: str | None = Field(
        None,
        description="Other origins whose pages may send cookies and read responses, comma-separated, such as "
        "https://shop.example, or http://localhost:* for any port (CORS, CSRF). Unset: none; with `serve --demo` on a loopback "
        "address, pages of localhost at any port.",
    )
    open_to_origins: bool = Field(
        False, description="Whether pages of all other origins may send requests without cookies, too (CORS: `*`)."
    )

    def issuers(self) -> dict[str, str | None]:
        """The OpenID Connect issuers, each with its JWKS URL, or None for discovery."""
        return dict(zip_longest(split_list(self.oidc_issuer), split_list(self.oidc_jwks_url)))

    def audiences(self) -> list[str]:
        """The accepted audiences (`aud`) of tokens."""
        return split_list(self.oidc_audience)

    def authjs_secrets(self) -> list[str]:
        """The secrets of the Auth.js front ends, newest first."""
        return split_list(self.authjs_secret)

    def origins(self) -> AllowedOrigins:
        """The allowed origins, as browsers send them."""
        return AllowedOrigins(split_list(self.allowed_origins))

    @field_validator("oidc_issuer")
    @classmethod
    def _check_issuers(cls, value: str | None) -> str | None:
        if not all(_is_issuer(url) for url in split_list(value)):
            raise ValueError("each issuer must be an https:// URL without ?, # or | (http:// only on this machine)")
        return value

    @field_validator("oidc_audience")
    @classmethod
    def _check_audiences(cls, value: str | None, info: ValidationInfo) -> str | None:
        if split_list(info.data.get("oidc_issuer")) and not split_list(value):
            raise ValueError("must be set with STOREFRONT_OIDC_ISSUER: else tokens issued for other services would be accepted")
        return value

    @field_validator("oidc_jwks_url")
    @classmethod
    def _check_jwks_urls(cls, value: str | None, info: ValidationInfo) -> str | None:
        urls = split_list(value)
        if urls and len(urls) != len(split_list(info.data.get("oidc_issuer"))):
            raise ValueError("must be one URL for each issuer of STOREFRONT_OIDC_ISSUER, or unset")
        if not all(url.startswith(("https://", "http://")) for url in urls):
            raise ValueError("must be https:// URLs, or http:// inside a trusted network")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: str | None) -> str | None:
        AllowedOrigins(split_list(value))
        return value


def _is_issuer(url: str) -> bool:
    parts = urlsplit(url)
    if not parts.hostname or any(character in url for character in "?#|@"):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS)
