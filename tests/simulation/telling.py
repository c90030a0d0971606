"""The trace of a run: a line for each thing that happened, with its time and step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from common.model import Record, Row
from tests.simulation.loop import SimulatedLoop, current_process


class Telling:
    """Writes lines, if anybody wants them: ask `on` before an expensive line is made."""

    def __init__(self, loop: SimulatedLoop, write: Callable[[str], None] | None) -> None:
        self._loop = loop
        self._write = write
        self.on = write is not None

    def note(self, text: str) -> None:
        if self._write:
            self._write(f"{self._loop.time():9.3f} {self._loop.steps:7d} {text}")

    def row_written(self, before: Row | None, after: Row | None) -> None:
        self.note(f"{current_process().name:12} {told(before, after)}")

    def records_written(self, records: Sequence[Record]) -> None:
        self.note(f"{current_process().name:12} upsert {[r.id[-5:] for r in records]}")


def told(before: Row | None, after: Row | None) -> str:
    """One line of a document's story."""
    row = after or before
    assert row
    name = row.key.document_id
    if after is None:
        return f"{name} forgotten"
    garbage = " ".join(
        f"{g.ids.generation}:{g.ids.first}-{g.ids.last}{'o' if g.state == 'open' else 'x'}"
        f"@{g.not_before:.0f}"
        for g in after.garbage
    )
    manifest = " ".join(f"{i.generation}:{i.first}-{i.last}" for i in after.applied.manifest)
    what = "tombstone" if after.desired.tombstone else after.desired.content_hash[:6]
    return (
        f"{name} r{after.revision} desired {after.desired.version} {what} "
        f"applied {after.applied.version} [{manifest}] garbage [{garbage}] {after.status}"
        + (f" claim {after.claim.version} by {after.claim.message_id}" if after.claim else "")
        + (f" error {after.error}" if after.error else "")
    )
