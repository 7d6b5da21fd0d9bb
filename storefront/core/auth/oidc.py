"""Bearer tokens of OpenID Connect issuers, verified with the issuers' public keys."""

from dataclasses import dataclass
from typing import Any

import orjson
from joserfc import jws, jwt
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jws import CompactSignature, JWSRegistry

from storefront.core.auth.jwks import ALGORITHMS, IssuerKeys
from storefront.core.auth.tokens import Claims, build_invalid_credentials_error, parse_claims
from storefront.core.errors import Unauthenticated

CREDENTIAL_KIND = "bearer token"

# ID tokens and access tokens. Issuers sign others with the same keys, such as logout tokens.
TOKEN_TYPES = ("", "jwt", "at+jwt", "application/at+jwt")


class _SignatureRegistry(JWSRegistry):
    # Issuers may add headers and certificate chains. They are ignored, but must not make a token invalid.
    max_header_length = 8_192

    def get_alg(self, name: str) -> JWSAlgModel:
        # The library warns of the deprecated name "EdDSA", which issuers still use.
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not supported")
        return self.algorithms[name]


_signature_registry = _SignatureRegistry(algorithms=ALGORITHMS, strict_check_header=False)


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A parsed token before verification. Only `iss` and `alg` may be used, to choose the verifier."""

    signature: CompactSignature
    header: dict[str, Any]
    payload: dict[str, Any]


def parse_token(token: str) -> UnverifiedToken:
    """Parse a token without verifying it; raises Unauthenticated where it is malformed."""
    try:
        signature = jws.extract_compact(token.encode(), registry=_signature_registry)
        header, payload = signature.headers(), orjson.loads(signature.payload)
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise build_invalid_credentials_error(CREDENTIAL_KIND, error) from None
    if not isinstance(payload, dict):
        raise build_invalid_credentials_error(CREDENTIAL_KIND, TypeError())
    return UnverifiedToken(signature, header, payload)


class Issuer:
    """An OpenID Connect issuer. A token's `aud` must contain one of `audiences`; `leeway`: allowed clock skew in seconds.

    With `trust_email`, the claim `email_verified` is trusted.
    """

    def __init__(self, url: str, audiences: list[str], keys: IssuerKeys, *, leeway: int, trust_email: bool = True) -> None:
        self._url, self._keys = url, keys
        self._leeway, self._trust_email = leeway, trust_email
        self._claim_rules = jwt.JWTClaimsRegistry(
            leeway=leeway,
            iss={"essential": True, "value": url},
            aud={"essential": True, "values": audiences},
            exp={"essential": True},
            sub={"essential": True},
        )

    async def verify(self, token: UnverifiedToken) -> Claims:
        """The claims of a token with a valid signature. Raises Unauthenticated, or IssuerUnreachableError."""
        try:
            _signature_registry.check_header(token.header)
            await self._check_signature(token)
            self._claim_rules.validate(token.payload)
        except (JoseError, ValueError, TypeError) as error:
            raise build_invalid_credentials_error(CREDENTIAL_KIND, error) from None
        is_verified = self._trust_email and token.payload.get("email_verified") is True
        return parse_claims(CREDENTIAL_KIND, token.payload, issuer=self._url, email_verified=is_verified, skew=self._leeway)

    async def _check_signature(self, token: UnverifiedToken) -> None:
        algorithm = token.header["alg"]
        if algorithm not in ALGORITHMS:
            raise UnsupportedAlgorithmError
        if str(token.header.get("typ", "")).lower() not in TOKEN_TYPES:
            raise Unauthenticated("The bearer token is not valid: it is neither an ID token nor an access token. Sign in again.")
        key = await self._keys.find_key(token.header.get("kid"), algorithm)
        if key is None:
            raise Unauthenticated("The bearer token is not valid: its issuer has no such key. Sign in again.")
        if not jws.validate_compact(token.signature, key, registry=_signature_registry):
            raise Unauthenticated("The bearer token is not valid: bad signature. Sign in again.")
