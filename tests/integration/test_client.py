"""Both clients against the real service: one suite, since they promise the same."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, assert_type

import pytest

from common.access import Role
from common.client import (
    ApiError,
    AsyncClient,
    ChangeRefused,
    ChangeResult,
    Client,
    ConfigurationError,
    Delete,
    DocumentFailedError,
    Insert,
    NotFoundError,
    Outcome,
    PreconditionFailedError,
    Status,
    Summary,
    UnreachableError,
    Update,
    WaitTimeoutError,
)
from common.client.loop_thread import LoopThread
from tests.access import Keys
from tests.builders import TIMERS
from tests.clients import KINDS, Caller, calling
from tests.fakes.audit import MemoryAuditTrail
from tests.fakes.receipts import MemoryReceipts
from tests.integration.test_http_api import Api, serving
from tests.integration.test_http_history import give_up
from tests.pipeline import Pipeline, pipeline
from webhook.auditing import Auditing
from workers.scrub import Scrubber
from workers.scrub_job import ScrubJob

DOCS: dict[str, Any] = {"namespace": "docs"}


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
async def api(flow: Pipeline) -> AsyncIterator[Api]:
    scrub = ScrubJob(
        Scrubber(registry=flow.registry, blobs=flow.blobs, index=flow.index, queue=flow.queue,
                 timers=TIMERS, clock=flow.clock)
    )  # fmt: skip
    auditing = Auditing(trail=MemoryAuditTrail(), timeout_seconds=30, clock=flow.clock)
    auditing.start()
    more = {"receipts": MemoryReceipts(), "auditing": auditing}
    async with serving(flow, scrub=scrub, services_too=more) as made:
        yield made
    await auditing.close()


@pytest.fixture(params=KINDS, ids=["async", "blocking"])
async def call(api: Api, request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    async with calling(request.param, str(api.url("")), retry_seconds=5) as caller:
        yield caller


@asynccontextmanager
async def working(flow: Pipeline) -> AsyncIterator[None]:
    """The workers and consumers, as long as the context is open."""

    async def work() -> None:
        while True:
            await flow.run()
            await asyncio.sleep(0.005)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- one document --------------------------------------------------------------------------------


async def test_the_life_of_a_document(call: Caller, flow: Pipeline) -> None:
    async with working(flow):
        made = await call(
            "insert", "a.md", "alpha beta", metadata={"lang": "en"}, wait=True, **DOCS
        )
        assert (made.outcome, made.version) == (Outcome.ACCEPTED, 1)
        [hit] = (await call("search", "alpha", **DOCS)).hits
        assert (hit.document_id, hit.text, hit.metadata) == ("a.md", "alpha beta", {"lang": "en"})
        await call("update", "a.md", metadata={"lang": "de"}, wait=True, **DOCS)
        assert (await call("search", "alpha", filter={"lang": "en"}, **DOCS)).hits == []
        assert len((await call("search", "alpha", filter={"lang": "de"}, **DOCS)).hits) == 1
        seen = await call("document", "a.md", **DOCS)
        assert (seen.status, seen.version, seen.applied_version) == (Status.COMPLETED, 2, 2)
        gone = await call("delete", "a.md", wait=True, **DOCS)
        assert (await call("search", "alpha", **DOCS)).hits == []
    assert (await call("document", "a.md", **DOCS)).status == Status.DELETED
    history = [event.event for event in await call.all("history", "a.md", **DOCS)]
    assert history[-1] == "accepted"
    assert history.count("accepted") == gone.version == 3
    with pytest.raises(NotFoundError, match="is deleted"):
        await call("content", "a.md", **DOCS)


@pytest.mark.parametrize("name", ["a b/ü?#%.md", "..", "x/chunks"])
async def test_names_arrive_as_they_are(call: Caller, flow: Pipeline, name: str) -> None:
    await call("upsert", name, "text", **DOCS)
    assert (await call("document", name, **DOCS)).document_id == name


async def test_bytes_arrive_unaltered_however_large(call: Caller, flow: Pipeline) -> None:
    raw = b"\r\nalpha \xc3\xa9 " * 20_000
    await call("insert", "a.txt", raw, content_type="text/markdown", **DOCS)
    content = await call("content", "a.txt", **DOCS)
    assert (content.data, content.content_type, content.version) == (raw, "text/markdown", 1)
    assert (await call("insert", "a.txt", raw, content_type="text/markdown", **DOCS)).outcome == (
        Outcome.UNCHANGED
    )


async def test_of_two_editors_one_is_told(call: Caller, flow: Pipeline) -> None:
    seen = await call("insert", "a", "one", if_version=0, **DOCS)
    await call("insert", "a", "theirs", if_version=seen.version, **DOCS)
    with pytest.raises(PreconditionFailedError) as refused:
        await call("insert", "a", "mine", if_version=seen.version, **DOCS)
    assert (refused.value.status, refused.value.version) == (412, 2)
    with pytest.raises(PreconditionFailedError):
        await call("delete", "a", if_version=1, **DOCS)
    assert (await call("content", "a", **DOCS)).data == b"theirs"


async def test_what_did_not_change_is_not_read_again(call: Caller, flow: Pipeline) -> None:
    await call("insert", "a", "one", **DOCS)
    seen = await call("document", "a", **DOCS)
    assert await call("document_if_changed", "a", seen.etag, **DOCS) is None
    await flow.run()
    now = await call("document_if_changed", "a", seen.etag, **DOCS)
    assert (now.status, now.etag != seen.etag) == (Status.COMPLETED, True)


async def test_a_no_says_all_that_the_service_said(call: Caller) -> None:
    with pytest.raises(ApiError) as refused:
        await call("insert", "a" * 1025, "text", **DOCS)
    error = refused.value
    assert (error.status, error.kind, error.field) == (422, "invalid-field", "document_id")
    assert error.type.endswith(":invalid-field")
    assert error.problem.limit == 1024
    assert "1025" in error.detail
    assert error.title
    assert error.request_id
    with pytest.raises(NotFoundError):
        await call("document", "nobody", **DOCS)
    with pytest.raises(NotFoundError):
        await call("update", "nobody", metadata={"a": "b"}, **DOCS)


# --- waiting -------------------------------------------------------------------------------------

BROKEN_PDF: dict[str, Any] = {"content": b"%PDF-1.4 nothing", "content_type": "application/pdf"}


async def test_waiting_raises_why_a_document_failed(call: Caller, api: Api) -> None:
    waiting = asyncio.create_task(call("insert", "a.pdf", wait=True, **BROKEN_PDF, **DOCS))
    await api.registry.rows.acquire()
    await give_up(api, "the PDF is broken")
    with pytest.raises(DocumentFailedError, match=r"a\.pdf.*the PDF is broken") as failed:
        await waiting
    assert (failed.value.version, failed.value.error) == (1, "the PDF is broken")


async def test_waiting_for_many_raises_why_one_failed(call: Caller, api: Api) -> None:
    pdf = Insert("a.pdf", **BROKEN_PDF, **DOCS)
    waiting = asyncio.create_task(call("submit", [pdf, Delete("nobody", **DOCS)], wait=True))
    await api.registry.rows.acquire()
    await give_up(api, "the PDF is broken")
    with pytest.raises(DocumentFailedError, match=r"a\.pdf.*the PDF is broken"):
        await waiting


async def test_waiting_ends_in_time_and_the_change_is_kept(call: Caller, flow: Pipeline) -> None:
    with pytest.raises(WaitTimeoutError):
        await call("insert", "a", "alpha", wait=0.05, **DOCS)
    with pytest.raises(WaitTimeoutError):
        await call("submit", [Insert("b", "beta", **DOCS)], wait=0.05)
    with pytest.raises(WaitTimeoutError):
        await call("search", "alpha", wait=0.05, **DOCS)
    with pytest.raises(WaitTimeoutError):
        await call("document", "a", wait=1e-5, **DOCS)
    await flow.run()
    assert len((await call("search", "alpha", wait=0, **DOCS)).hits) == 2


async def test_a_delete_of_what_never_was_is_not_waited_for(call: Caller) -> None:
    assert (await call("delete", "nobody", wait=0.001, **DOCS)).version == 0


# --- many ----------------------------------------------------------------------------------------


async def test_a_list_is_accepted_in_order_and_waited_for(call: Caller, flow: Pipeline) -> None:
    changes = [
        Insert("a", "alpha", **DOCS),
        Update("nobody", metadata={"lang": "en"}, **DOCS),
        {"change_type": "insert", "document_id": "b", "content": "beta", **DOCS},
        Delete("b", **DOCS),
    ]
    async with working(flow):
        results = await call("submit", changes, wait=True)
    assert [getattr(r, "version", None) for r in results] == [1, None, 1, 2]
    assert (results[1].line, results[1].error.status) == (2, 404)
    assert (await call("document", "b", **DOCS)).status == Status.DELETED
    with pytest.raises(ApiError) as refused:
        await call("submit", [Insert("c", "x", **DOCS), Insert("", "x", **DOCS)])
    assert refused.value.field == "changes[1].document_id"
    with pytest.raises(NotFoundError):
        await call("document", "c", **DOCS)


async def test_a_feed_answers_each_change_in_its_order(
    call: Caller, flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.client.feeding.WINDOW_LINES", 20)

    def changes() -> Iterator[Any]:
        for n in range(200):
            yield Insert(f"{n % 7}", f"text {n}", **DOCS) if n != 130 else {"nonsense": True}

    results = await call.all("feed", call.source(changes()))
    assert [r.line for r in results] == list(range(1, 201))
    refused = [r for r in results if isinstance(r, ChangeRefused)]
    assert [(r.line, r.problem.status) for r in refused] == [(131, 422)]
    newest = {r.document_id: r.version for r in results if isinstance(r, ChangeResult)}
    for n in range(7):
        name = f"{n}"
        last = max(i for i in range(200) if i % 7 == n and i != 130)
        assert (await call("content", name, **DOCS)).data == f"text {last}".encode()
        assert (await call("document", name, **DOCS)).version == newest[name]


async def test_half_a_character_costs_its_own_change(call: Caller) -> None:
    changes = [Insert("a", "one", **DOCS), Insert("b", "\ud83d", **DOCS), Insert("c", "x", **DOCS)]
    first, second, third = await call.all("feed", call.source(changes))
    assert (first.version, third.version, second.line) == (1, 1, 2)
    assert "lone surrogate U+D83D" in str(second.problem)
    with pytest.raises(ValueError, match="lone surrogate"):
        await call("insert", "b", "\ud83d", **DOCS)


async def test_a_feed_can_be_waited_for(call: Caller, flow: Pipeline) -> None:
    async with working(flow):
        names = [f"{n}" for n in range(40)]
        await call.all("feed", call.source(Insert(n, n, **DOCS) for n in names), wait=True)
    rows = await call.all("documents", **DOCS)
    assert {(row.status, row.applied_version) for row in rows} == {(Status.COMPLETED, 1)}


async def test_a_feed_that_nobody_listens_to_any_more_ends(call: Caller, flow: Pipeline) -> None:
    def endless() -> Iterator[Any]:
        n = 0
        while True:
            n += 1
            yield Insert(f"{n}", "text", **DOCS)

    assert (await call.first("feed", call.source(endless()))).version == 1
    assert (await call("stats")).namespaces[0].documents["PENDING"] >= 1


async def test_what_a_source_raises_is_raised(call: Caller, flow: Pipeline) -> None:
    def broken() -> Iterator[Any]:
        yield Insert("a", "text", **DOCS)
        raise LookupError("the cursor is gone")

    with pytest.raises(LookupError, match="cursor is gone"):
        await call.all("feed", call.source(broken()))
    assert (await call("document", "a", **DOCS)).version == 1


async def test_a_feed_refused_as_a_whole_is_an_error(flow: Pipeline) -> None:
    keys = Keys()
    async with serving(flow, authenticate=keys.doorman) as api:
        for kind in KINDS:
            key = keys.made(Role.READER, "*")
            async with calling(kind, str(api.url("")), api_key=key) as call:
                with pytest.raises(ApiError) as refused:
                    await call.all("feed", call.source([Insert("a", "x", **DOCS)]))
                assert refused.value.status == 403


async def test_listings_go_through_all_pages(
    call: Caller, flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.client.paging.PAGE_SIZE", 2)
    for name in ("a/1", "a/2", "a/3", "b/1"):
        await call("insert", name, "# One\n\nalpha\n\n# Two\n\nbeta\n\n# Three\n\ngamma",
                   content_type="text/markdown", **DOCS)  # fmt: skip
    await flow.run()
    listed = await call.all("documents", prefix="a/", status=Status.COMPLETED, **DOCS)
    assert [row.document_id for row in listed] == ["a/1", "a/2", "a/3"]
    assert (await call.first("documents", **DOCS)).document_id == "a/1"
    chunks = await call.all("chunks", "a/1", **DOCS)
    assert [list(chunk.heading_path) for chunk in chunks] == [["One"], ["Two"], ["Three"]]


# --- the service ---------------------------------------------------------------------------------


async def test_dead_letters(call: Caller, api: Api) -> None:
    ids = []
    for name in ("a", "b", "c"):
        await call("insert", name, "text", **DOCS)
        ids.append(await give_up(api, "broken"))
    letters = await call.all("dead_letters", **DOCS)
    assert [(x.message_id, x.reason) for x in letters] == [(i, "broken") for i in ids]
    assert (await call("dead_letter", ids[0])).document_id == "a"
    assert await call("redrive", [ids[0]]) == 1
    assert await call("discard", document_id="b") == 1
    assert [x.document_id for x in await call.all("dead_letters")] == ["c"]
    assert await call("redrive", everything=True) == 1
    with pytest.raises(NotFoundError):
        await call("dead_letter", ids[2])
    with pytest.raises(ValueError, match="message_ids"):
        await call("discard")


async def test_scrub_stats_and_audit(call: Caller, flow: Pipeline) -> None:
    await call("insert", "a", "alpha", **DOCS)
    await flow.run()
    told: list[int] = []
    report = await call(
        "scrub", repair=True, on_progress=lambda p: told.append(p.documents_total), **DOCS
    )
    assert (report.clean, report.documents_checked, report.namespaces) == (True, 1, ["docs"])
    state = await call("last_scrub")
    assert (state.running, state.report) == (False, report)
    with pytest.raises(NotFoundError):
        await call("scrub", namespace="nobody")
    stats = await call("stats")
    assert (stats.namespaces[0].documents["COMPLETED"], stats.queues["change"].waiting) == (1, 0)
    assert stats.workers.running == 1
    entries = await call.all("audit", document_id="a", **DOCS)
    assert [(e.action, e.document_id, e.version) for e in entries] == [("insert", "a", 1)]
    assert await call("ready")
    await call("ping")


# --- who asks, and whom --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_come_by_argument_or_environment(
    flow: Pipeline, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys()
    async with serving(flow, authenticate=keys.doorman) as api:
        monkeypatch.setenv("BLOOMWEAVER_URL", str(api.url("/")))
        monkeypatch.setenv("BLOOMWEAVER_API_KEY", keys.made(Role.EDITOR, "docs"))
        async with calling(kind, None, api_key=None) as call:  # type: ignore[arg-type]
            assert (await call("insert", "a", "text", **DOCS)).version == 1
            assert (await call("stats")).queues is None
        async with calling(kind, str(api.url("")), api_key="bw_wrong") as call:
            with pytest.raises(ApiError, match="BLOOMWEAVER_API_KEY") as refused:
                await call("stats")
            assert refused.value.status == 401


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("url", "key"),
    [("127.0.0.1:8080", ""), ("http://", ""), ("http://[::", ""), ("http://x", "a b"),
     ("http://x", "a\nb"), ("http://x", "é")],
)  # fmt: skip
def test_what_cannot_be_right_is_said_at_once(kind: Any, url: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        kind(url, api_key=key)
    assert not key or key not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["http://me:s3cret@x", "http://s3cret@x", "me:s3cret@x", "http://me:s3/cret@x",
     "http://x/?key=s3cret", "http://x#s3cret"],
)  # fmt: skip
def test_an_address_with_a_secret_is_refused_without_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="BLOOMWEAVER_API_KEY") as refused:
        AsyncClient(url, api_key="")
    assert "s3" not in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_service_that_is_not_there(kind: Any, unused_port: int) -> None:
    async with calling(kind, f"http://127.0.0.1:{unused_port}", retry_seconds=0) as call:
        with pytest.raises(UnreachableError, match=r"Connection refused.*BLOOMWEAVER_URL"):
            await call("stats")
        assert not await call("ready")


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


async def test_the_example_runs(flow: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    example = Path("docs/clients.md").read_text().partition("```python\n")[2].partition("```")[0]
    async with serving(flow, services_too={"receipts": MemoryReceipts()}) as api, working(flow):
        code = example.replace("http://127.0.0.1:8080", str(api.url("")))
        await asyncio.to_thread(exec, code, {})
    said = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("20")]
    assert said[0] == "accepted 1"
    assert "guide/start.md: # Start" in said[1]


# --- the blocking one ----------------------------------------------------------------------------


async def test_the_blocking_client_works_where_a_loop_runs(flow: Pipeline) -> None:
    """As in a notebook: called from a coroutine, of a loop that is not the service's."""

    def notebook(url: str) -> int:
        async def cell() -> int:
            with Client(url, api_key="") as client:
                return client.insert("a", "text", namespace="docs").version

        return asyncio.run(cell())

    async with serving(flow) as api:
        assert await asyncio.to_thread(notebook, str(api.url(""))) == 1


