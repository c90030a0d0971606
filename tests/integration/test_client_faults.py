"""Both clients against a service that misbehaves: what is tried again, and what it comes to."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.client import (
    ApiError,
    Delete,
    NoAnswerInTimeError,
    UnreachableError,
    WaitTimeoutError,
)
from tests.clients import KINDS, calling
from tests.fakes.receipts import MemoryReceipts
from tests.integration.test_http_api import Api, insert, serving
from tests.pipeline import Pipeline, pipeline
from tests.servers.misbehaving import (
    dropping,
    lost_on_the_way,
    misbehaving,
    passing_on,
    saying,
)

DOCS = {"namespace": "docs"}
ACCEPTED = saying(
    202, {"namespace": "docs", "document_id": "a", "outcome": "accepted", "version": 1}
)
IN_USE = {"type": "urn:bloomweaver:problem:idempotency-key-in-use", "title": "busy", "status": 409}

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=["async", "blocking"])


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
async def api(flow: Pipeline) -> AsyncIterator[Api]:
    async with serving(flow, services_too={"receipts": MemoryReceipts()}) as made:
        yield made


@pytest.mark.parametrize(
    "first",
    [
        saying(408),
        saying(429, {"title": "slow down", "status": 429}, Retry_After="0.01"),
        saying(502),
        saying(503, {"title": "full", "status": 503}, Retry_After="0.01"),
        saying(504),
        saying(409, IN_USE, Retry_After="0.01"),
        dropping,
    ],
    ids=["408", "429", "502", "503", "504", "key in use", "reset"],
)
async def test_what_may_pass_is_asked_again_under_one_key(kind: Any, first: Any) -> None:
    async with misbehaving(first, first, ACCEPTED) as server:
        async with calling(kind, server.url) as call:
            assert (await call("insert", "a", "text", **DOCS)).version == 1
        assert len(server.asked) == 3
        [key] = server.keys
        assert key
        assert len({one.body for one in server.asked}) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422, 500])
async def test_a_clear_no_is_asked_once(kind: Any, status: int) -> None:
    async with misbehaving(saying(status, {"title": "no", "status": status}), ACCEPTED) as server:
        async with calling(kind, server.url) as call:
            with pytest.raises(ApiError) as refused:
                await call("insert", "a", "text", **DOCS)
        assert (refused.value.status, len(server.asked)) == (status, 1)


async def test_what_was_done_is_not_done_again_when_its_answer_is_lost(kind: Any, api: Api) -> None:
    """Somebody else writes in between: to accept the change anew would bring back an old text."""

    async def theirs() -> None:
        await api.change(insert(content="theirs"))

    real = passing_on(str(api.url("")), theirs)
    again = passing_on(str(api.url("")))
    async with (
        misbehaving(lost_on_the_way(real), again) as server,
        calling(kind, server.url) as call,
    ):
        mine = await call("insert", "a", "mine", **DOCS)
        assert (mine.outcome, mine.version, len(server.asked)) == ("accepted", 1, 2)
        assert (await call("content", "a", **DOCS)).data == b"theirs"
    row = await api.row("a")
    assert row is not None
    assert row.desired.version == 2


async def test_two_requests_have_two_keys(kind: Any) -> None:
    async with misbehaving(ACCEPTED) as server:
        async with calling(kind, server.url) as call:
            await call("insert", "a", "text")
            await call("insert", "a", "text")
        assert len(server.keys) == 2


async def test_who_does_not_answer_is_not_waited_for(kind: Any) -> None:
    async with misbehaving(ACCEPTED) as server:
        server.acts[:] = [server.silence]
        async with calling(kind, server.url, timeout_seconds=0.05, retry_seconds=0) as call:
            with pytest.raises(NoAnswerInTimeError, match="no answer in time"):
                await call("stats")


async def test_a_slow_answer_is_asked_for_again(kind: Any) -> None:
    async with misbehaving(ACCEPTED) as server:
        server.acts[:] = [server.silence, ACCEPTED]
        async with calling(kind, server.url, timeout_seconds=0.5) as call:
            assert (await call("insert", "a", "text")).version == 1
        assert len(server.keys) == 1


async def test_who_asks_for_more_time_than_there_is_is_believed_at_once(kind: Any) -> None:
    full = saying(503, {"title": "full", "status": 503}, Retry_After="3600")
    async with misbehaving(full) as server, calling(kind, server.url) as call:
        with pytest.raises(ApiError, match="full") as refused:
            await call("stats")
        assert refused.value.problem.retry_after_seconds == 3600
        assert len(server.asked) == 1


async def test_interruptions_are_told(kind: Any) -> None:
    told: list[BaseException] = []
    async with (
        misbehaving(dropping, dropping, saying(200, {"namespaces": []})) as server,
        calling(kind, server.url, on_retry=told.append) as call,
    ):
        await call("stats")
    [error] = told
    assert isinstance(error, UnreachableError)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (saying(200, ["nothing"]), "does not speak"),
        (saying(200, {"hits": "none"}), "does not speak"),
        (saying(301, Location="https://new.example"), "https://new.example"),
    ],
)
async def test_somebody_else_is_recognised(kind: Any, answer: Any, says: str) -> None:
    async with misbehaving(answer) as server, calling(kind, server.url) as call:
        with pytest.raises(ApiError, match=says):
            await call("search", "x")
        assert len(server.asked) == 1


async def test_large_bodies_are_compressed(kind: Any) -> None:
    async with misbehaving(ACCEPTED) as server, calling(kind, server.url) as call:
        await call("insert", "a", "small")
        await call("insert", "a", "large " * 50_000)
    small, large = server.asked
    assert "Content-Encoding" not in small.headers
    assert large.headers["Content-Encoding"] == "gzip"
    assert int(large.headers["Content-Length"]) < 10_000
    raw = large.body if large.body.startswith(b"{") else gzip.decompress(large.body)
    assert json.loads(raw)["content"] == "large " * 50_000


@pytest.mark.parametrize("method", ["redrive", "discard"])
@pytest.mark.parametrize("first", [dropping, saying(503)], ids=["reset", "503"])
async def test_what_is_done_to_letters_is_not_begun_again(
    kind: Any, method: str, first: Any
) -> None:
    """A second might meet letters that came since."""
    async with misbehaving(first, saying(200, {"redriven": 0, "discarded": 0})) as server:
        async with calling(kind, server.url) as call:
            with pytest.raises((UnreachableError, ApiError)):
                await call(method, everything=True)
        assert len(server.asked) == 1


async def test_letters_are_asked_for_again_where_nothing_was_sent(kind: Any) -> None:
    told: list[BaseException] = []
    async with misbehaving(dropping) as server:
        url = server.url
    async with calling(kind, url, on_retry=told.append, retry_seconds=1) as call:
        with pytest.raises(UnreachableError):
            await call("redrive", everything=True)
    assert len(told) == 1


async def test_a_wait_that_is_none_is_said_before_anything_is_sent(kind: Any) -> None:
    async with misbehaving(ACCEPTED) as server, calling(kind, server.url) as call:
        with pytest.raises(TypeError):
            await call("insert", "a", "text", wait=None)
        with pytest.raises(TypeError):
            await call("submit", [Delete("a")], wait=None)
        assert server.asked == []


async def test_an_answer_that_was_not_kept_is_said_so(kind: Any) -> None:
    kept = saying(202, {"answer_kept": False})
    async with misbehaving(dropping, kept) as server, calling(kind, server.url) as call:
        with pytest.raises(ApiError, match="accepted before; its results were too large"):
            await call("submit", [Delete("a")])


async def test_a_scrub_that_breaks_off_is_not_begun_again(kind: Any) -> None:
    async with misbehaving(dropping) as server, calling(kind, server.url) as call:
        with pytest.raises(UnreachableError):
            await call("scrub")
        assert len(server.asked) == 1


NOT_YET = {"type": "urn:bloomweaver:problem:not-applied-in-time", "status": 504, "title": "no"}


async def test_a_wait_that_is_over_is_not_begun_again(kind: Any) -> None:
    async with misbehaving(saying(504, NOT_YET)) as server, calling(kind, server.url) as call:
        with pytest.raises(WaitTimeoutError):
            await call("search", "x", wait=1)
        assert len(server.asked) == 1


async def test_waiting_survives_interruptions(kind: Any) -> None:
    """And asks again while the service says: not yet."""
    row = {"namespace": "docs", "document_id": "a", "status": "COMPLETED"}
    done = saying(200, {**row, "applied": {"version": 1}})
    async with misbehaving(ACCEPTED, saying(504, NOT_YET), dropping, done) as server:
        async with calling(kind, server.url) as call:
            await call("insert", "a", "text", wait=True)
        assert len(server.asked) == 4
