"""Bearer tokens of OpenID Connect issuers, signed with keys of which we know the public half."""

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

# ID tokens and access tokens. An issuer signs other things with the same keys, such as notes that somebody signed out.
TOKEN_TYPES = ("", "jwt", "at+jwt", "application/at+jwt")


class _SignatureRegistry(JWSRegistry):
    # Issuers may add headers and chains of certificates; we do not follow them, but they are no fault of the token.
    max_header_length = 8_192

    def get_alg(self, name: str) -> JWSAlgModel:
        # The library warns of "EdDSA" since it has a new name; the issuers still write it.
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not supported")
        return self.algorithms[name]


_signature_registry = _SignatureRegistry(algorithms=ALGORITHMS, strict_check_header=False)


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A token as it was read. Nothing in it is true yet: it only says whom to ask."""

    signature: CompactSignature
    header: dict[str, Any]
    payload: dict[str, Any]


def parse_token(token: str) -> UnverifiedToken:
    """Read a token without believing it; raises Unauthenticated where it is none."""
    try:
        signature = jws.extract_compact(token.encode(), registry=_signature_registry)
        header, payload = signature.headers(), orjson.loads(signature.payload)
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise build_invalid_credentials_error(CREDENTIAL_KIND, error) from None
    if not isinstance(payload, dict):
        raise build_invalid_credentials_error(CREDENTIAL_KIND, TypeError())
    return UnverifiedToken(signature, header, payload)


class Issuer:
    """One who signs tokens for us. `audiences` are the names by which tokens say that they are meant for us: one will do.

    With `trust_email`, an address is verified when a token calls it so.
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
        """What the token says once everything about it holds; raises Unauthenticated, or IssuerUnreachable."""
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
