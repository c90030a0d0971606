"""How much each API key, person and source may ask for in a time: requests, changes, bytes.

Buckets are of this process alone: two of them together let in twice as much. Anybody on this
machine, and everybody where a service in front asks who calls, has no limits.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from common import telemetry
from common.access import Principal, PrincipalKind
from common.bounded_map import BoundedMap
from common.settings import Settings
from webhook.addresses import address_of, network_of
from webhook.problems import RATE_LIMITED, STOPPING, UNAUTHENTICATED, Problem
from webhook.token_bucket import Rate, TokenBucket

REQUESTS, CHANGES, BYTES, FAILURES = "requests", "changes", "bytes", "failures"
WAITING = "waiting"
MAX_BUCKETS = 10_000
"""Of each kind. Who was not seen for longest is forgotten, and begins with a full bucket."""
FAILURE_BURST = 20
WAITING_RETRY_SECONDS = 5

Authenticate = Callable[[web.Request], Awaitable[Principal]]
Clock = Callable[[], float]
"""Seconds that only ever grow."""


@dataclass(slots=True)
class Buckets:
    """One for each name; None for the rate: no limit."""

    kind: str
    rate: Rate | None
    _kept: BoundedMap[str, TokenBucket] = field(
        default_factory=lambda: BoundedMap(MAX_BUCKETS, MAX_BUCKETS)
    )

    def wait(self, name: str, amount: float, now: float) -> float:
        """Seconds; 0: it may be taken now."""
        bucket = self._kept.get(name)
        return 0.0 if self.rate is None or bucket is None else bucket.wait(amount, now)

    def charge(self, name: str, amount: float, now: float) -> None:
        if self.rate is None:
            return
        bucket = self._kept.get(name)
        if bucket is None:
            bucket = TokenBucket(self.rate)
            self._kept.put(name, bucket, 1)
        bucket.charge(amount, now)

    def refusal(self, name: str, amount: float, now: float) -> Problem | None:
        """As the answer 429 that says when to come again."""
        wait = self.wait(name, amount, now)
        if not wait or self.rate is None:
            return None
        seconds = math.ceil(wait)
        window = math.ceil(self.rate.burst / self.rate.per_second)
        return Problem(
            RATE_LIMITED,
            f"more than {self.rate.per_second:g} {self.kind} a second: try again in {seconds} s",
            limit=self.rate.per_second,
            headers={
                "Retry-After": str(seconds),
                "RateLimit-Policy": f'"{self.kind}";q={math.ceil(self.rate.burst)};w={window}',
                "RateLimit": f'"{self.kind}";r=0;t={seconds}',
            },
            reason=self.kind,
            retry_after_seconds=seconds,
        )


class Limits:
    """All rates None, as by default, limits nothing."""

    def __init__(
        self,
        *,
        requests: Rate | None = None,
        changes: Rate | None = None,
        volume: Rate | None = None,
        failures: Rate | None = None,
        waiting: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._requests = Buckets(REQUESTS, requests)
        self._changes = Buckets(CHANGES, changes)
        self._bytes = Buckets(BYTES, volume)
        self._failures = Buckets(FAILURES, failures)
        self._waiting_at_most = waiting
        self._waiting: Counter[str] = Counter()
        self._good: BoundedMap[bytes, bool] = BoundedMap(MAX_BUCKETS, MAX_BUCKETS)
        self._clock = clock

    def charge_request(self, principal: Principal) -> None:
        """Raises Problem (429)."""
        self._take(principal, [(self._requests, 1)])

    def charge_changes(self, principal: Principal, *, changes: int, size_bytes: int) -> None:
        """All of a request's at once, or nothing is taken. Raises Problem (429)."""
        self._take(principal, [(self._changes, changes), (self._bytes, size_bytes)])

    def charge_fetched(self, principal: Principal, size_bytes: int) -> None:
        """For what was fetched at their wish, whose size nobody knew before. It is never refused:
        what it is beyond the limit they owe, and wait before they ask for more."""
        if is_limited(principal):
            self._bytes.charge(principal.id, size_bytes, self._clock())

    def charge_scanned(self, principal: Principal, requests: float) -> None:
        """For what was looked through at their wish, as so many requests. It is never refused: what
        it is beyond the limit they owe, and wait before they ask for more."""
        if is_limited(principal):
            self._requests.charge(principal.id, requests, self._clock())

    async def wait_until_paid(self, principal: Principal, stopping: asyncio.Event) -> None:
        """Of what they owe in requests. Raises Problem (503) when the service stops first."""
        if not is_limited(principal):
            return
        while seconds := self._requests.wait(principal.id, 0, self._clock()):
            await _sleep(seconds, stopping)

    async def wait_for(
        self, principal: Principal, stopping: asyncio.Event, *, changes: int, size_bytes: int
    ) -> None:
        """Instead of an answer 429: nothing more is read of the sender meanwhile. Raises Problem
        (503) when the service stops first."""
        if not is_limited(principal):
            return
        wants = [(self._changes, changes), (self._bytes, size_bytes)]
        while seconds := max(b.wait(principal.id, n, self._clock()) for b, n in wants):
            await _sleep(seconds, stopping)
        for buckets, amount in wants:
            buckets.charge(principal.id, amount, self._clock())

    @contextmanager
    def waiting(self, principal: Principal) -> Iterator[None]:
        """For a feed, or a request that waits for a document: it holds a connection for long.
        Raises Problem (429) for one too many of theirs at once."""
        who = principal.id
        if not is_limited(principal) or not self._waiting_at_most:
            yield
            return
        if self._waiting[who] >= self._waiting_at_most:
            self._refuse(_too_many_waiting(self._waiting_at_most))
        self._waiting[who] += 1
        try:
            yield
        finally:
            self._waiting[who] -= 1
            if not self._waiting[who]:
                del self._waiting[who]

    async def authenticated(
        self, request: web.Request, authenticate: Authenticate, credentials: bytes | None = None
    ) -> Principal:
        """Whom the request speaks for, one request of theirs taken. `credentials`: what they are
        recognised by where they are not an API key or a token, empty where nothing is guessed at.

        Raises what `authenticate` does, and Problem (429), also when too many credentials from
        the request's address were wrong. One that was right before is looked at all the same:
        behind a proxy many share an address. A request without any guesses at nothing.
        """
        network = network_of(address_of(request))
        if credentials is None:
            credentials = credentials_of(request)
        guess = self._failures.rate is not None and credentials != b"" and network != ""
        if guess and self._good.get(credentials) is None:
            self._refuse(self._failures.refusal(network, 1, self._clock()))
        try:
            principal = await authenticate(request)
        except Problem as problem:
            if guess and problem.kind is UNAUTHENTICATED:
                self._good.pop(credentials)
                self._failures.charge(network, 1, self._clock())
            raise
        if guess:
            self._good.put(credentials, True, 1)
        self.charge_request(principal)
        return principal

    def _take(self, principal: Principal, wants: Sequence[tuple[Buckets, int]]) -> None:
        if not is_limited(principal):
            return
        now = self._clock()
        for buckets, amount in wants:
            self._refuse(buckets.refusal(principal.id, amount, now))
        for buckets, amount in wants:
            buckets.charge(principal.id, amount, now)

    def _refuse(self, refusal: Problem | None) -> None:
        if refusal is not None:
            telemetry.LIMITED.labels(str(refusal.more["reason"])).inc()
            raise refusal


