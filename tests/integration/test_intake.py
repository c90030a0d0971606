"""The intake by itself: what it refuses, what it leaves alone, and how it works off its queue."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from common import identity
from common.aws.event_queue import EventMessage
from common.landing import NotANotificationError, longest_name_bytes
from common.model import DocumentKey, Row
from common.ports.errors import PermanentError, TransientError
from common.ports.landing import Area
from common.settings import Settings
from tests.builders import TIMERS
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.embedder import HashEmbedder
from tests.fakes.landing import BUCKET, MemoryLanding
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from webhook.accept import Accepted, Acceptor, Change, ChangeType
from webhook.admission import Admission, Limits
from webhook.intake import IntakeHandler, Settled
from webhook.intake_loop import LONGEST_DELAY_SECONDS, IntakeLoop
from webhook.quotas import quotas_of

NAME = "docs/a.md"
KEY = DocumentKey("docs", "a.md")
PATIENCE_SECONDS = 20.0
"""Only a loop that has ended, and a test that fails, takes as long."""


class World:
    def __init__(self) -> None:
        self.landing = MemoryLanding()
        self.registry = MemoryRegistry()
        self.queue = MemoryQueue()
        self.acceptor = Acceptor(
            self.registry, MemoryBlobStore(), self.queue, HashEmbedder().profile, TIMERS
        )
        self.intake = IntakeHandler(
            landing=self.landing, acceptor=self.acceptor, settings=Settings(_env_file=None)
        )

    def row(self) -> Row:
        return self.registry.rows[KEY]

    def areas(self, name: str = NAME) -> set[Area]:
        return {area for area, held in self.landing.held if held == name}


@pytest.fixture
def world() -> World:
    return World()


async def test_a_file_becomes_a_document_with_its_metadata(world: World) -> None:
    metadata = {"author": "=?UTF-8?B?w4RkYQ==?="}
    world.landing.put(Area.INCOMING, NAME, b"# A", content_type="", metadata=metadata)

    assert await world.intake.reconcile(NAME) == [Settled.ACCEPTED]

    desired = world.row().desired
    assert (desired.content_type, desired.metadata) == ("text/markdown", {"author": "Äda"})
    assert world.areas() == {Area.PROCESSED}


async def test_the_same_notification_again_changes_nothing(world: World) -> None:
    world.landing.put(Area.INCOMING, NAME, b"# A")
    await world.intake.reconcile(NAME)
    before = world.row()

    await world.intake.reconcile(NAME)

    assert world.row() == before


async def test_what_was_processed_and_is_removed_is_deleted(world: World) -> None:
    world.landing.put(Area.INCOMING, NAME, b"# A")
    await world.intake.reconcile(NAME)
    world.landing.remove(Area.PROCESSED, NAME)

    await world.intake.take_event(event("ObjectRemoved:Delete", Area.PROCESSED))

    assert world.row().desired.tombstone


def event(kind: str, area: Area) -> str:
    s3 = {"bucket": {"name": BUCKET}, "object": {"key": f"{area.value}/{NAME}"}}
    return json.dumps({"Records": [{"eventName": kind, "s3": s3}]})


@pytest.mark.parametrize(
    "told",
    [
        event("ObjectRemoved:Delete", Area.FAILED),
        event("ObjectRemoved:DeleteMarkerCreated", Area.INCOMING),
        event("ObjectCreated:Put", Area.INCOMING),
        event("LifecycleExpiration:Delete", Area.PROCESSED),
    ],
    ids=["failed", "incoming", "created", "expired"],
)
async def test_no_other_event_deletes_a_document(world: World, told: str) -> None:
    await world.acceptor.accept(Change(key=KEY, change_type=ChangeType.INSERT, content=b"kept"))

    await world.intake.take_event(told)

    assert not world.row().desired.tombstone


async def test_a_late_event_does_not_undo_what_the_api_changed_since(world: World) -> None:
    world.landing.put(Area.INCOMING, NAME, b"# File")
    await world.intake.reconcile(NAME)
    await world.acceptor.accept(Change(key=KEY, change_type=ChangeType.INSERT, content=b"# API"))
    newer = world.row().desired

    await world.intake.take_event(event("ObjectCreated:Put", Area.INCOMING))
    assert world.row().desired == newer

    world.landing.put(Area.INCOMING, NAME, b"\0")
    assert await world.intake.reconcile(NAME) == [Settled.FAILED]
    assert world.row().desired == newer


async def test_whose_bytes_were_overtaken_accepts_what_is_there(world: World) -> None:
    """An older accept that comes after the newer one's: who brought it sees it, and mends it."""
    slow = Overtaken(world.registry, MemoryBlobStore(), world.queue, HashEmbedder().profile, TIMERS)
    other = IntakeHandler(
        landing=world.landing, acceptor=world.acceptor, settings=world.intake.settings
    )

    async def overtake() -> None:
        world.landing.put(Area.INCOMING, NAME, b"# Newer")
        assert await other.reconcile(NAME) == [Settled.ACCEPTED]

    slow.before, world.intake.acceptor = overtake, slow
    world.landing.put(Area.INCOMING, NAME, b"# Older")

    assert await world.intake.reconcile(NAME) == [Settled.ACCEPTED, Settled.ACCEPTED]

    assert world.row().desired.content_hash == identity.sha256_hex(b"# Newer")


