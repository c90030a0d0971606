"""Issuers of tokens (OpenID Connect) whose people may call the webhook, as settings. Pure.

Everything that can be known to be wrong without asking the issuer is refused here, at the start.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from common.access import EVERYWHERE, Role

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"
]  # fmt: skip
"""Of signatures by a private key that only the issuer has. There is no HS256, whose key both sides
would have, and no `none`."""

Text = Annotated[str, StringConstraints(min_length=1)]
ClaimPath = Text | Annotated[list[Text], Field(min_length=1)]
"""`org_role`, `realm_access.roles`; as a list where a name has dots in it:
["resource_access", "my.client", "roles"]."""

VALUE = "{value}"
WITHOUT_TLS = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts that keys may be fetched from over plain HTTP: on the way from any other, somebody could
put their own in their place."""


def _address(url: str) -> str:
    """Raises ValueError for what keys could not be fetched from safely."""
    parts = _split(url)
    if parts.username is not None or parts.query or parts.fragment or not parts.hostname:
        raise ValueError("not an address without user, query and fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in WITHOUT_TLS):
        raise ValueError("not an https address (http is taken of this machine only)")
    return url


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise ValueError("not an address") from None


def _pattern(text: str) -> str:
    """Raises ValueError."""
    if EVERYWHERE in text[:-1]:
        raise ValueError("a pattern is a namespace, or the beginning of some and an asterisk")
    return text


Address = Annotated[str, AfterValidator(_address)]
Pattern = Annotated[Text, AfterValidator(_pattern)]


class OidcIssuer(BaseModel):
    """One issuer, whom its tokens must be for, and what its people may do.

    A token with `aud` has to name one of `audience`; one without (access tokens of Cognito, session
    tokens of Clerk) has to be for one of `client_ids`, or else of `authorized_parties`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: Address
    """Exactly as the tokens' `iss` says it, a slash at its end included."""
    jwks_url: Address | None = None
    """Where its keys are; None: where its /.well-known/openid-configuration says."""
    algorithms: list[Algorithm] = Field(default=["RS256"], min_length=1)

    audience: list[Text] = Field(default_factory=list)
    client_ids: list[Text] = Field(default_factory=list)
    """Of the claim `client_id`."""
    authorized_parties: list[Text] = Field(default_factory=list)
    """Of the claim `azp`; every token has to name one where there are any."""

    role_claim: ClaimPath | None = None
    roles: dict[Text, Role] = Field(default_factory=dict)
    """What the issuer's names mean here; whoever has several has the most powerful one."""
    default_role: Role | None = None
    """Of those with none of `roles`; None: they are refused."""

    namespaces: list[Pattern] = Field(default_factory=list)
    """For everybody."""
    namespaces_claim: ClaimPath | None = None
    """Further ones, of each person."""
    namespace_map: dict[Text, list[Pattern]] = Field(default_factory=dict)
    """What the claim's values mean here."""
    namespace_template: Pattern | None = None
    """What is made of a value that is not in `namespace_map`: `tenant-{value}`. None: the value is
    a namespace's name where there is no map, and nothing where there is one."""

    leeway_seconds: float = Field(60.0, ge=0, le=300)
    """Between the issuer's clock and this one."""
    stale_keys_seconds: float = Field(6 * 3600.0, ge=0, le=7 * 86400.0)
    """How long the keys last fetched are still believed while the issuer does not answer."""

    @property
    def name(self) -> str:
        """In a person's id and in lines for people."""
        return self.issuer.partition("://")[2].rstrip("/")

    @model_validator(mode="after")
    def _is_for_somebody(self) -> OidcIssuer:
        if not (self.audience or self.client_ids or self.authorized_parties):
            raise ValueError(
                "without audience, client_ids or authorized_parties its tokens for any other "
                "application would open this one"
            )
        return self

    @model_validator(mode="after")
    def _gives_roles(self) -> OidcIssuer:
        if (self.role_claim is None) != (not self.roles):
            raise ValueError("role_claim and roles need each other")
        if self.role_claim is None and self.default_role is None:
            raise ValueError(
                "without role_claim and roles, or default_role, nobody may do anything"
            )
        return self

    @model_validator(mode="after")
    def _gives_namespaces(self) -> OidcIssuer:
        if not self.namespaces and self.namespaces_claim is None:
            raise ValueError(
                "without namespaces or namespaces_claim nobody reaches anything; "
                f'["{EVERYWHERE}"] is all of them'
            )
        if self.namespaces_claim is None and (self.namespace_map or self.namespace_template):
            raise ValueError("namespace_map and namespace_template need namespaces_claim")
        if self.namespace_template is not None and self.namespace_template.count(VALUE) != 1:
            raise ValueError(f"namespace_template has {VALUE} in it, once")
        return self


def _different(issuers: list[OidcIssuer]) -> list[OidcIssuer]:
    """Raises ValueError: two people of one id would be one to limits and to the audit trail."""
    names = [issuer.name for issuer in issuers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"more than one issuer {', '.join(twice)}")
    return issuers


OidcIssuers = Annotated[list[OidcIssuer], AfterValidator(_different)]
