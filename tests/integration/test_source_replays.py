"""Deliveries that come again, or that somebody sends again: what is known is not worked, and what
is not known is never taken for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.adapters.receipts.sqlite import SqliteReceipts
from common.ports.errors import TransientError
from tests.integration.test_http_api import is_problem
from tests.integration.test_http_sources import Sender, sending
from tests.pipeline import Pipeline, pipeline
from tests.source_files import SECRET, VARIABLE
from webhook.sources.directory import SourceDirectory

RULES = '[{document_id: "{item.id}", content: item.text}]'
VERSIONED = RULES.replace("}]", ", source_version: item.revision}]")
FILE = f"""\
sources:
  signed:
    namespace: docs
    verify: {{kind: hmac, header: X-Signature, secret: "${{{VARIABLE}}}"}}
    changes: {VERSIONED}
  orderless:
    namespace: docs
    verify: {{kind: hmac, header: X-Signature, secret: "${{{VARIABLE}}}"}}
    changes: {RULES}
  trusting:
    namespace: docs
    trust_unsigned_headers: true
    verify: {{kind: hmac, header: X-Signature, secret: "${{{VARIABLE}}}"}}
    changes: {RULES}
  timed:
    namespace: docs
    delivery_id: headers."x-id"
    verify: {{kind: stripe, secret: "${{{VARIABLE}}}"}}
    changes: {RULES}
  connected:
    namespace: docs
    verify: {{kind: token, secret: "${{{VARIABLE}}}"}}
    changes: {RULES}
  events:
    preset: cloudevents
    parameters: {{with_source: false}}
    namespace: docs
    verify: {{kind: hmac, header: X-Signature, secret: "${{{VARIABLE}}}"}}
  listed:
    namespace: docs
    verify: {{kind: token, secret: "${{{VARIABLE}}}"}}
    items: payload
    changes:
      - {{when: item.text, document_id: "{{item.id}}", content: item.text}}
      - when: item.title
        change_type: update
        document_id: "{{item.id}}"
        metadata: {{title: item.title}}
  titled:
    format: cloudevents
    namespace: docs
    verify: {{kind: hmac, header: X-Signature, secret: "${{{VARIABLE}}}"}}
    items: payload
    changes:
      - when: item.type == 't.saved'
        document_id: "{{item.subject}}"
        content: item.data
      - when: item.type == 't.titled'
        change_type: update
        document_id: "{{item.subject}}"
        metadata: {{title: item.data}}
