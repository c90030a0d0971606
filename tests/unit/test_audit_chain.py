"""The hash chain: what is noticed, and how it is named."""

from __future__ import annotations

import hashlib
import hmac
import random
from dataclasses import replace

import pytest

from common.audit import (
    Fault,
    Verification,
    Wrong,
    canonical,
    chained,
    drop_event,
    hash_of,
    moment_of,
    parse_head,
    verified,
)
from common.ports.audit import AuditEntry, AuditEvent, ChainEnd

KEY = b"the chain's key"


def event(number: int) -> AuditEvent:
    return AuditEvent(
        at=1.7e9 + number, principal="key:a", action="insert", namespace="docs",
        document_id=f"d{number}", result="accepted", version=number, address="192.0.2.7",
        request_id=f"r{number}",
    )  # fmt: skip


def chain(count: int, key: bytes | None = None, head: ChainEnd | None = None) -> list[AuditEntry]:
    return chained(head or ChainEnd(), [event(n) for n in range(1, count + 1)], key)


def rechained(entries: list[AuditEntry], key: bytes | None = None) -> list[AuditEntry]:
    """As who can write the store would make a changed chain whole again."""
    return chained(ChainEnd(), [entry.event for entry in entries], key)


def edited(entry: AuditEntry, **members: object) -> AuditEntry:
    return replace(entry, event=replace(entry.event, **members))  # type: ignore[arg-type]


def found(entries: list[AuditEntry], **given: object) -> tuple[int, Fault] | None:
    wrong = verified(entries, Verification(**given))  # type: ignore[arg-type]
    return None if wrong is None else (wrong.sequence, wrong.fault)


def test_a_hash_is_of_what_the_documentation_says() -> None:
    """Written out, so that another program can verify the chain."""
    one = AuditEvent(
        at=1700000000.1234, principal="key:8f2k", action="delete", namespace="größe",
        document_id='a"b', subject="", result="accepted", version=3, count=1, address="192.0.2.7",
        request_id="r1", source="shop",
    )  # fmt: skip
    text = (
        '{"action":"delete","address":"192.0.2.7","at_ms":1700000000123,"count":1,'
        '"document_id":"a\\"b","namespace":"gr\\u00f6\\u00dfe","principal":"key:8f2k",'
        '"request_id":"r1","result":"accepted","sequence":5,"source":"shop","subject":"",'
        '"version":3}'
    )
    assert canonical(5, one) == text.encode()
    data = ("ab" * 32 + "\n" + text).encode()
    assert hash_of("ab" * 32, 5, one, None) == hashlib.sha256(data).hexdigest()
    assert hash_of("ab" * 32, 5, one, KEY) == hmac.new(KEY, data, "sha256").hexdigest()


@pytest.mark.parametrize("key", [None, KEY])
def test_a_chain_as_it_was_written(key: bytes | None) -> None:
    entries = chain(9, key)
    assert found(entries, key=key) is None
    assert found([], key=key) is None
    assert found(entries, key=key, kept=entries[4].end) is None
    assert found(entries, key=key, kept=ChainEnd()) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("at", 1.0), ("principal", "key:b"), ("action", "delete"), ("namespace", "other"),
        ("document_id", "x"), ("subject", "x"), ("result", "unchanged"), ("version", 77),
        ("count", 2), ("address", "192.0.2.8"), ("request_id", "x"), ("source", "x"),
    ],
)  # fmt: skip
def test_each_member_is_covered(name: str, value: object) -> None:
    entries = chain(5)
    entries[2] = edited(entries[2], **{name: value})
    assert found(entries) == (3, Fault.EDITED)


def test_an_entry_whose_hash_was_computed_anew() -> None:
    entries = chain(5)
    forged = edited(entries[2], version=77)
    digest = hash_of(forged.previous_hash, 3, forged.event, None)
    entries[2] = replace(forged, hash=digest)
    assert found(entries) == (3, Fault.REPLACED)


def test_entries_that_are_gone() -> None:
    entries = chain(9)
    assert found(entries[:4] + entries[6:]) == (5, Fault.MISSING)
    assert found(entries[2:]) == (1, Fault.MISSING)


def test_an_entry_that_was_put_in_between() -> None:
    entries = chain(5)
    assert found([*entries[:3], entries[2], *entries[3:]]) == (3, Fault.OUT_OF_ORDER)
    put_in = chained(entries[2].end, [event(99)], None)[0]
    moved = [replace(entry, sequence=entry.sequence + 1) for entry in entries[3:]]
    assert found([*entries[:3], put_in, *moved]) == (5, Fault.EDITED)


def test_entries_that_changed_places() -> None:
    entries = chain(5)
    entries[1], entries[3] = entries[3], entries[1]
    assert found(entries) == (2, Fault.MISSING)
    entries[1], entries[3] = replace(entries[1], sequence=2), replace(entries[3], sequence=4)
    assert found(entries) == (2, Fault.EDITED)


