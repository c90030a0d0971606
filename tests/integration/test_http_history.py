"""What an operator gets to see of a document's life and of dead letters, over HTTP and on the
command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from common.cli import dlq
from common.cli.main import app
from common.model import QueueName, Status
from common.ports.queue import Delivery
from tests.builders import TIMERS
from tests.integration.test_http_api import DOCUMENTS, Api, insert, is_problem, serving
from tests.pipeline import pipeline
from workers.notes import RegistryNote
from workers.outcome import GiveUp, Retry

LETTERS = "/v1/dead-letters"
CHANGE, CREATE = QueueName.CHANGE, QueueName.CREATE


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with pipeline(tmp_path) as flow, serving(flow) as made:
        yield made


async def noted(api: Api, delivery: Delivery, outcome: GiveUp | Retry) -> None:
    note = RegistryNote(
        registry=api.flow.registry, queue=api.flow.queue, timers=TIMERS, clock=api.flow.clock
    )
    await note(delivery, outcome)


async def give_up(api: Api, reason: str, queue: QueueName = CHANGE) -> str:
    """As the consumer loop does: the row first, the message second. Returns the letter's id."""
    delivery = await api.flow.receive(queue)
    assert delivery
    await noted(api, delivery, GiveUp(reason))
    await api.flow.queue.dead_letter(delivery, reason)
    return delivery.message_id


async def events(api: Api, document_id: str, **params: str) -> list[tuple[str, int, str]]:
    status, page = await api.get(f"{DOCUMENTS}/{document_id}/history", params=params)
    assert status == 200, page
    return [(e["event"], e["version"], e["detail"]) for e in page["events"]]


async def delete(api: Api, path: str) -> tuple[int, Any]:
    async with api.client.delete(path) as response:
        return response.status, await response.json(content_type=None)


async def command(api: Api, *words: str, columns: int = 80, typed: str = "") -> Result:
    """The command in a thread: it owns an event loop, and the server needs this one."""
    runner = CliRunner(env={"COLUMNS": str(columns)})
    ended = await asyncio.to_thread(
        runner.invoke, app, [*words, "--url", str(api.url(""))], input=typed
    )
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended


# --- history -------------------------------------------------------------------------------------


async def test_the_history_tells_the_whole_life(api: Api) -> None:
    flow = api.flow
    await api.change(insert(source_version=7))
    delivery = await flow.receive(CHANGE)
    assert delivery
    await noted(api, delivery, Retry(0, "the model is away"))
    await flow.queue.retry_later(delivery, 0)
    await give_up(api, "no text in it")
    await api.change(insert(source_version=7))
    await flow.run()
    await api.change(insert(content="two"))
    await flow.run()
    await delete(api, f"{DOCUMENTS}/a")
    await flow.run()

    assert (await events(api, "a"))[::-1] == [
        ("accepted", 1, "insert, 5 bytes of text/plain, source version 7"),
        ("error", 1, "the model is away"),
        ("failed", 1, "no text in it"),
        ("retried", 1, "the same content was sent again"),
        ("embedding", 1, "attempt 1"),
        ("applied", 1, "chunks: 1, new: 1"),
        ("accepted", 2, "update, 3 bytes of text/plain, source version 7"),
        ("embedding", 2, "attempt 1"),
        ("applied", 2, "chunks: 1, new: 1"),
        ("accepted", 3, "delete, source version 7"),
        ("deleted", 3, "hidden; chunks to remove: 1"),
    ]


async def test_the_history_comes_in_pages_and_its_times_are_utc(api: Api) -> None:
    await api.change(insert())
    api.flow.clock.now += 60
    await api.flow.run()

    path = f"{DOCUMENTS}/a/history"
    status, page = await api.get(path, params={"limit": "2"})
    assert status == 200
    assert [event["event"] for event in page["events"]] == ["applied", "embedding"]
    assert page["events"][0]["at"] == "1970-01-01T00:17:40+00:00"
    status, rest = await api.get(path, params={"limit": "2", "cursor": page["cursor"]})
    assert ([event["event"] for event in rest["events"]], rest["cursor"]) == (["accepted"], None)


async def test_an_attempt_that_was_lost_tells_why_it_took_so_long(api: Api) -> None:
    flow = api.flow
    await api.change(insert())
    await flow.step(CHANGE)
    before_write = flow.index.before_write

    def dies(what: str) -> None:
        raise ConnectionError("away")

    flow.index.before_write = dies
    crashed = await flow.receive(CREATE)
    assert crashed
    with pytest.raises(ConnectionError):
        await flow.handle(crashed)
    flow.index.before_write = before_write
    flow.clock.now += TIMERS.attempt_lease_seconds + 1
    await flow.sweeper.sweep_rows()
    await flow.run()

    told = await events(api, "a")
    lost = "its lease ended before it was committed; chunks to remove: up to 1"
    assert ("attempt_lost", 1, lost) in told
    assert told.index(("attempt_lost", 1, lost)) < told.index(("embedding", 1, "attempt 1"))


