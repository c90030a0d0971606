"""What is made of settings, kept by which settings they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from common.settings import Settings

T = TypeVar("T")
_MOST = 8


class PerSettings(Generic[T]):
    """Made once for each settings, which do not change. By id, which stays theirs while they are
    kept here: settings have no hash. From two threads at once it may be made twice."""

    def __init__(self, make: Callable[[Settings], T]) -> None:
        self._make = make
        self._kept: dict[int, tuple[Settings, T]] = {}

    def __call__(self, settings: Settings) -> T:
        try:
            return self._kept[id(settings)][1]
        except KeyError:
            made = self._make(settings)
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept[id(settings)] = (settings, made)
        return made