"""
OLD, NEW = {"id": "a", "text": "old"}, {"id": "a", "text": "new"}


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
async def sender(
    flow: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sender]:
    monkeypatch.setenv(VARIABLE, SECRET)
    receipts = SqliteReceipts(tmp_path / "receipts.sqlite")
    settings = {"accept_concurrency": 1}  # in the order of the list
    path = tmp_path / "sources.yaml"
    async with sending(flow, path, receipts, file=FILE, settings=settings) as made:
        yield made
    await receipts.close()


async def replayed(sender: Sender, name: str, payload: Any, **more: Any) -> bool:
    """Whether it was known."""
    status, body, headers = await sender.send(name, payload, **more)
    assert status == 200, body
    return "Idempotency-Replayed" in headers


# --- what the signature is not of ----------------------------------------------------------------


@pytest.mark.parametrize("other", [{"webhook_id": "another"}, {}])
async def test_a_signed_body_is_known_under_any_id(sender: Sender, other: dict[str, str]) -> None:
    assert not await replayed(sender, "signed", OLD, webhook_id="m1")
    assert not await replayed(sender, "signed", NEW, webhook_id="m2")
    with capture_logs() as logs:
        assert await replayed(sender, "signed", OLD, webhook_id="m1")
    assert logs == []
    with capture_logs() as logs:
        assert await replayed(sender, "signed", OLD, **other)
    told = {"delivery": other.get("webhook_id"), "known_as": "m1", "source": "signed"}
    assert [log for log in logs if log["event"] == "source.known_under_another_id"] == [
        {"event": "source.known_under_another_id", "log_level": "warning", **told}
    ]
    assert await sender.texts() == {"a": "new"}


async def test_a_signature_with_a_time_is_known_under_any_id(sender: Sender) -> None:
    now = time.time()
    assert not await replayed(sender, "timed", OLD, at=now, x_id="m1")
    assert not await replayed(sender, "timed", NEW, at=now, x_id="m2")
    assert await replayed(sender, "timed", OLD, at=now, x_id="another")
    assert await replayed(sender, "timed", OLD, at=now)
    assert await sender.texts() == {"a": "new"}
    # The sender's own repetition is signed anew, and so is a change back to the old text.
    assert await replayed(sender, "timed", OLD, at=now + 1, x_id="m1")
    assert not await replayed(sender, "timed", OLD, at=now + 2, x_id="m3")
    assert await sender.texts() == {"a": "old"}


@pytest.mark.parametrize("name", ["trusting", "connected", "orderless"])
async def test_ids_that_are_trusted_tell_equal_bodies_apart(sender: Sender, name: str) -> None:
    for number, payload in enumerate([OLD, NEW, OLD]):
        assert not await replayed(sender, name, payload, webhook_id=f"m{number}")
    assert await sender.texts() == {"a": "old"}
    assert await replayed(sender, name, NEW, webhook_id="m1")


@pytest.mark.parametrize("name", ["signed", "timed", "connected"])
async def test_another_body_under_a_known_id_is_worked_and_known_from_then_on(
    sender: Sender, name: str
) -> None:
    ids: dict[str, Any] = {"webhook_id": "m1", "x_id": "m1"}
    assert not await replayed(sender, name, OLD, **ids)
    assert not await replayed(sender, name, NEW, **ids)
    newest = {"id": "a", "text": "newest"}
    assert not await replayed(sender, name, newest, webhook_id="m2", x_id="m2")
    for payload in (OLD, NEW):
        assert await replayed(sender, name, payload, **ids)
    assert await sender.texts() == {"a": "newest"}


async def test_a_secret_that_is_replaced_makes_no_old_delivery_a_new_one(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEW_SECRET", "another secret of this source")
    await replayed(sender, "signed", OLD, webhook_id="m1")
    await replayed(sender, "signed", NEW, webhook_id="m2")
    both = f'secrets: ["${{{VARIABLE}}}", "${{NEW_SECRET}}"]'
    (tmp_path / "sources.yaml").write_text(FILE.replace(f'secret: "${{{VARIABLE}}}"', both))
    _reread(sender.directory)
    assert await replayed(sender, "signed", OLD, webhook_id="m1")
    assert await sender.texts() == {"a": "new"}


def _reread(directory: SourceDirectory) -> None:
    assert not directory.look()
    assert directory.look()


# --- batches -------------------------------------------------------------------------------------

BATCH: dict[str, Any] = {"content_type": "application/cloudevents-batch+json"}


def event(number: int, subject: str, text: str, **more: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": str(number), "source": "/s", "type": "t.saved",
        "subject": subject, "data": text, **more,
    }  # fmt: skip


async def test_events_are_known_however_they_are_grouped(sender: Sender) -> None:
    one, two, three = event(1, "a", "old"), event(2, "b", "B"), event(3, "a", "new")
    await sender.send("events", [one, two], **BATCH)
    await sender.send("events", [three], **BATCH)
    status, body, headers = await sender.send("events", [one, event(4, "c", "C")], **BATCH)
    assert (status, body["changes"], body["accepted"]) == (200, 2, 2)
    assert "Idempotency-Replayed" not in headers
    assert await sender.texts() == {"a": "new", "b": "B", "c": "C"}
    assert await replayed(sender, "events", [three, two, one], **BATCH)
    structured: dict[str, Any] = {"content_type": "application/cloudevents+json"}
    assert await replayed(sender, "events", one, **structured)
    assert await sender.texts() == {"a": "new", "b": "B", "c": "C"}


async def test_another_event_under_a_known_id_is_worked(sender: Sender) -> None:
    await sender.send("events", [event(1, "a", "old")], **BATCH)
    assert not await replayed(sender, "events", [event(1, "a", "new")], **BATCH)
    assert not await replayed(sender, "events", [event(1, "a", "old", source="/t")], **BATCH)


async def test_an_empty_batch_is_not_known_from_before(sender: Sender) -> None:
    for _ in range(2):
        assert not await replayed(sender, "events", [], **BATCH)


async def test_a_batch_that_was_done_in_part_goes_on_where_it_ended(sender: Sender) -> None:
    """What was accepted of it is not brought back when it comes again."""
    first, second = event(1, "a", "old"), event(2, "b", "B")
    sender.api.queue.failing_document = "b"
    sender.api.queue.errors.append(TransientError("away"))
    status, answer, _ = await sender.send("events", [first, second], **BATCH)
    assert is_problem(status, answer, "unavailable")
    await sender.send("events", [event(3, "a", "newer")], **BATCH)
    status, answer, headers = await sender.send("events", [first, second], **BATCH)
    assert (status, answer["changes"]) == (200, 2)
    assert "Idempotency-Replayed" not in headers
    assert await sender.texts() == {"a": "newer", "b": "B"}


async def test_an_event_that_is_refused_does_not_undo_its_neighbours(sender: Sender) -> None:
    refused = event(2, "b", "B", type="t.titled")
    status, answer, _ = await sender.send("titled", [event(1, "a", "old"), refused], **BATCH)
    assert is_problem(status, answer, "invalid-field", "changes[1].document_id")
    await sender.send("titled", [event(3, "a", "newer"), event(4, "b", "B")], **BATCH)
    assert not await replayed(sender, "titled", [event(1, "a", "old"), refused], **BATCH)
    assert await replayed(sender, "titled", [refused], **BATCH)
    assert await sender.texts() == {"a": "newer", "b": "B"}


async def test_what_changes_nothing_is_not_remembered(sender: Sender) -> None:
    assert not await replayed(sender, "titled", [event(1, "a", "A", type="t.other")], **BATCH)
    assert await sender.receipts.count() == 0
    assert not await replayed(sender, "titled", [event(2, "a", "A")], **BATCH)
    assert await sender.receipts.count() == 1


# --- lists ---------------------------------------------------------------------------------------


async def test_what_was_accepted_of_a_list_is_not_done_again(sender: Sender) -> None:
    """However many attempts it takes until the rest is accepted."""
    late = [{"id": name, "title": "T"} for name in ("b", "c")]
    m1: Any = {"webhook_id": "m1"}
    status, answer, _ = await sender.send("listed", [OLD, *late], **m1)
    assert is_problem(status, answer, "invalid-field", "changes[1].document_id")
    for number, newer in enumerate([NEW, {"id": "b", "text": "B"}]):
        await sender.send("listed", [newer], webhook_id=f"n{number}")
        assert (await sender.send("listed", [OLD, *late], **m1))[0] == 422
    await sender.send("listed", [{"id": "c", "text": "C"}], webhook_id="n2")
    status, answer, headers = await sender.send("listed", [OLD, *late], **m1)
    assert status == 200, answer
    assert (answer["unchanged"], answer["accepted"]) == (2, 1)
    assert "Idempotency-Replayed" not in headers
    assert await replayed(sender, "listed", [OLD, *late], **m1)
    assert await sender.texts() == {"a": "new", "b": "B", "c": "C"}


async def test_of_equal_changes_each_is_done(sender: Sender) -> None:
    """The second brings the text back that the first had."""
    sent = [OLD, NEW, OLD, {"id": "b", "title": "T"}]
    assert (await sender.send("listed", sent, webhook_id="m1"))[0] == 422
    assert await sender.texts() == {"a": "old"}
    await sender.send("listed", [NEW, {"id": "b", "text": "B"}], webhook_id="m2")
    _, answer, _ = await sender.send("listed", sent, webhook_id="m1")
    assert (answer["unchanged"], answer["accepted"]) == (3, 1)
    assert (await sender.texts())["a"] == "new"


async def test_another_list_under_the_same_id_is_done(sender: Sender) -> None:
    waits = {"id": "b", "title": "T"}
    for texts in (OLD, NEW, OLD | {"text": "newest"}):
        assert (await sender.send("listed", [texts, waits], webhook_id="m1"))[0] == 422
    assert await sender.texts() == {"a": "newest"}
