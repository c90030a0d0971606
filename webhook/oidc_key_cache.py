"""The keys of one issuer, kept for as long as they may be believed.

Asked for again when they are no longer fresh, and when a token names a key that is not among them:
that is how an issuer's new key is learned. Strangers can name keys that nobody has, so between two
questions there is a pause, whoever asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from common import telemetry
from common.oidc_issuers import OidcIssuer
from common.oidc_keys import PublishedKeys, SigningKey, fetch_keys
from common.ports.errors import PortError, TransientError

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 10.0
NEVER = float("-inf")


class UnknownKeyError(Exception):
    """The issuer publishes no such key. The message is for whoever sent the token."""


class KeyCache:
    """Belongs to one event loop. One question to the issuer at a time, shared by all who wait."""

    def __init__(
        self,
        issuer: OidcIssuer,
        *,
        fetch: Callable[[OidcIssuer], Awaitable[PublishedKeys]] = fetch_keys,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._published: PublishedKeys | None = None
        self._fetched_at = NEVER
        self._asked_at = NEVER
        self._failed = False
        self._question: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, algorithm: str) -> SigningKey:
        """Raises UnknownKeyError, and TransientError while the issuer does not answer and what is
        known of its keys does not decide."""
        if not self._is_fresh():
            # An issuer that failed last is asked beside the request, not by it.
            await self._ask(waits=not (self._failed and self._is_believed()))
        found = self._known(kid, algorithm)
        if not found:
            await self._ask(waits=True)
            found = self._known(kid, algorithm)
        if len(found) == 1:
            return found[0]
        if not found and (self._failed or not self._is_believed()):
            raise TransientError(f"the keys of {self._issuer.name} cannot be fetched")
        raise UnknownKeyError(_missing(kid, algorithm, several=bool(found)))

    async def close(self) -> None:
        if (question := self._question) is not None:
            question.cancel()
            await asyncio.gather(question, return_exceptions=True)

    def _known(self, kid: str | None, algorithm: str) -> list[SigningKey]:
        """A token that names no key is of the only one that it could be of."""
        if self._published is None or not self._is_believed():
            return []
        fitting = (key for key in self._published.keys if algorithm in key.algorithms)
        return [key for key in fitting if kid is None or key.kid == kid]

    def _is_fresh(self) -> bool:
        return self._published is not None and self._age() < self._published.fresh_seconds

    def _is_believed(self) -> bool:
        if self._published is None:
            return False
        return self._age() < self._published.fresh_seconds + self._issuer.stale_keys_seconds

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    async def _ask(self, *, waits: bool) -> None:
        """Unless the issuer was asked just now. A caller that is cancelled leaves the question to
        the others."""
        if self._question is None:
            if self._clock() - self._asked_at < PAUSE_SECONDS:
                return
            self._asked_at = self._clock()
            self._question = asyncio.create_task(self._refresh(), name="fetch-issuer-keys")
        if waits:
            await asyncio.shield(self._question)

    async def _refresh(self) -> None:
        """Never fails: what is known stays as it is."""
        try:
            published = await self._fetch(self._issuer)
        except PortError as error:
            self._failed = True
            log.warning("oidc.keys_not_fetched", issuer=self._issuer.name, error=str(error))
        except Exception:
            self._failed = True
            telemetry.UNFORESEEN.labels("oidc").inc()
            log.exception("oidc.keys_not_fetched", issuer=self._issuer.name)
        else:
            self._failed = False
            self._published, self._fetched_at = published, self._clock()
            log.info("oidc.keys_fetched", issuer=self._issuer.name, keys=len(published.keys))
        finally:
            self._question = None


def _missing(kid: str | None, algorithm: str, *, several: bool) -> str:
    if several:
        return "it does not say with which of the issuer's keys it is signed (kid)"
    if kid is None:
        return f"its issuer publishes no key for {algorithm}"
    return f"it is signed with a key (kid) that its issuer does not publish for {algorithm}"