class Overtaken(Acceptor):
    """Something is done before its first change arrives."""

    before: Callable[[], Awaitable[None]] | None = None

    async def accept(self, change: Change) -> Accepted:
        before, self.before = self.before, None
        if before is not None:
            await before()
        return await super().accept(change)


async def test_what_is_withdrawn_while_it_is_accepted_is_no_document(world: World) -> None:
    slow = Overtaken(world.registry, MemoryBlobStore(), world.queue, HashEmbedder().profile, TIMERS)

    async def withdraw() -> None:
        world.landing.remove(Area.INCOMING, NAME)

    slow.before, world.intake.acceptor = withdraw, slow
    world.landing.put(Area.INCOMING, NAME, b"# A")

    assert await world.intake.reconcile(NAME) == [Settled.ACCEPTED, Settled.DELETED]

    assert world.row().desired.tombstone


async def test_a_file_that_fails_deletes_nothing(world: World) -> None:
    """The document may have come by the HTTP API."""
    await world.acceptor.accept(Change(key=KEY, change_type=ChangeType.INSERT, content=b"kept"))
    world.landing.put(Area.INCOMING, NAME, b"\0")

    assert await world.intake.reconcile(NAME) == [Settled.FAILED]

    assert not world.row().desired.tombstone
    assert world.areas() == {Area.FAILED}
    reason = json.loads(world.landing.reasons[NAME])
    assert reason["detail"] == "content has a NUL byte at byte 0 (counted from 0)"
    assert reason["name"] == NAME


async def test_a_better_file_clears_the_failure(world: World) -> None:
    world.landing.put(Area.INCOMING, NAME, b"\0")
    await world.intake.reconcile(NAME)
    world.landing.put(Area.INCOMING, NAME, b"# A")

    await world.intake.reconcile(NAME)

    assert world.areas() == {Area.PROCESSED}
    assert world.landing.reasons == {}


async def test_what_is_too_large_is_not_even_read(world: World) -> None:
    world.intake.settings = Settings(_env_file=None, max_document_bytes=3)
    world.landing.put(Area.INCOMING, NAME, b"four")

    assert await world.intake.reconcile(NAME) == [Settled.FAILED]

    assert world.landing.reads == 0
    assert json.loads(world.landing.reasons[NAME])["limit"] == 3


async def test_what_is_too_large_to_be_moved_stays_with_a_reason(world: World) -> None:
    world.landing.largest_move_bytes = 3
    world.landing.put(Area.INCOMING, NAME, b"\0\0\0\0")

    assert await world.intake.reconcile(NAME) == [Settled.FAILED]

    assert world.areas() == {Area.INCOMING}
    assert NAME in world.landing.reasons


async def test_a_name_with_no_room_in_processed_fails(world: World) -> None:
    name = "docs/" + "x" * longest_name_bytes("")
    world.landing.put(Area.INCOMING, name, b"x")

    assert await world.intake.reconcile(name) == [Settled.FAILED]

    assert "room" in json.loads(world.landing.reasons[name])["detail"]


