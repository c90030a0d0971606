"""What the audit trail is told of requests, and what clients notice when it cannot be told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.access import Role, Scope
from common.adapters.audit.none import NoAuditTrail
from common.adapters.audit.sqlite import SqliteAuditTrail
from common.audit import DROPPED
from common.audit_verification import verify
from common.model import DocumentKey, QueueName
from common.ports.audit import AuditEvent
from common.ports.errors import PermanentError, TransientError
from common.ports.landing import Area
from common.settings import Settings
from tests.access import Keys, bearer
from tests.builders import TIMERS
from tests.fakes.audit import MemoryAuditTrail
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.embedder import HashEmbedder
from tests.fakes.landing import MemoryLanding
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from tests.integration.test_http_api import (
    DOCUMENTS,
    Api,
    insert,
    is_problem,
    lines,
    received,
    serving,
)
from tests.pipeline import Clock, Pipeline, pipeline
from webhook.accept import Acceptor
from webhook.auditing import Auditing
from webhook.intake import IntakeHandler

OCTETS = {"Content-Type": "application/octet-stream"}
PATIENCE_SECONDS = 20.0
"""Only a test that fails takes as long."""


class Trail(MemoryAuditTrail):
    """Tells when it has new entries; `hold` delays every append. `stubborn`: what has begun goes on
    without its caller, as in a real store."""

    def __init__(self) -> None:
        super().__init__()
        self.hold: asyncio.Event | None = None
        self.stubborn = False
        self.asked = asyncio.Event()
        self.changed = asyncio.Condition()

    async def append(self, events: Sequence[AuditEvent]) -> None:
        self.asked.set()
        appending = asyncio.ensure_future(self._append_later(events))
        await (asyncio.shield(appending) if self.stubborn else appending)

    async def _append_later(self, events: Sequence[AuditEvent]) -> None:
        if self.hold is not None:
            await self.hold.wait()
        await super().append(events)
        async with self.changed:
            self.changed.notify_all()

    async def drop(self, *, before: float, now: float, limit: int = 10_000) -> int:
        dropped = await super().drop(before=before, now=now, limit=limit)
        async with self.changed:
            self.changed.notify_all()
        return dropped

    async def begun(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.asked.wait()

    async def until(self, ready: Callable[[list[AuditEvent]], bool]) -> list[AuditEvent]:
        async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
            await self.changed.wait_for(lambda: ready(self.events))
        return self.events

    async def count(self, count: int) -> list[AuditEvent]:
        return await self.until(lambda events: len(events) >= count)


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
def trail() -> Trail:
    return Trail()


@asynccontextmanager
async def audited(flow: Pipeline, trail: Trail, **more: Any) -> AsyncIterator[Api]:
    auditing = Auditing(trail=trail, timeout_seconds=30, clock=flow.clock)
    auditing.start()
    async with serving(flow, services_too={"auditing": auditing}, **more) as api:
        yield api
    await auditing.close()


@pytest.fixture
async def api(flow: Pipeline, trail: Trail) -> AsyncIterator[Api]:
    async with audited(flow, trail) as made:
        yield made


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
async def asking(flow: Pipeline, trail: Trail, keys: Keys) -> AsyncIterator[Api]:
    """Serves who has a key."""
    async with audited(flow, trail, authenticate=keys.doorman) as made:
        yield made


def told(events: Sequence[AuditEvent]) -> list[tuple[str, str, str, str, int]]:
    return [(e.action, e.namespace, e.document_id, e.result, e.version) for e in events]


# --- changes -------------------------------------------------------------------------------------


async def test_every_way_to_change_a_document_is_told(api: Api, trail: Trail) -> None:
    await api.change(insert("a"))
    await api.change({"changes": [insert("b"), insert("a")]})
    await api.feed(lines(insert("c", source_version=7), insert("c", "x", source_version=6)))
    async with api.client.put(f"{DOCUMENTS}/d.md", data=b"hello", headers=OCTETS) as response:
        assert response.status == 202
    async with api.client.delete(f"{DOCUMENTS}/d.md") as response:
        assert response.status == 202
    await api.change(insert("a", "other", change_type="update"))
    first, listed, rest = trail.events[:1], trail.events[1:3], trail.events[3:]
    assert told(first) == [("insert", "docs", "a", "accepted", 1)]
    assert sorted(told(listed)) == [
        ("insert", "docs", "a", "unchanged", 1), ("insert", "docs", "b", "accepted", 1)
    ]  # fmt: skip
    assert told(rest) == [
        ("insert", "docs", "c", "accepted", 1),
        ("insert", "docs", "c", "superseded", 1),
        ("insert", "docs", "d.md", "accepted", 1),
        ("delete", "docs", "d.md", "accepted", 2),
        ("update", "docs", "a", "accepted", 2),
    ]


async def test_who_it_was_and_from_where(asking: Api, trail: Trail, keys: Keys) -> None:
    key = keys.made(Role.EDITOR, "docs")
    headers = {**bearer(key), "X-Request-Id": "mine-1"}
    assert (await asking.change(insert("a"), headers=headers))[0] == 202
    (event,) = trail.events
    assert event.principal == f"key:{next(iter(keys.store.kept))}"
    assert (event.address, event.request_id) == ("127.0.0.1", "mine-1")
    assert event.at == asking.flow.clock.now


async def test_the_entry_is_durable_before_the_answer(api: Api, trail: Trail) -> None:
    trail.hold = asyncio.Event()
    asked = asyncio.create_task(api.change(insert("a")))
    await trail.begun()
    assert (await api.row("a")) is not None
    assert not asked.done()
    assert trail.events == []
    trail.hold.set()
    assert (await asked)[0] == 202
    assert len(trail.events) == 1


async def test_a_client_that_goes_away_is_told_of_all_the_same(api: Api, trail: Trail) -> None:
    trail.hold = asyncio.Event()
    asked = asyncio.create_task(api.change(insert("a")))
    await trail.begun()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    trail.hold.set()
    assert told(await trail.count(1)) == [("insert", "docs", "a", "accepted", 1)]


async def test_telling_is_not_cancelled_with_the_request(trail: Trail) -> None:
    trail.hold = asyncio.Event()
    event = AuditEvent(at=1.0, principal="key:a", action="insert", document_id="a")
    telling = asyncio.create_task(Auditing(trail=trail).tell([event]))
    await trail.begun()
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    assert telling.cancelled()
    trail.hold.set()
    assert await trail.count(1) == [event]


async def test_a_client_that_goes_away_while_it_is_accepted(api: Api, trail: Trail) -> None:
    api.queue.hold = asyncio.Event()
    asked = asyncio.create_task(api.change(insert("a")))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await api.registry.rows.acquire()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert told(await trail.count(1)) == [("insert", "docs", "a", "uncertain", 0)]


async def test_what_may_have_taken_effect_is_uncertain(api: Api, trail: Trail) -> None:
    api.queue.errors.append(TransientError("away"))
    assert (await api.change(insert("a")))[0] == 503
    assert await api.row("a") is not None
    assert told(await trail.count(1)) == [("insert", "docs", "a", "uncertain", 0)]
    await api.change(insert("a"))
    assert told(trail.events[1:]) == [("insert", "docs", "a", "unchanged", 1)]


async def test_what_changes_nothing_is_not_told(api: Api, trail: Trail) -> None:
    no_such = {"change_type": "update", "namespace": "docs", "document_id": "no", "metadata": {}}
    statuses = [
        (await api.change(no_such))[0],
        (await api.change(insert("a", colour="red")))[0],
        (await api.change(b"{"))[0],
        (await api.get(f"{DOCUMENTS}/none"))[0],
    ]
    assert statuses == [404, 422, 400, 404]
    await api.change(insert("a"))
    assert len(trail.events) == 1


# --- a trail that is out of reach ----------------------------------------------------------------


async def test_nothing_is_begun_while_the_trail_is_out_of_reach(api: Api, trail: Trail) -> None:
    trail.failing = TransientError("away")
    status, body = await api.change(insert("a"))
    assert is_problem(status, body, "audit-unavailable")
    assert "took effect" in body["detail"]
    before = [*api.journal]

    for answer in (await api.change(insert("b")), await api.change({"changes": [insert("c")]})):
        assert is_problem(*answer, "audit-unavailable")
    (line,) = await api.feed(lines(insert("d")))
    assert line["error"]["type"].endswith("audit-unavailable")
    async with api.client.delete(f"{DOCUMENTS}/a") as response:
        assert response.status == 503
        assert "Retry-After" in response.headers
    assert api.journal == before, "something was done"
    assert (await api.get(f"{DOCUMENTS}/a"))[0] == 200, "reading goes on"

    trail.failing = None
    assert told(await trail.count(1)) == [("insert", "docs", "a", "accepted", 1)]
    assert (await api.change(insert("b")))[0] == 202
    assert [event.document_id for event in trail.events] == ["a", "b"]


async def test_an_error_that_no_trail_promises_is_no_different(api: Api, trail: Trail) -> None:
    trail.failing = ZeroDivisionError("hush")
    with capture_logs():
        status, body = await api.change(insert("a"))
    assert is_problem(status, body, "audit-unavailable")
    assert "hush" not in json.dumps(body)


async def test_a_trail_that_hangs_meets_the_deadline(flow: Pipeline, trail: Trail) -> None:
    trail.hold = asyncio.Event()
    auditing = Auditing(trail=trail, timeout_seconds=0.05, clock=flow.clock)
    async with serving(flow, services_too={"auditing": auditing}) as api:
        assert is_problem(*(await api.change(insert("a"))), "audit-unavailable")
    trail.hold.set()
    await auditing.close()
    assert len(trail.events) == 1


async def test_what_is_being_told_at_the_end_is_told_once(trail: Trail) -> None:
    trail.hold, trail.stubborn = asyncio.Event(), True
    auditing = Auditing(trail=trail)
    auditing.start()
    auditing.owe([AuditEvent(at=1.0, principal="key:a", action="insert", document_id="a")])
    await trail.begun()
    closing = asyncio.create_task(auditing.close())
    await asyncio.sleep(0)
    trail.hold.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await closing
    assert [event.document_id for event in trail.events] == ["a"]


async def test_what_is_owed_at_the_end_is_told_then_or_logged_whole(trail: Trail) -> None:
    auditing = Auditing(trail=trail)
    event = AuditEvent(at=1.0, principal="key:a", action="insert", document_id="a")
    auditing.owe([event])
    await auditing.close()
    assert trail.events == [event]

    trail.failing = PermanentError("no rights")
    auditing = Auditing(trail=trail)
    auditing.owe([replace(event, document_id="b")])
    with capture_logs() as logs:
        await auditing.close()
    (lost,) = [line for line in logs if line["event"] == "audit.entry_lost"]
    assert (lost["entry_document_id"], lost["entry_principal"]) == ("b", "key:a")


# --- refusals ------------------------------------------------------------------------------------


def refusals(events: Sequence[AuditEvent]) -> list[tuple[str, str, str, str, str, int]]:
    return [
        (e.principal[:4], e.subject, e.namespace, e.document_id, e.result, e.count)
        for e in events if e.action == "refused"
    ]  # fmt: skip


async def test_who_is_not_known_is_told_once_a_minute(
    flow: Pipeline, trail: Trail, keys: Keys
) -> None:
    async with audited(flow, trail, authenticate=keys.doorman) as api:
        for number in range(5):
            status, _ = await api.change(insert(f"{number}"), headers=bearer("bw_nobody_1"))
            assert status == 401
        await trail.count(1)
    assert refusals(trail.events) == [
        ("", "POST /v1/changes", "", "", "unauthenticated", 1),
        ("", "POST /v1/changes", "", "", "unauthenticated", 4),
    ]
    assert trail.events[0].address == "127.0.0.1"


async def test_who_may_not_is_told_with_name_and_wish(
    asking: Api, trail: Trail, keys: Keys
) -> None:
    reader, other = keys.made(Role.READER, "docs"), keys.made(Role.EDITOR, "other")
    async with asking.client.put(f"{DOCUMENTS}/a", data=b"x", headers=bearer(reader)) as response:
        assert response.status == 403
    async with asking.client.get(f"{DOCUMENTS}/a", headers=bearer(other)) as response:
        assert response.status == 403
    pattern = "/v1/namespaces/{namespace}/documents/{document_id}"
    assert refusals(await trail.count(2)) == [
        ("key:", f"PUT {pattern}", "docs", "a", "forbidden", 1),
        ("key:", f"GET {pattern}", "docs", "a", "forbidden", 1),
    ]


async def test_a_change_beyond_the_wall_is_told_once_however_it_came(
    asking: Api, trail: Trail, keys: Keys
) -> None:
    headers = bearer(keys.made(Role.EDITOR, "other"))
    assert (await asking.change(insert("a"), headers=headers))[0] == 403
    asking.flow.clock.now += 100
    listed = {"changes": [insert("b", namespace="other"), insert("c")]}
    assert (await asking.change(listed, headers=headers))[0] == 403
    asking.flow.clock.now += 100
    (line,) = await asking.feed(lines(insert("d")), **headers)
    assert line["error"]["status"] == 403
    assert refusals(await trail.count(3)) == [
        ("key:", "insert", "docs", name, "forbidden", 1) for name in ("a", "c", "d")
    ]


async def test_what_a_stranger_writes_into_an_address_is_bounded(
    asking: Api, trail: Trail, keys: Keys
) -> None:
    headers = bearer(keys.made(Role.EDITOR, "other"))
    url = asking.url(f"/v1/namespaces/{'n' * 9000}%00%0A/documents")
    async with asking.client.get(url, headers=headers) as response:
        assert response.status == 403
    (event,) = await trail.count(1)
    assert len(event.namespace) <= 4096


# --- what operators do ---------------------------------------------------------------------------


async def dead_letters(api: Api, *names: str) -> list[str]:
    for name in names:
        await api.flow.insert(name, "x")
    for delivery in await received(api, QueueName.CHANGE):
        await api.flow.queue.dead_letter(delivery, "broken")
    return [letter.message_id for letter in await api.flow.queue.dead_letters(limit=9)]


async def test_dead_letters_that_are_sent_again_or_dropped(api: Api, trail: Trail) -> None:
    first, second, third, fourth = await dead_letters(api, "a", "b", "c", "d")
    await api.post("/v1/dead-letters/redrive", {"message_ids": [first, "gone"]})
    await api.post("/v1/dead-letters/discard", {"message_ids": [second]})
    async with api.client.delete(f"/v1/dead-letters/{third}") as response:
        assert response.status == 200
    await api.post("/v1/dead-letters/redrive", {"all": True})
    await api.post("/v1/dead-letters/redrive", {"message_ids": ["gone"]})
    assert [(e.action, e.subject, e.result) for e in trail.events] == [
        ("redrive", first, "accepted"), ("discard", second, "accepted"),
        ("discard", third, "accepted"), ("redrive", fourth, "accepted"),
    ]  # fmt: skip
    assert sorted(event.document_id for event in trail.events) == ["a", "b", "c", "d"]
    assert {event.namespace for event in trail.events} == {"docs"}


async def test_no_dead_letter_is_dropped_while_the_trail_is_away(api: Api, trail: Trail) -> None:
    (letter,) = await dead_letters(api, "a")
    trail.failing = TransientError("away")
    await api.change(insert("b"))
    path = "/v1/dead-letters/discard"
    assert is_problem(*(await api.post(path, {"all": True})), "audit-unavailable")
    assert [x.message_id for x in await api.flow.queue.dead_letters(limit=9)] == [letter]


async def test_a_repair_is_told_before_and_after(flow: Pipeline, trail: Trail) -> None:
    from tests.integration.test_scrub_service import damage
    from workers.scrub import Scrubber
    from workers.scrub_job import ScrubJob

    timers = flow.sweeper.timers
    scrubber = Scrubber(
        registry=flow.registry, blobs=flow.blobs, index=flow.index, queue=flow.queue,
        timers=timers, clock=flow.clock,
    )  # fmt: skip
    await damage(flow)
    async with audited(flow, trail, scrub=ScrubJob(scrubber)) as api:
        for repair in (False, True):
            async with api.client.post("/v1/scrub", json={"repair": repair}) as response:
                assert response.status == 200
                await response.read()
        events = await trail.count(2)
    assert [(e.action, e.result, e.count) for e in events] == [
        ("scrub.repair", "begun", 1), ("scrub.repair", "accepted", 1)
    ]  # fmt: skip


async def test_the_intake_tells_as_the_landing_zone(trail: Trail) -> None:
    landing = MemoryLanding()
    acceptor = Acceptor(
        MemoryRegistry(), MemoryBlobStore(), MemoryQueue(), HashEmbedder().profile, TIMERS
    )
    intake = IntakeHandler(
        landing=landing, acceptor=acceptor, settings=Settings(_env_file=None),
        auditing=Auditing(trail=trail),
    )  # fmt: skip
    landing.put(Area.INCOMING, "docs/a.md", b"# A")
    await intake.reconcile("docs/a.md")
    assert told(trail.events) == [("insert", "docs", "a.md", "accepted", 1)]
    assert (trail.events[0].principal, trail.events[0].source) == ("landing", "landing")

    trail.failing = TransientError("away")
    landing.put(Area.INCOMING, "docs/b.md", b"# B")
    for _ in range(2):
        with pytest.raises(TransientError, match="audit trail"):
            await intake.reconcile("docs/b.md")
    assert DocumentKey("docs", "b.md").document_id not in [e.document_id for e in trail.events]
    assert {area for area, name in landing.held if name == "docs/b.md"} == {Area.INCOMING}


# --- retention -----------------------------------------------------------------------------------


async def test_what_is_too_old_is_dropped_by_the_service_itself(trail: Trail) -> None:
    old, young = 1000.0, 5000.0
    await trail.append([AuditEvent(at=at, principal="a", action="x") for at in (old, old, young)])
    auditing = Auditing(trail=trail, retention_seconds=2000.0, clock=Clock(now=6000.0))
    auditing.start()
    events = await trail.until(lambda events: len(events) == 2)
    await auditing.close()
    assert [event.action for event in events] == ["x", DROPPED]
    assert (await verify(trail))[1] is None


# --- no content, no secret -----------------------------------------------------------------------


async def test_neither_content_nor_metadata_nor_keys_are_in_the_file(
    flow: Pipeline, keys: Keys, tmp_path: Path
) -> None:
    path = tmp_path / "trail" / "audit.sqlite"
    path.parent.mkdir()
    trail = SqliteAuditTrail(path)
    auditing = Auditing(trail=trail, clock=flow.clock)
    auditing.start()
    key, guess = keys.made(Role.ADMIN, "*"), "bw_guess_marked-guess"
    async with serving(flow, services_too={"auditing": auditing}, authenticate=keys.doorman) as api:
        marked = insert("a", "marked-content", metadata={"note": "marked-metadata"})
        for value in (marked, {"changes": [marked | {"document_id": "b"}]}):
            assert (await api.change(value, headers=bearer(key)))[0] == 202
        await api.feed(lines(marked | {"document_id": "c"}), **bearer(key))
        put = f"{DOCUMENTS}/d.md?metadata=" + '{"note":"marked-metadata"}'
        async with api.client.put(
            put, data=b"marked-content", headers={**bearer(key), **OCTETS}
        ) as response:
            assert response.status == 202
        assert (await api.change(marked, headers=bearer(guess)))[0] == 401
        assert (await api.change(marked, headers={"X-API-Key": guess}))[0] == 401
        await api.post("/v1/dead-letters/redrive", {"all": True}, headers=bearer(key))
    await auditing.close()
    assert len([entry async for entry in trail.entries()]) == 6
    kept = b"".join(file.read_bytes() for file in path.parent.iterdir())
    await trail.close()
    assert b"docs" in kept
    secret = key.rpartition("_")[2]
    for marker in ("marked-content", "marked-metadata", "marked-guess", key, secret):
        assert marker.encode() not in kept


# --- GET /v1/audit -------------------------------------------------------------------------------


async def entries(api: Api, key: str, **query: str) -> tuple[int, Any]:
    return await api.get("/v1/audit", params=query, headers=bearer(key))


async def test_pages_of_the_trail(asking: Api, trail: Trail, keys: Keys) -> None:
    admin = keys.made(Role.ADMIN, "*")
    for number in range(5):
        await asking.change(insert(f"{number}"), headers=bearer(admin))
        asking.flow.clock.now += 10
    status, page = await entries(asking, admin, limit="2")
    assert (status, [e["document_id"] for e in page["entries"]]) == (200, ["4", "3"])
    assert [e["sequence"] for e in page["entries"]] == [5, 4]
    rest = (await entries(asking, admin, cursor=page["cursor"]))[1]
    assert [e["document_id"] for e in rest["entries"]] == ["2", "1", "0"]
    assert rest["cursor"] is None
    of_one = (await entries(asking, admin, namespace="docs", document_id="3"))[1]["entries"]
    assert [e["document_id"] for e in of_one] == ["3"]
    since = "1970-01-01T00:17:10Z"  # 1030 s
    late = (await entries(asking, admin, since=since))[1]["entries"]
    assert [e["document_id"] for e in late] == ["4", "3"]


async def test_an_admin_of_some_namespaces_sees_theirs_only(
    asking: Api, trail: Trail, keys: Keys
) -> None:
    everybody, bound = keys.made(Role.ADMIN, "*"), keys.made(Role.ADMIN, "kb-*")
    for name in ("kb-a", "other", "kb-b", "other", "kb"):
        await asking.change(insert("a", namespace=name), headers=bearer(everybody))
    await asking.change(insert("a"), headers=bearer("bw_nobody_x"))
    await trail.count(6)
    page = (await entries(asking, bound))[1]
    assert [e["namespace"] for e in page["entries"]] == ["kb-b", "kb-a"]
    assert not {"sequence", "previous_hash"} & page["entries"][0].keys(), "it tells of the others"
    first = (await entries(asking, bound, limit="1"))[1]
    second = (await entries(asking, bound, limit="1", cursor=first["cursor"]))[1]
    assert [e["namespace"] for e in second["entries"]] == ["kb-a"]
    assert second["cursor"] is None
    assert (await entries(asking, bound, namespace="other"))[1]["entries"] == []
    assert len((await entries(asking, everybody))[1]["entries"]) == 6


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"cursor": "1.x"}, "cursor"), ({"cursor": f"9.{'0' * 64}"}, "cursor"),
        ({"since": "2026-01-01"}, "since"), ({"since": "x"}, "since"),
        ({"limit": "0"}, "limit"),
    ],
)  # fmt: skip
async def test_a_page_that_cannot_be_given(
    asking: Api, keys: Keys, query: dict[str, str], field: str
) -> None:
    answer = await entries(asking, keys.made(Role.ADMIN, "*"), **query)
    assert is_problem(*answer, "invalid-field", field)


async def test_who_may_not_read_the_trail(asking: Api, keys: Keys) -> None:
    key = keys.made([Scope.WRITE, Scope.READ, Scope.SEARCH], "*")
    assert is_problem(*(await entries(asking, key)), "forbidden")


async def test_where_no_trail_is_kept(flow: Pipeline) -> None:
    for auditing in (Auditing(), Auditing(trail=NoAuditTrail())):
        async with serving(flow, services_too={"auditing": auditing}) as api:
            assert (await api.change(insert("a")))[0] == 202
            assert is_problem(*(await api.get("/v1/audit")), "not-found")