def test_a_chain_that_was_cut_off_is_known_by_its_head_only() -> None:
    entries = chain(9)
    assert found(entries[:6]) is None
    assert found(entries[:6], kept=entries[8].end) == (7, Fault.CUT_OFF)
    assert found([], kept=entries[8].end) == (1, Fault.CUT_OFF)


def test_a_chain_that_was_written_anew_is_known_by_its_head() -> None:
    entries = chain(9)
    again = entries.copy()
    again[4] = edited(again[4], principal="key:b")
    again = rechained(again)
    assert found(again) is None, "nobody can tell without a head or a key"
    assert found(again, kept=entries[8].end) == (9, Fault.REWRITTEN)


def test_a_chain_that_was_written_anew_is_known_by_its_key() -> None:
    entries = chain(9, KEY)
    assert found(rechained(entries), key=KEY) == (1, Fault.UNKEYED)
    assert found(rechained(entries, b"a guess"), key=KEY) == (1, Fault.EDITED)
    assert found(entries[:4] + rechained(entries)[4:], key=KEY) == (5, Fault.UNKEYED)
    assert found(entries) == (1, Fault.EDITED), "with a key it proves nothing without it"


def test_a_key_that_was_set_later() -> None:
    first = chain(4)
    entries = first + chain(5, KEY, head=first[-1].end)
    assert found(entries, key=KEY) == (1, Fault.UNKEYED)
    assert found(entries, key=KEY, keyed_from=5) is None
    assert found(entries, key=KEY, keyed_from=4) == (4, Fault.UNKEYED)
    assert found(entries, key=KEY, keyed_from=6) == (5, Fault.EDITED)


# --- the beginning that was dropped --------------------------------------------------------------


def dropped(count: int, of: int, key: bytes | None = None) -> tuple[ChainEnd, list[AuditEntry]]:
    entries = chain(of, key)
    anchor = entries[count - 1].end
    entries += chained(entries[-1].end, [drop_event(anchor, count, 1.8e9)], key)
    return anchor, entries[count:]


def test_a_beginning_that_was_dropped_for_its_age() -> None:
    anchor, entries = dropped(3, 9)
    assert found(entries, anchor=anchor) is None
    assert found(entries, anchor=anchor, kept=anchor) is None
    assert found(entries) == (1, Fault.MISSING)
    assert found(entries[1:], anchor=anchor) == (4, Fault.MISSING)


def test_a_beginning_that_nobody_said_was_dropped() -> None:
    entries = chain(9, KEY)
    assert found(entries[3:], anchor=entries[2].end, key=KEY) == (3, Fault.MISSING)
    entries = dropped(3, 9, KEY)[1]
    later = entries[1].end
    assert found(entries[2:], anchor=later, key=KEY) == (5, Fault.MISSING)


def test_a_head_that_is_older_than_what_is_kept() -> None:
    anchor, entries = dropped(3, 9)
    assert found(entries, anchor=anchor, kept=chain(9)[1].end) == (2, Fault.MISSING)
    assert found(entries, anchor=anchor, kept=ChainEnd(3, "0" * 64)) == (3, Fault.REWRITTEN)


def test_any_change_of_a_chain_is_noticed() -> None:
    """Chance takes entries out, changes their order, doubles them, and edits them."""
    chance = random.Random(5)
    for _ in range(300):
        entries = chain(chance.randrange(3, 12), KEY)
        head = entries[-1].end
        changed = entries.copy()
        place = chance.randrange(len(changed))
        match chance.randrange(4):
            case 0:
                del changed[place]
            case 1:
                changed.insert(chance.randrange(len(changed)), changed[place])
            case 2:
                changed[place] = edited(changed[place], document_id="x")
            case _:
                changed[place] = replace(changed[place], previous_hash="0" * 64)
        wrong = verified(changed, Verification(key=KEY, kept=head))
        assert isinstance(wrong, Wrong)


# --- what people give ----------------------------------------------------------------------------


def test_a_head_is_read_as_it_is_printed() -> None:
    head = ChainEnd(12, "0f" * 32)
    assert parse_head(f" {head}\n") == head
    assert parse_head(str(ChainEnd())) == ChainEnd()


@pytest.mark.parametrize(
    "text", ["", "12", "x:" + "0" * 64, "1:0", "-1:" + "0" * 64, "1:", "٣:" + "0" * 64]
)
def test_what_is_no_head(text: str) -> None:
    with pytest.raises(ValueError, match="no head"):
        parse_head(text)


def test_a_moment_names_its_zone() -> None:
    assert moment_of("2026-01-31T09:05:00Z") == moment_of("2026-01-31T10:05:00+01:00")
    with pytest.raises(ValueError, match="zone"):
        moment_of("2026-01-31T09:05:00")