async def test_another_embedding_profile_is_a_reason(world: World) -> None:
    other = replace(HashEmbedder().profile, fingerprint="2")
    await world.registry.bind_namespace("docs", other)
    world.landing.put(Area.INCOMING, NAME, b"# A")

    assert await world.intake.reconcile(NAME) == [Settled.FAILED]

    assert "BLOOMWEAVER_EMBEDDER_URL" in json.loads(world.landing.reasons[NAME])["detail"]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"namespace_quotas": {"docs": {"documents": 1}}}, "documents"),
        ({"namespace_quotas": {"docs": {"bytes": 4}}}, "bytes"),
        ({"max_namespaces": 1}, "namespaces"),
    ],
)
async def test_a_file_beyond_a_quota_fails_with_the_reason(
    world: World, limits: dict[str, Any], reason: str
) -> None:
    settings = Settings(_env_file=None, **limits)
    world.intake.quotas = quotas_of(settings, world.registry)
    world.intake.acceptor = replace(world.acceptor, max_namespaces=settings.max_namespaces)
    world.landing.put(Area.INCOMING, NAME, b"full")
    assert await world.intake.reconcile(NAME) == [Settled.ACCEPTED]
    other = "new/b.md" if reason == "namespaces" else "docs/b.md"
    world.landing.put(Area.INCOMING, other, b"more")

    assert await world.intake.reconcile(other) == [Settled.FAILED]

    assert world.areas(other) == {Area.FAILED}
    told = json.loads(world.landing.reasons[other])
    assert (told["status"], told["reason"]) == (403, reason)
    assert set(world.registry.rows) == {KEY}
    # What is there may change and go.
    world.landing.put(Area.INCOMING, NAME, b"anew")
    assert await world.intake.reconcile(NAME) == [Settled.ACCEPTED]


async def test_what_was_processed_stays_where_it_is_when_the_limits_change(world: World) -> None:
    world.landing.put(Area.PROCESSED, NAME, b"long since here")
    world.landing.put(Area.INCOMING, NAME, b"x")
    world.intake.settings = Settings(_env_file=None, max_document_bytes=3)
    slow = Overtaken(world.registry, MemoryBlobStore(), world.queue, HashEmbedder().profile, TIMERS)

    async def withdraw() -> None:
        world.landing.remove(Area.INCOMING, NAME)

    slow.before, world.intake.acceptor = withdraw, slow

    assert await world.intake.reconcile(NAME) == [Settled.ACCEPTED, Settled.REFUSED]

    assert world.areas() == {Area.PROCESSED}
    assert world.landing.reasons == {}


async def test_trouble_that_passes_is_no_failure_of_the_file(world: World) -> None:
    class Away(Acceptor):
        async def accept(self, change: Change) -> Accepted:
            raise TransientError("away")

    old = world.acceptor
    world.intake.acceptor = Away(old.registry, old.blobs, old.queue, old.profile, TIMERS)
    world.landing.put(Area.INCOMING, NAME, b"# A")

    with pytest.raises(TransientError):
        await world.intake.reconcile(NAME)

    assert world.areas() == {Area.INCOMING}


async def test_too_long_a_backlog_keeps_files_waiting(world: World) -> None:
    limits = Limits(max_backlog_messages=1, min_free_disk_bytes=0)
    world.intake.admission = Admission(world.queue, [], limits)
    await world.acceptor.accept(
        Change(key=DocumentKey("docs", "b"), change_type=ChangeType.INSERT, content=b"b")
    )
    world.landing.put(Area.INCOMING, NAME, b"# A")

    with pytest.raises(TransientError, match="backlog"):
        await world.intake.reconcile(NAME)

    assert world.areas() == {Area.INCOMING}
    await world.intake.admission.close()


async def test_a_notification_works_off_every_name_in_it(world: World) -> None:
    names = ["docs/a.md", "docs/b.md"]
    for name in names:
        world.landing.put(Area.INCOMING, name, b"x")
    records = [
        {"s3": {"bucket": {"name": BUCKET}, "object": {"key": f"incoming/{name}"}}}
        for name in names
    ]

    await world.intake.take_event(json.dumps({"Records": records}))

    assert {key.document_id for key in world.registry.rows} == {"a.md", "b.md"}
    with pytest.raises(NotANotificationError):
        await world.intake.take_event("{}")


# --- the loop ------------------------------------------------------------------------------------