def request_limits_of(settings: Settings, *, clock: Clock = time.monotonic) -> Limits:
    burst = settings.limit_burst_seconds

    def rate(per_second: float) -> Rate | None:
        return (
            Rate(per_second=per_second, burst=max(1.0, per_second * burst)) if per_second else None
        )

    guesses = settings.limit_failed_logins_per_minute / 60
    return Limits(
        requests=rate(settings.limit_requests_per_second),
        changes=rate(settings.limit_changes_per_second),
        volume=rate(settings.limit_bytes_per_second),
        waiting=settings.max_waiting_per_principal,
        failures=Rate(per_second=guesses, burst=FAILURE_BURST) if guesses else None,
        clock=clock,
    )


def _too_many_waiting(limit: int) -> Problem:
    return Problem(
        RATE_LIMITED,
        f"{limit} feeds and requests that wait are under way with this key: end one, or wait less",
        limit=limit,
        headers={"Retry-After": str(WAITING_RETRY_SECONDS)},
        reason=WAITING,
        retry_after_seconds=WAITING_RETRY_SECONDS,
    )


def is_limited(principal: Principal) -> bool:
    return principal.kind is not PrincipalKind.LOCAL


def credentials_of(request: web.Request) -> bytes:
    """What the request's credentials are recognised by, and cannot be told from; empty: it has
    none."""
    given = [*request.headers.getall("Authorization", []), "\0"]
    given += request.headers.getall("X-API-Key", [])
    if len(given) == 1:
        return b""
    return hashlib.sha256("\0".join(given).encode(errors="surrogateescape")).digest()


async def _sleep(seconds: float, stopping: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
    raise Problem(STOPPING, "the service is stopping; send this, and what follows it, again")
