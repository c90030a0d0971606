"""A map that forgets what was not asked for longest."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedMap(Generic[K, V]):
    """At most `max_entries` values, and at most `max_bytes` of what `put` says they take."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> list[V]:
        """The values that had to go; `value` itself when it is larger than the whole map."""
        gone = [] if (before := self.pop(key)) is None else [before]
        self._values[key] = (value, size)
        self.bytes += size
        while len(self._values) > self._max_entries or self.bytes > self._max_bytes:
            _, (oldest, its_size) = self._values.popitem(last=False)
            self.bytes -= its_size
            gone.append(oldest)
        return gone

    def pop(self, key: K) -> V | None:
        found = self._values.pop(key, None)
        if found is None:
            return None
        self.bytes -= found[1]
        return found[0]

    def clear(self) -> None:
        self._values.clear()
        self.bytes = 0
