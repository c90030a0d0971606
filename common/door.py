"""Whether a service may listen where it is told to: nobody asks who calls while there is no key.

Looked at before anything is started, and by `bloomweaver doctor`.
"""

from __future__ import annotations

import asyncio
import ipaddress

from common.composition import ConfigurationError, connect
from common.ports.errors import TransientError
from common.ports.keys import KeyStore
from common.settings import Settings

LOOPBACK_NAMES = frozenset({"localhost"})


def is_loopback(host: str) -> bool:
    """By its name or its address; nothing is resolved."""
    name = host.strip("[]").lower().removesuffix(".")
    if name in LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def needs_a_key(settings: Settings) -> bool:
    """Whether a webhook on BLOOMWEAVER_HOST must not start before there is a key."""
    named = settings.auth == "auto" and not is_loopback(settings.host)
    return named and not settings.oidc_issuers


def no_key(host: str) -> ConfigurationError:
    return ConfigurationError(
        f"BLOOMWEAVER_HOST={host!r} is not of this machine alone, and there is no API key: make "
        "one with `bloomweaver keys create`, or set BLOOMWEAVER_AUTH=off where something in front "
        "of it asks who calls"
    )


async def require_a_key_if_needed(settings: Settings, *, receiver: str) -> None:
    """Raises ConfigurationError where everybody could call, and what the store of keys raises."""
    if not needs_a_key(settings):
        return
    keys: KeyStore = connect("keys", settings.keys_url, settings, receiver)
    try:
        async with asyncio.timeout(settings.check_timeout_seconds):
            known = await keys.list()
    except TimeoutError:
        raise TransientError(
            f"BLOOMWEAVER_KEYS_URL: no answer within {settings.check_timeout_seconds:g} s"
        ) from None
    finally:
        await keys.close()
    if not known:
        raise no_key(settings.host)
