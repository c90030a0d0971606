"""What a consumer remembers of transient errors: which messages they hit, and since when.

One message's trouble is its own. When several documents of a namespace in a row meet nothing but
transient errors, something that all of them need is away. Then one of them at a time is tried, with
pauses, and the others are handed back untried, in place of running the whole backlog against a
closed door. Other namespaces, whose door may be open, are worked on meanwhile.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from common.model import DocumentKey
from common.ports.queue import Delivery
from workers.outcome import Retry

DOCUMENTS = 4
"""So many different documents in a row, and nothing else, are an outage and no coincidence."""
LONGEST_PAUSE_SECONDS = 10.0
"""How late after a failed try the next one is let through at most."""
LONGEST_TRY_SECONDS = 60.0
"""A try that takes longer may just have much to do: another one is let through beside it."""
SHORTEST_HAND_BACK_SECONDS = 15.0
LONGEST_HAND_BACK_SECONDS = 60.0
FRUITLESS_MESSAGES = 64
"""After so many messages without one success the consumer rests for a moment."""
LONGEST_REST_SECONDS = 2.0
RECENT_SECONDS = 300.0
REMEMBERED_MESSAGES = 10_000
REMEMBERED_NAMESPACES = 1_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Namespace:
    """One namespace's errors. A namespace without any is not remembered."""

    failing: set[DocumentKey] = field(default_factory=set)
    """Those of the errors in a row, as far as they have to be told apart."""
    in_a_row: int = 0
    recent: OrderedDict[DocumentKey, float] = field(default_factory=OrderedDict)
    """When the last transient error of each of the last few documents was."""
    passed_at: float = -math.inf
    trying: str = ""
    """The message that was let through though the namespace is away."""
    closed_at: float = -math.inf
    closed_seconds: float = 0.0

    @property
    def away(self) -> bool:
        return len(self.failing) >= DOCUMENTS

    def closed(self, now: float) -> bool:
        """A clock that was set back opens it."""
        return self.away and 0.0 <= now - self.closed_at < self.closed_seconds

    def close(self, now: float, seconds: float, trying: str = "") -> None:
        self.closed_at, self.closed_seconds, self.trying = now, seconds, trying

    def failed(self, key: DocumentKey) -> None:
        self.in_a_row += 1
        if not self.away:
            self.failing.add(key)

    def pause_seconds(self, jitter: random.Random) -> float:
        """Until the next try: full jitter, its bound doubling to a limit."""
        bound = 2.0 ** min(self.in_a_row - DOCUMENTS, 10)
        return jitter.uniform(0.0, min(bound, LONGEST_PAUSE_SECONDS))

    def passed(self, now: float) -> None:
        self.passed_at = now
        self.in_a_row = 0
        self.failing.clear()


@dataclass(slots=True)
class Outage:
    """One consumer's view; nothing of it is stored, so a new process is patient anew."""

    _since: OrderedDict[str, float] = field(default_factory=OrderedDict)
    """By message id: when its first transient error was."""
    _namespaces: OrderedDict[str, _Namespace] = field(default_factory=OrderedDict)
    _recent: OrderedDict[DocumentKey, float] = field(default_factory=OrderedDict)
    """As a namespace's, but of all of them."""
    _fruitless: int = 0
    """Messages in a row that failed so or were handed back, since a success or a rest."""

    def admits(self, delivery: Delivery, now: float) -> bool:
        """Whether to try the message now. While its namespace is away: one at a time."""
        namespace = self._namespaces.get(delivery.wake_up.namespace)
        if namespace is None or not namespace.away:
            return True
        if namespace.closed(now):
            self._fruitless += 1
            return False
        namespace.close(now, LONGEST_TRY_SECONDS, trying=delivery.message_id)
        return True

    def failed(self, delivery: Delivery, now: float, jitter: random.Random) -> float:
        """A transient error: for how many seconds the message has met nothing else."""
        key = delivery.wake_up.key
        self._fruitless += 1
        namespace = self._namespaces.get(key.namespace) or _Namespace()
        _remember(self._namespaces, key.namespace, namespace, REMEMBERED_NAMESPACES)
        _remember(namespace.recent, key, now, DOCUMENTS)
        _remember(self._recent, key, now, DOCUMENTS)
        namespace.failed(key)
        if namespace.trying in ("", delivery.message_id):
            namespace.close(now, namespace.pause_seconds(jitter))
        since = self._since.get(delivery.message_id, now)
        _remember(self._since, delivery.message_id, since, REMEMBERED_MESSAGES)
        return max(now - since, 0.0)

    def passed(self, delivery: Delivery, now: float) -> None:
        """The message's work is done: what it needed is within reach."""
        self.forget(delivery)
        self._fruitless = 0
        if namespace := self._namespaces.get(delivery.wake_up.namespace):
            namespace.passed(now)

    def ended(self, delivery: Delivery) -> None:
        """However it ended. A try that told nothing of the outage makes room for the next."""
        namespace = self._namespaces.get(delivery.wake_up.namespace)
        if namespace is not None and namespace.trying == delivery.message_id:
            namespace.close(-math.inf, 0.0)

    def forget(self, delivery: Delivery) -> None:
        """Its trouble begins anew if it comes again."""
        self._since.pop(delivery.message_id, None)

    def widespread(self, delivery: Delivery, now: float) -> bool:
        """Whether others of its namespace suffer too, though something may have succeeded since.

        Those of other namespaces say the same, unless its own does well: a few documents cannot
        tell by themselves that everything is away.
        """
        namespace = self._namespaces.get(delivery.wake_up.namespace)
        if namespace is None:
            return False
        if namespace.away or _several(namespace.recent, now):
            return True
        return _several(self._recent, now) and namespace.passed_at < now - RECENT_SECONDS

    def rest_seconds(self, jitter: random.Random) -> float:
        """Before the next message is received. To be asked each time: a rest is taken once."""
        if self._fruitless < FRUITLESS_MESSAGES:
            return 0.0
        self._fruitless = 0
        return jitter.uniform(0.0, LONGEST_REST_SECONDS)


def untried(jitter: random.Random) -> Retry:
    """What becomes of a message that is not admitted. The spread keeps them from one moment."""
    delay_seconds = jitter.uniform(SHORTEST_HAND_BACK_SECONDS, LONGEST_HAND_BACK_SECONDS)
    return Retry(delay_seconds, "its namespace is out of reach", counted=False, noted=False)


def _several(recent: OrderedDict[DocumentKey, float], now: float) -> bool:
    return sum(at > now - RECENT_SECONDS for at in recent.values()) >= DOCUMENTS


def _remember(memory: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """The `most` last ones; the longest unheard of is forgotten."""
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > most:
        memory.popitem(last=False)
