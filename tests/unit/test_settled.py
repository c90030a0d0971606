"""What the changes of a delivery are called, from one attempt to the next."""

from __future__ import annotations

from typing import Any

from webhook.sources.mapping import JSON, FileOfGitHub, Mapped
from webhook.sources.settled import keys_of

OLD: JSON = {"document_id": "a", "content": "old"}
NEW: JSON = {"document_id": "a", "content": "new"}


def test_each_of_equal_changes_has_a_key_of_its_own_wherever_it_stands() -> None:
    keys = keys_of(Mapped([OLD, NEW, OLD]))
    assert len(set(keys)) == 3
    assert keys_of(Mapped([NEW, OLD, OLD])) == [keys[1], keys[0], keys[2]]


def test_another_file_is_another_change() -> None:
    one, two = (FileOfGitHub("r", "a", ref) for ref in ("1", "2"))
    assert keys_of(Mapped([OLD], {0: one})) != keys_of(Mapped([OLD], {0: two}))


def test_what_cannot_be_written_has_no_key_and_harms_no_other() -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    (none, key) = keys_of(Mapped([{"metadata": nested}, OLD]))
    assert none is None
    assert key == keys_of(Mapped([OLD]))[0]