async def test_the_history_of_nothing_is_a_problem(api: Api) -> None:
    path = f"{DOCUMENTS}/a/history"
    assert is_problem(*(await api.get(path)), "not-found", "document_id")
    await api.change(insert())
    for cursor in ("", "x", "1", "-1.0", "1" * 30 + ".0", "².0"):
        answer = await api.get(path, params={"cursor": cursor})
        assert is_problem(*answer, "invalid-field", "cursor")


async def test_an_id_that_ends_in_history_is_written_encoded(api: Api) -> None:
    assert (await delete(api, f"{DOCUMENTS}/a/history"))[0] == 405
    await api.change(insert("a/history"))
    status, body = await api.get(api.url(f"{DOCUMENTS}/a%2Fhistory"))
    assert (status, body["document_id"]) == (200, "a/history")
    status, body = await api.get(api.url(f"{DOCUMENTS}/a%2Fhistory/history"))
    assert (status, len(body["events"])) == (200, 1)


# --- dead letters --------------------------------------------------------------------------------


async def test_a_dead_letter_tells_when_it_was_first_sent_and_when_it_died(api: Api) -> None:
    await api.change(insert())
    api.flow.clock.now += 60
    message_id = await give_up(api, "broken PDF")
    _, letter = await api.get(f"{LETTERS}/{message_id}")
    assert (letter["sent_at"], letter["died_at"], letter["receive_count"]) == (
        "1970-01-01T00:16:40+00:00",
        "1970-01-01T00:17:40+00:00",
        1,
    )


@pytest.mark.parametrize("queue", [CHANGE, CREATE])
async def test_a_redriven_document_does_not_stay_failed(api: Api, queue: QueueName) -> None:
    await api.change(insert())
    if queue is CREATE:
        await api.flow.step(CHANGE)
    message_id = await give_up(api, "out of memory", queue)
    assert (await api.flow.row("a")).status is Status.FAILED

    await api.post(f"{LETTERS}/redrive", {"message_ids": [message_id]})
    await api.flow.run()

    row = await api.flow.row("a")
    assert (row.status, row.error, row.behind) == (Status.COMPLETED, None, False)


async def test_a_discarded_letter_is_gone_and_its_document_stays_failed(api: Api) -> None:
    await api.change(insert())
    message_id = await give_up(api, "broken PDF")

    assert await delete(api, f"{LETTERS}/{message_id}") == (200, {"discarded": 1})

    assert is_problem(*(await delete(api, f"{LETTERS}/{message_id}")), "not-found", "message_id")
    assert (await api.get(LETTERS))[1]["dead_letters"] == []
    await api.flow.run()
    row = await api.flow.row("a")
    assert (row.status, row.error) == (Status.FAILED, "broken PDF")
    assert await events(api, "a", limit="1") == [("failed", 1, "broken PDF")]


async def five_letters(api: Api) -> list[str]:
    """Of documents a to d in docs, and of another a in `other`."""
    names = [("docs", name) for name in "abcd"] + [("other", "a")]
    letters = []
    for number, (namespace, name) in enumerate(names):
        await api.change({**insert(name), "namespace": namespace})
        letters.append(await give_up(api, f"no {number}"))
    return letters


async def test_letters_are_discarded_by_id_or_by_what_they_are_of(api: Api) -> None:
    ids = await five_letters(api)
    discard = f"{LETTERS}/discard"

    assert (await api.post(discard, {"message_ids": [ids[1], ids[1], "gone"]}))[1] == {
        "discarded": 1
    }
    chosen = {"all": True, "document_id": "a", "namespace": "docs"}
    assert (await api.post(discard, chosen))[1] == {"discarded": 1}
    _, left = await api.get(LETTERS)
    assert [letter["message_id"] for letter in left["dead_letters"]] == ids[2:]
    assert (await api.post(f"{LETTERS}/redrive", {"all": True, "namespace": "other"}))[1] == {
        "redriven": 1
    }
    assert (await api.post(discard, {"all": True}))[1] == {"discarded": 2}
    assert await api.flow.queue.dead_letter_count() == 0
    assert (await api.flow.queue.depth(CHANGE)).waiting == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "message_ids"),
        ({"message_ids": "x"}, "message_ids"),
        ({"message_ids": ["x"], "all": True}, "all"),
        ({"document_id": "a"}, "document_id"),
        ({"message_ids": ["x"], "namespace": "docs"}, "namespace"),
        ({"all": True, "namespace": 7}, "namespace"),
    ],
)
@pytest.mark.parametrize("action", ["discard", "redrive"])
async def test_nothing_is_done_when_it_is_not_said_clearly(
    api: Api, action: str, body: dict[str, Any], field: str
) -> None:
    await api.change(insert())
    await give_up(api, "broken")
    assert is_problem(*(await api.post(f"{LETTERS}/{action}", body)), "invalid-field", field)
    assert await api.flow.queue.dead_letter_count() == 1