@dataclass
class ListQueue:
    """Messages to receive once; then nothing comes, for ever."""

    waiting: list[str]
    most_at_once: int = 0
    kept: list[str] = field(default_factory=list)
    handed_back: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    put_back_after: dict[str, float] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    keep_failures: list[Exception] = field(default_factory=list)
    kept_twice: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, limit: int) -> list[EventMessage]:
        if self.failures:
            raise self.failures.pop()
        self.most_at_once = max(self.most_at_once, limit)
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        if not taken:
            await asyncio.Event().wait()
        return [EventMessage(body, body, body) for body in taken]

    async def keep(self, message: EventMessage) -> None:
        if self.keep_failures:
            raise self.keep_failures.pop()
        self.kept.append(message.id)
        if len(self.kept) == 2:
            self.kept_twice.set()

    async def hand_back(self, message: EventMessage) -> None:
        self.handed_back.append(message.id)

    async def put_back(self, message: EventMessage, delay_seconds: float) -> None:
        self.put_back_after[message.id] = delay_seconds

    async def remove(self, message: EventMessage) -> None:
        self.removed.append(message.id)


class Work:
    """Holds each message until it is let go."""

    def __init__(self, raises: Callable[[str], Exception | None] = lambda _: None) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.go = asyncio.Event()
        self.at_once = 0
        self.most = 0
        self._raises = raises

    async def __call__(self, body: str) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.begun.put_nowait(body)
        try:
            await self.go.wait()
            if error := self._raises(body):
                raise error
        finally:
            self.at_once -= 1


def loop_of(
    queue: ListQueue, work: Work, *, visibility_seconds: float = 30, drain_seconds: float = 10
) -> IntakeLoop:
    return IntakeLoop(
        queue=queue,
        take=work,
        concurrency=2,
        visibility_seconds=visibility_seconds,
        drain_seconds=drain_seconds,
    )


async def test_only_so_many_are_in_hand_and_a_drain_finishes_them() -> None:
    queue, work, stop = ListQueue([*"abcde"]), Work(), asyncio.Event()
    running = asyncio.create_task(loop_of(queue, work).run(stop))
    assert {await work.begun.get(), await work.begun.get()} == {"a", "b"}

    stop.set()
    work.go.set()
    await running

    assert sorted(queue.removed) == ["a", "b"]
    assert work.most == 2
    assert queue.waiting == ["c", "d", "e"]


async def test_what_fails_is_left_to_its_timeout_and_the_others_go_on() -> None:
    """What is out of reach is put back, so that its receives do not add up in an outage."""
    errors: dict[str, Exception] = {
        "a": TransientError("away"),
        "b": PermanentError("mend"),
        "c": ZeroDivisionError(),
    }
    failures = [TransientError("away"), RuntimeError("nobody foresaw it")]
    queue, work, stop = ListQueue([*"abcd"], failures=failures), Work(errors.get), asyncio.Event()
    work.go.set()
    loop = loop_of(queue, work)
    loop.jitter = AtOnce()
    running = asyncio.create_task(loop.run(stop))
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(4):
            await work.begun.get()

    stop.set()
    await running

    assert queue.removed == ["d"]
    assert list(queue.put_back_after) == ["a"]
    assert queue.handed_back == []


async def test_the_longer_an_outage_the_later_messages_come_again() -> None:
    names = [str(number) for number in range(40)]
    queue, work, stop = ListQueue(names), Work(lambda _: TransientError("away")), asyncio.Event()
    work.go.set()
    loop = loop_of(queue, work)
    loop.jitter = Latest()
    running = asyncio.create_task(loop.run(stop))
    for _ in names:
        await work.begun.get()

    stop.set()
    await running

    assert [queue.put_back_after[name] for name in names[:3]] == [2.0, 4.0, 8.0]
    assert max(queue.put_back_after.values()) == LONGEST_DELAY_SECONDS
    assert queue.removed == []


class AtOnce(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return 0.0


class Latest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


async def test_what_outlasts_the_drain_is_handed_back() -> None:
    queue, work, stop = ListQueue(["a"]), Work(), asyncio.Event()
    running = asyncio.create_task(loop_of(queue, work, drain_seconds=0.01).run(stop))
    await work.begun.get()

    stop.set()
    await running

    assert queue.handed_back == ["a"]
    assert queue.removed == []


async def test_a_message_is_kept_while_it_is_worked_on() -> None:
    """However often keeping it fails, and for whatever reason."""
    failures = [TransientError("away"), RuntimeError("nobody foresaw it")]
    queue, work, stop = ListQueue(["a"], keep_failures=failures), Work(), asyncio.Event()
    running = asyncio.create_task(loop_of(queue, work, visibility_seconds=0.03).run(stop))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await queue.kept_twice.wait()
    work.go.set()
    stop.set()
    await running

    assert queue.removed == ["a"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
