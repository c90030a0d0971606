"""What the ledger takes for nobody being woken, and what it excuses."""

from __future__ import annotations

import pytest

from common.model import Claim, Row, Status
from common.transitions import Outcome
from tests.builders import KEY, delivery, desired, row
from tests.simulation.ledger import Ledger, Violation
from webhook.accept import Accepted

HOLDER = "the holder"
NOTHING_YET = row(desired=desired(version=1))


class Watched:
    """A ledger of one document, and which messages are on a queue."""

    def __init__(self) -> None:
        self.on_queue = {HOLDER}
        self.found: list[Violation] = []
        self.ledger = Ledger(
            step=lambda: 1,
            clock=lambda: 1000.0,
            chunks_of=lambda _: (),
            broke=self.found.append,
            on_queue=lambda message_id: message_id in self.on_queue,
            retention_seconds=1.0,
        )
        self.row: Row | None = None
        self.write(NOTHING_YET)
        self.ledger.message_sent(delivery().wake_up, lost=False)

    def write(self, after: Row) -> None:
        self.ledger.row_written(self.row, after)
        self.row = after

    def claim(self, until: float = 1030.0) -> None:
        held = Claim(1, HOLDER, until)
        self.write(row(desired=desired(version=1), claim=held, status=Status.PROCESSING))

    def answer(self) -> None:
        """A client is told that version 1 was accepted. Raises Violation."""
        accepted = Accepted(KEY, Outcome.ACCEPTED, 1)
        self.ledger.answered(accepted, 1, lambda _: True, None)

    def end(self) -> list[Violation]:
        """Another wake-up of the document ends: it relies on whoever claimed it."""
        self.ledger.message_ended(delivery(), others=False)
        return self.found


def test_a_message_may_not_end_while_its_document_waits() -> None:
    (found,) = Watched().end()
    assert found.key == KEY
    assert "somebody is woken" in str(found)


def test_a_claim_is_no_excuse_once_its_message_has_ended() -> None:
    watched = Watched()
    watched.claim()
    watched.on_queue.clear()
    assert watched.end()


def test_a_claim_that_a_copy_took_after_its_message_ended_is_an_excuse() -> None:
    watched = Watched()
    watched.on_queue.clear()
    watched.claim()
    assert not watched.end()


@pytest.mark.parametrize("late", [True, False])
def test_a_renewal_is_as_late_as_the_claim_was(late: bool) -> None:
    watched = Watched()
    watched.on_queue = set() if late else {HOLDER}
    watched.claim()
    watched.on_queue = {HOLDER} if late else set()
    watched.claim(until=1060.0)
    assert bool(watched.end()) is not late


def test_a_message_that_a_failed_document_is_redriven_with_counts_for_a_late_answer() -> None:
    """The webhook's wake-up has been worked, buried and redriven before it knows of it."""
    watched = Watched()
    watched.write(row(desired=desired(version=1), status=Status.FAILED, error="unreadable"))
    watched.claim()
    watched.answer()


def test_a_failed_document_that_is_opened_again_is_to_be_woken_again() -> None:
    watched = Watched()
    watched.write(row(desired=desired(version=1), status=Status.FAILED, error="unreadable"))
    watched.write(NOTHING_YET)
    with pytest.raises(Violation, match="nobody woken"):
        watched.answer()


def test_a_late_claim_excuses_nothing_once_it_was_let_go() -> None:
    watched = Watched()
    watched.on_queue.clear()
    watched.claim()
    watched.write(NOTHING_YET)
    assert watched.end()
