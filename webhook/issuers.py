"""Those who vouch for people, as the settings name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.settings import Settings

if TYPE_CHECKING:
    from webhook.oidc import OidcVerifier


def issuers_of(settings: Settings) -> list[OidcVerifier]:
    """One verifier of all issuers' tokens, or none. To be closed. Where there are no issuers, no
    cryptography is loaded."""
    if not settings.oidc_issuers:
        return []
    from webhook.oidc import OidcVerifier
    from webhook.oidc_key_cache import KeyCache

    return [OidcVerifier([(issuer, KeyCache(issuer)) for issuer in settings.oidc_issuers])]