async def test_letters_are_listed_by_what_they_are_of(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a page holds fewer than were looked at, or none."""
    ids = await five_letters(api)
    monkeypatch.setattr("webhook.dead_letters.MAX_PAGE", 2)

    async def listed(**params: str) -> list[str]:
        found: list[str] = []
        while True:
            _, page = await api.get(LETTERS, params=params)
            found += [letter["message_id"] for letter in page["dead_letters"]]
            if page["cursor"] is None:
                return found
            params["cursor"] = page["cursor"]

    assert await listed(document_id="a") == [ids[0], ids[4]]
    assert await listed(namespace="docs", limit="1") == ids[:4]
    assert await listed(namespace="other", document_id="a") == ids[4:]
    assert await listed(document_id="zz") == []
    assert is_problem(*(await api.get(LETTERS, params={"doc": "a"})), "malformed-request", "doc")


# --- on the command line -------------------------------------------------------------------------


async def test_status_history_is_read_from_top_to_bottom(api: Api) -> None:
    await api.change(insert())
    api.flow.clock.now += 60
    await give_up(api, "no text in it: " + "x" * 60)

    shown = await command(api, "status", "a", "--history", "-n", "docs")

    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:4] for line in lines if line[0] == "1"] == [
        ["1970-01-01", "00:16:40", "1", "accepted"],
        ["1970-01-01", "00:17:40", "1", "failed"],
    ]
    assert "no text in it" in lines[2]
    assert "dlq list -n docs --document a" in shown.stderr
    as_json = await command(api, "status", "a", "--history", "-n", "docs", "--json")
    assert [e["event"] for e in json.loads(as_json.stdout)["events"]] == ["accepted", "failed"]
    assert (await command(api, "status", "--history")).exit_code == 2
    assert (await command(api, "status", "b", "--history")).exit_code == 1


async def test_status_history_goes_through_all_pages(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.client.paging.PAGE_SIZE", 2)
    for text in ("one", "two", "three"):
        await api.change(insert(content=text))
    shown = await command(api, "status", "a", "--history", "-n", "docs", "--json")
    assert [e["version"] for e in json.loads(shown.stdout)["events"]] == [1, 2, 3]


async def test_dlq_list_and_show_fit_a_terminal(api: Api) -> None:
    await api.change(insert("guides/quickstart.md"))
    api.flow.clock.now += 60
    message_id = await give_up(api, "broken PDF")

    listed = (await command(api, "dlq", "list")).stdout
    assert max(map(len, listed.splitlines())) <= 80
    for part in (
        message_id, "guides/quickstart.md version 1", "received 1 time from change",
        "first 1970-01-01 00:16:40 UTC, last 1970-01-01 00:17:40 UTC", "broken PDF",
    ):  # fmt: skip
        assert part in listed
    shown = (await command(api, "dlq", "show", message_id)).stdout
    assert "first: 1970-01-01 00:16:40 UTC" in shown
    assert "last: 1970-01-01 00:17:40 UTC" in shown
    assert (await command(api, "dlq", "list", "--document", "b")).stdout == "no dead letters\n"


async def test_dlq_discard_by_id_does_not_ask(api: Api) -> None:
    ids = await five_letters(api)
    ended = await command(api, "dlq", "discard", ids[0], ids[2])
    assert (ended.exit_code, ended.stdout) == (0, "2 discarded\n")
    again = await command(api, "dlq", "discard", ids[0], "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (1, {"discarded": 0})
    assert await api.flow.queue.dead_letter_count() == 3


@pytest.mark.parametrize(("typed", "left"), [("y\n", 1), ("n\n", 5), ("", 5)])
async def test_dlq_discard_of_many_asks_on_a_terminal(
    api: Api, monkeypatch: pytest.MonkeyPatch, typed: str, left: int
) -> None:
    monkeypatch.setattr(dlq, "_on_terminal", lambda: True)
    await five_letters(api)
    ended = await command(api, "dlq", "discard", "--all", "-n", "docs", typed=typed)
    assert "Discard all dead letters of namespace 'docs'?" in ended.stderr
    assert ended.exit_code == (0 if left == 1 else 1)
    assert await api.flow.queue.dead_letter_count() == left


async def test_dlq_discard_of_many_needs_a_yes(api: Api) -> None:
    await five_letters(api)
    assert (await command(api, "dlq", "discard", "--all")).exit_code == 2
    assert (await command(api, "dlq", "discard")).exit_code == 2
    assert (await command(api, "dlq", "discard", "x", "--all", "--yes")).exit_code == 2
    assert await api.flow.queue.dead_letter_count() == 5
    assert (await command(api, "dlq", "discard", "--document", "a", "--yes")).exit_code == 0
    assert await api.flow.queue.dead_letter_count() == 3


async def test_dlq_redrive_of_one_document(api: Api) -> None:
    await five_letters(api)
    ended = await command(api, "dlq", "redrive", "--document", "a", "-n", "docs")
    assert (ended.exit_code, ended.stdout) == (0, "1 sent again\n")
    await api.flow.run()
    assert (await api.flow.row("a")).status is Status.COMPLETED
    assert (await api.flow.row("b")).status is Status.FAILED
