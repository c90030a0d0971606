"""Tokens and the keys they are signed with, made by the tests themselves."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import AllowedPrivateKeys, get_default_algorithms

from common.oidc_issuers import OidcIssuer

NOW = 1_800_000_000.0
ISSUER = "https://id.example/realms/docs"
JSON = dict[str, Any]


@dataclass(frozen=True)
class Signer:
    """One key of an issuer."""

    kid: str
    algorithm: str
    private: AllowedPrivateKeys

    @property
    def jwk(self) -> JSON:
        """As the issuer publishes it."""
        public: Any = self.private.public_key()
        made: JSON = dict(get_default_algorithms()[self.algorithm].to_jwk(public, as_dict=True))
        made.pop("key_ops", None)
        return made | {"kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def token(self, claims: Mapping[str, Any], **header: Any) -> str:
        """`header` adds to alg, typ and kid; None takes one away."""
        named = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid} | header
        kept = {name: value for name, value in named.items() if value is not None}
        return self.signed(json.dumps(kept), json.dumps(claims))

    def signed(self, header: str, claims: str) -> str:
        """Whatever they say: this algorithm's signature under these texts."""
        said = f"{part(header.encode())}.{part(claims.encode())}"
        algorithm = get_default_algorithms()[self.algorithm]
        return f"{said}.{part(algorithm.sign(said.encode(), self.private))}"


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


_PRIVATE: Mapping[str, Callable[[], AllowedPrivateKeys]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


@cache
def signer(algorithm: str = "RS256", kid: str = "first") -> Signer:
    """The same for the same arguments, within one run of the tests."""
    return Signer(kid, algorithm, _PRIVATE[algorithm]())


def issuer(**given: Any) -> OidcIssuer:
    """One that takes what `claims` makes."""
    usual = {
        "issuer": ISSUER, "audience": ["docs"], "algorithms": list(_PRIVATE),
        "role_claim": "roles", "roles": {"writers": "editor"}, "namespaces": ["handbook"],
    }  # fmt: skip
    return OidcIssuer.model_validate(usual | given)


def claims(**given: Any) -> JSON:
    """None takes one away."""
    usual = {
        "iss": ISSUER, "aud": "docs", "sub": "ada", "roles": ["writers"],
        "iat": int(NOW) - 10, "nbf": int(NOW) - 10, "exp": int(NOW) + 300,
    }  # fmt: skip
    return {name: value for name, value in (usual | given).items() if value is not None}


def unsigned(given: Mapping[str, Any], **header: Any) -> str:
    return f"{part(json.dumps(header).encode())}.{part(json.dumps(given).encode())}."


def by_secret(given: Mapping[str, Any], secret: bytes, kid: str = "first") -> str:
    """Signed by a secret that both sides would have to know."""
    head = part(json.dumps({"alg": "HS256", "typ": "JWT", "kid": kid}).encode())
    said = f"{head}.{part(json.dumps(given).encode())}"
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{said}.{part(algorithm.sign(said.encode(), secret))}"