async def test_the_blocking_feed_reads_in_the_callers_thread(flow: Pipeline) -> None:
    """A database cursor may be used in the thread only that made it."""
    seen: set[int] = set()

    def changes() -> Iterator[Any]:
        for n in range(3):
            seen.add(threading.get_ident())
            yield Insert(f"{n}", "text", **DOCS)

    def feed(url: str) -> int:
        with Client(url, api_key="") as client:
            assert len(list(client.feed(changes()))) == 3
        return threading.get_ident()

    async with serving(flow) as api:
        assert seen == {await asyncio.to_thread(feed, str(api.url("")))}


async def test_a_client_that_nobody_closed_is_closed(flow: Pipeline) -> None:
    """Sockets that were left open would be a warning, and a warning is an error here."""

    def forgetful(url: str) -> weakref.ref[LoopThread]:
        client = Client(url, api_key="")
        client.stats()
        return weakref.ref(client._thread)

    async with serving(flow) as api:
        thread = await asyncio.to_thread(forgetful, str(api.url("")))
        gc.collect()
        assert thread() is None


def test_what_interrupts_the_caller_ends_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = threading.Event(), threading.Event()

    async def nothing() -> None:
        return

    async def forever() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def interrupted(_future: object) -> None:
        assert began.wait(30)
        raise KeyboardInterrupt

    thread = LoopThread(nothing)
    with monkeypatch.context() as patched:
        patched.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            thread.run(forever())
    assert ended.wait(30)
    thread.stop()


