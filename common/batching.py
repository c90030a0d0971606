"""Whose turn it is and what is embedded together: pure decisions over waiting passages."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain, islice
from typing import Final, Generic, TypeVar

_SIMILAR_SHARE: Final = 4
_SIMILAR_TOKENS: Final = 8
"""Lengths are similar within a quarter of the longer, or 8 tokens: more padding costs more than a
call of the model does."""

Item = TypeVar("Item", bound=Hashable)


class Turns(Generic[Item]):
    """Waiting items of many callers, who take turns: each caller has one item in a round.

    A call of one item behind a call of thousands waits for the round that has begun and for what
    stands before it in the next; nothing that comes later enters a round that has begun, so that
    no item waits for ever.
    """

    def __init__(self) -> None:
        self._begun = 0
        self._current: dict[Item, None] = {}
        self._later: deque[dict[Item, None]] = deque()
        self._rounds: dict[Item, int] = {}

    def __len__(self) -> int:
        return len(self._rounds)

    def __contains__(self, item: Item) -> bool:
        return item in self._rounds

    def add(self, items: Iterable[Item]) -> None:
        """One call's items, in order. An item that waits already keeps the earlier turn."""
        for ahead, item in enumerate(items):
            if item in self._rounds:
                if self._rounds[item] <= self._begun + 1 + ahead:
                    continue
                self.remove(item)
            while len(self._later) <= ahead:
                self._later.append({})
            self._later[ahead][item] = None
            self._rounds[item] = self._begun + 1 + ahead

    def first(self, count: int) -> list[Item]:
        """The next `count` items in the order of their turns."""
        return list(islice(chain(self._current, *self._nearest(count)), count))

    def take(self, items: Sequence[Item]) -> None:
        """Remove what is worked on now; with the first of it, which is the next, begins its round.

        `items` must start with the item whose turn it is.
        """
        while self._rounds[items[0]] > self._begun:
            self._begin_round()
        for item in items:
            self.remove(item)

    def remove(self, item: Item) -> None:
        """Nothing if it does not wait (any more)."""
        number = self._rounds.pop(item, None)
        if number is None:
            return
        if number == self._begun:
            del self._current[item]
        else:
            del self._later[number - self._begun - 1][item]
        self._drop_empty_rounds()

    def _nearest(self, count: int) -> Iterable[dict[Item, None]]:
        """As many rounds as surely hold `count` items, and not all of a long document's."""
        found = len(self._current)
        for later in self._later:
            if found >= count:
                return
            found += len(later)
            yield later

    def _begin_round(self) -> None:
        self._current = self._later.popleft()
        self._begun += 1

    def _drop_empty_rounds(self) -> None:
        while self._later and not self._later[-1]:
            self._later.pop()
        while self._later and not self._later[0] and not self._current:
            self._begin_round()


def choose_batch(lengths: Sequence[int], max_padded_tokens: int, max_batch: int) -> list[int]:
    """Places of `lengths` (tokens, in the order of their turns) that are embedded together.

    The first always goes, alone if need be, and takes with it those nearest to its length. A batch
    is padded to its longest text, so that it costs count × longest: that product stays within
    `max_padded_tokens` unless the first by itself is longer. Nobody is waited for.
    """
    batch, longest = [0], max(lengths[0], 1)
    if 2 * longest > max_padded_tokens:
        return batch
    similar = (p for p in range(1, len(lengths)) if _are_similar(lengths[p], lengths[0]))
    for place in sorted(similar, key=lambda p: abs(lengths[p] - lengths[0])):
        if len(batch) >= max_batch:
            break
        padded = max(longest, lengths[place])
        if (len(batch) + 1) * padded <= max_padded_tokens:
            batch.append(place)
            longest = padded
    return batch


def _are_similar(one: int, other: int) -> bool:
    return abs(one - other) <= max(_SIMILAR_TOKENS, max(one, other) // _SIMILAR_SHARE)
