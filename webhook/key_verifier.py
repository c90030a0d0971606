"""API keys as credentials: looked up by their id, compared with what is kept of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from common.access import Principal
from common.api_keys import (
    ApiKey,
    NoApiKeyError,
    has_expired,
    is_that_of,
    looks_like_key,
    parse_key,
    principal_of_key,
)
from common.bounded_map import BoundedMap
from common.clock import Clock, system_clock
from common.ports.keys import KeyStore, StoredKey
from common.single_flight import SingleFlight
from webhook.authentication import unauthenticated
from webhook.problems import deadline

REMEMBERED_SECONDS = 2.0
"""A key that was revoked is refused so long after, at most. No setting: it is short enough for
people, and one read of the store in so long costs nothing."""
REMEMBERED_KEYS = 10_000
_UNKNOWN = "this API key is not known here"


class KeyVerifier:
    """Implements Verifier. What the store said is remembered for a moment.

    Ids that nobody has are not remembered: whoever makes them up would push known keys out. A store
    that is out of reach is TransientError or Problem (503): nobody is let in or turned away by it.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        timeout_seconds: float,
        clock: Clock = system_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._lately: BoundedMap[str, tuple[StoredKey, float]] = BoundedMap(
            REMEMBERED_KEYS, REMEMBERED_KEYS
        )
        self._asking: SingleFlight[str, StoredKey | None] = SingleFlight()

    def recognises(self, credential: str) -> bool:
        return looks_like_key(credential)

    async def principal(self, credential: str) -> Principal:
        """Raises Problem (401), the same for an unknown id and a wrong secret: only who has the
        secret is told that the key was revoked or has expired."""
        key = _parsed(credential)
        stored = await self._stored(key.id)
        if stored is None or not is_that_of(key, stored):
            raise unauthenticated(_UNKNOWN)
        if stored.revoked_at is not None:
            raise unauthenticated(f"the API key {stored.id} was revoked")
        if has_expired(stored, self._clock()):
            raise unauthenticated(f"the API key {stored.id} has expired")
        return principal_of_key(stored)

    async def _stored(self, key_id: str) -> StoredKey | None:
        remembered = self._lately.get(key_id)
        if remembered is not None and self._monotonic() < remembered[1]:
            return remembered[0]
        async with deadline(self._timeout_seconds):
            stored, _ = await self._asking.run(key_id, lambda: self._looked_up(key_id))
        return stored

    async def _looked_up(self, key_id: str) -> StoredKey | None:
        until = self._monotonic() + REMEMBERED_SECONDS  # From before the look: it may take a while.
        stored = await self._store.get(key_id)
        if stored is None:
            self._lately.pop(key_id)
        else:
            self._lately.put(key_id, (stored, until), 1)
        return stored


def _parsed(credential: str) -> ApiKey:
    try:
        return parse_key(credential)
    except NoApiKeyError as error:
        raise unauthenticated(str(error)) from None