def test_a_client_that_is_closing_begins_nothing() -> None:
    """The loop, which ends, would never come to it."""
    ending, go_on, asked = threading.Event(), threading.Event(), threading.Event()
    refused: list[BaseException] = []

    async def last() -> None:
        ending.set()
        await asyncio.to_thread(go_on.wait, 30)

    def ask() -> None:
        try:
            thread.run(asyncio.Event().wait())
        except RuntimeError as error:
            refused.append(error)
        asked.set()

    thread = LoopThread(last)
    stopping = threading.Thread(target=thread.stop, daemon=True)
    stopping.start()
    assert ending.wait(30)
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    told = asked.wait(5)
    go_on.set()
    stopping.join(30)
    assert told
    assert "closed" in str(refused[0])


def test_what_is_under_way_when_a_client_is_closed_says_so() -> None:
    began = threading.Event()

    async def nothing() -> None:
        return

    async def forever() -> None:
        began.set()
        await asyncio.Event().wait()

    def close() -> None:
        assert began.wait(30)
        thread.stop()

    thread = LoopThread(nothing)
    stopping = threading.Thread(target=close)
    stopping.start()
    with pytest.raises(RuntimeError, match="closed meanwhile"):
        thread.run(forever())
    stopping.join(30)


def test_a_closed_client_and_one_in_its_own_callback_say_so() -> None:
    client = Client("http://127.0.0.1:9", api_key="")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.stats()

    def ask_again(_error: BaseException) -> None:
        inner.stats()

    inner = Client("http://127.0.0.1:9", api_key="", on_retry=ask_again)
    with pytest.raises(RuntimeError, match="callbacks"):
        inner.stats()
    inner.close()


def test_methods_keep_their_signatures() -> None:
    own, twin = inspect.signature(Client.insert), inspect.signature(AsyncClient.insert)
    assert list(own.parameters) == list(twin.parameters)
    with pytest.raises(TypeError, match="nonsense"), Client("http://x", api_key="") as client:
        client.insert("a", nonsense=1)  # type: ignore[call-arg]


def _typed(client: Client) -> None:
    """Never called: mypy is the test, which finds ignores that are not needed, too."""
    assert_type(client.insert("a", "text", wait=True), ChangeResult)
    assert_type(client.documents(prefix="a"), Iterator[Summary])
    client.insert("a", 1)  # type: ignore[arg-type]


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(AsyncClient) - public(Client) == {"waiter"}
    assert public(Client) <= public(AsyncClient)
    for name in public(Client):
        assert getattr(Client, name).__doc__, name
