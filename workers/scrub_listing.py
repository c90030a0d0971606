"""What an index lists of one namespace, held by document in little memory."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator

from common.identity import DOCUMENT_KEY_LENGTH, record_id

_SHAPE = re.compile(rf"([a-z2-7]{{{DOCUMENT_KEY_LENGTH}}})#([0-9]{{1,18}})#([0-9]{{1,18}})")


class Listing:
    """Some 220 bytes a document and 16 a record: 100,000 documents of ten chunks take 40 MB."""

    def __init__(self) -> None:
        self._numbers: dict[str, array[int]] = {}
        self.strange: list[str] = []
        """Ids that no attempt can have written."""

    def add(self, listed: str) -> None:
        found = _SHAPE.fullmatch(listed)
        if found is None or record_id(found[1], int(found[2]), int(found[3])) != listed:
            self.strange.append(listed)
            return
        numbers = self._numbers.get(found[1])
        if numbers is None:
            numbers = self._numbers[found[1]] = array("q")
        numbers.extend((int(found[2]), int(found[3])))

    def take(self, document_key: str) -> set[tuple[int, int]]:
        """The document's `(generation, number)` pairs, once: they are forgotten here."""
        numbers = self._numbers.pop(document_key, None)
        return set() if numbers is None else set(zip(numbers[::2], numbers[1::2], strict=True))

    def rest(self) -> Iterator[tuple[str, set[tuple[int, int]]]]:
        """What nobody took, by document key."""
        for document_key in list(self._numbers):
            yield document_key, self.take(document_key)
