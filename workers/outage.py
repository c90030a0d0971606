"""What a consumer remembers of transient errors: which messages they hit, and since when.

One message's trouble is its own. When several documents in a row meet nothing but transient
errors, something that all of them need is away: the consumer then tries one message at a time, with
pauses, in place of running its whole backlog against a closed door.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass, field

from common.model import DocumentKey
from common.ports.queue import Delivery

DOCUMENTS = 4
"""So many different documents in a row, and nothing else, are an outage and no coincidence."""
LONGEST_PAUSE_SECONDS = 10.0
"""How late the end of an outage is noticed at most."""
RECENT_SECONDS = 300.0
REMEMBERED_MESSAGES = 10_000


@dataclass(slots=True)
class Outage:
    """One consumer's view; nothing of it is stored, so a new process is patient anew."""

    _since: OrderedDict[str, float] = field(default_factory=OrderedDict)
    """By message id: when its first transient error was."""
    _in_a_row: int = 0
    _documents: set[DocumentKey] = field(default_factory=set)
    """Those of the errors in a row, as far as they have to be told apart."""
    _recent: OrderedDict[DocumentKey, float] = field(default_factory=OrderedDict)
    """When the last transient error of each of the last few documents was."""

    @property
    def evident(self) -> bool:
        return len(self._documents) >= DOCUMENTS

    def widespread(self, now: float) -> bool:
        """Whether others suffer too, though something else may have succeeded in between."""
        return sum(at > now - RECENT_SECONDS for at in self._recent.values()) >= DOCUMENTS

    def failed(self, delivery: Delivery, now: float) -> float:
        """A transient error: for how many seconds the message has met nothing else."""
        key = delivery.wake_up.key
        self._in_a_row += 1
        if not self.evident:
            self._documents.add(key)
        self._recent[key] = now
        self._recent.move_to_end(key)
        if len(self._recent) > DOCUMENTS:
            self._recent.popitem(last=False)
        since = self._since.setdefault(delivery.message_id, now)
        if len(self._since) > REMEMBERED_MESSAGES:
            self._since.popitem(last=False)
        return max(now - since, 0.0)

    def passed(self, delivery: Delivery) -> None:
        """The message's work is done: what it needed is within reach."""
        self.forget(delivery)
        self._in_a_row = 0
        self._documents.clear()

    def forget(self, delivery: Delivery) -> None:
        """Its trouble begins anew if it comes again."""
        self._since.pop(delivery.message_id, None)

    def pause_seconds(self, jitter: random.Random) -> float:
        """Before the next message is received: full jitter, its bound doubling to a limit."""
        if not self.evident:
            return 0.0
        bound = 2.0 ** min(self._in_a_row - DOCUMENTS, 10)
        return jitter.uniform(0.0, min(bound, LONGEST_PAUSE_SECONDS))
