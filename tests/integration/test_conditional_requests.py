"""ETag, If-Match, If-None-Match and if_version: nobody overwrites what they have not seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.model import DocumentKey, Row
from tests.fakes.audit import MemoryAuditTrail
from tests.integration.test_http_api import (
    DOCUMENTS,
    NDJSON,
    Api,
    insert,
    is_problem,
    lines,
    serving,
)
from tests.pipeline import Pipeline, pipeline
from webhook.accept import Accepted, Acceptor, Change, ChangeType
from webhook.auditing import Auditing
from webhook.preconditions import Precondition, PreconditionFailedError

KEY = DocumentKey("docs", "a")
ONE = f"{DOCUMENTS}/a"
CONTENT = f"{DOCUMENTS}/a/content"


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
async def api(flow: Pipeline) -> AsyncIterator[Api]:
    async with serving(flow) as made:
        yield made


async def asked(
    api: Api, method: str, path: str = ONE, data: str | None = None, **headers: str
) -> tuple[int, Any, Mapping[str, str]]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None:
        sent.setdefault("Content-Type", "text/plain")
    body = None if data is None else data.encode()
    async with api.client.request(method, path, data=body, headers=sent) as response:
        told = await response.read()
        is_json = response.content_type.endswith("json")
        return response.status, json.loads(told) if is_json else told, response.headers


async def put(api: Api, data: str, **headers: str) -> tuple[int, Any]:
    status, body, _ = await asked(api, "PUT", ONE, data, **headers)
    return status, body


async def tag_of(api: Api, path: str = ONE) -> str:
    return (await asked(api, "GET", path))[2]["ETag"]


async def content(api: Api) -> bytes:
    body: bytes = (await asked(api, "GET", CONTENT))[1]
    return body


# --- reading what one has ------------------------------------------------------------------------


async def test_a_status_is_sent_once(api: Api) -> None:
    await put(api, "one")
    tag = await tag_of(api)
    status, body, headers = await asked(api, "GET", If_None_Match=tag)
    assert (status, body, headers["ETag"]) == (304, b"", tag)
    assert headers["Cache-Control"] == "private, no-cache"
    for known in (f'"x", {tag}', f"W/{tag}", "*"):
        assert (await asked(api, "GET", If_None_Match=known))[0] == 304
    assert (await asked(api, "GET", If_None_Match='"v1"'))[0] == 200


async def test_a_status_that_changed_is_sent_again(api: Api) -> None:
    """Though the document did not: PENDING becomes COMPLETED."""
    await put(api, "one")
    pending = await tag_of(api)
    await api.flow.run()
    status, body, headers = await asked(api, "GET", If_None_Match=pending)
    assert (status, body["status"]) == (200, "COMPLETED")
    assert headers["ETag"] != pending


async def test_content_is_sent_once(api: Api) -> None:
    await put(api, "one")
    tag = await tag_of(api, CONTENT)
    await api.flow.run()
    assert (await asked(api, "GET", CONTENT, If_None_Match=tag))[:2] == (304, b"")
    await put(api, "two")
    assert (await asked(api, "GET", CONTENT, If_None_Match=tag))[:2] == (200, b"two")


@pytest.mark.parametrize("given", ["v1", '"v1', '"v1" "v2"', "W/v1", "", '"a"b"', "*, *"])
async def test_tags_that_cannot_be_read_guard_nothing_and_say_so(api: Api, given: str) -> None:
    await put(api, "one")
    status, body = await put(api, "two", If_Match=given)
    assert is_problem(status, body, "malformed-request", "If-Match")
    assert await content(api) == b"one"


# --- changing what one has seen ------------------------------------------------------------------


@pytest.mark.parametrize("path", [ONE, CONTENT])
async def test_an_editor_changes_what_it_has_seen(api: Api, path: str) -> None:
    await put(api, "one")
    seen = await tag_of(api, path)
    assert (await put(api, "two", If_Match=seen))[0] == 202
    status, body = await put(api, "three", If_Match=seen)
    assert is_problem(status, body, "precondition-failed")
    assert body["version"] == 2
    assert await content(api) == b"two"
    status, body, _ = await asked(api, "DELETE", If_Match=seen)
    assert is_problem(status, body, "precondition-failed")
    assert (await asked(api, "DELETE", If_Match='"v2"'))[0] == 202


async def test_embedding_does_not_outdate_what_an_editor_has_seen(api: Api) -> None:
    await put(api, "one")
    seen = await tag_of(api)
    await api.flow.run()
    assert (await put(api, "two", If_Match=seen))[0] == 202


async def test_a_compressed_answer_has_a_tag_of_its_own_that_is_as_good(api: Api) -> None:
    long = {"metadata": json.dumps({"text-of-it": "x" * 3000})}
    typed = {"Content-Type": "text/plain"}
    async with api.client.put(ONE, params=long, data=b"one", headers=typed) as response:
        assert response.status == 202
    plain = (await asked(api, "GET", Accept_Encoding="identity"))[2]["ETag"]
    headers = (await asked(api, "GET", Accept_Encoding="gzip"))[2]
    assert headers["Content-Encoding"] == "gzip"
    assert headers["ETag"] != plain
    assert (await asked(api, "GET", If_None_Match=headers["ETag"]))[0] == 304
    assert (await put(api, "two", If_Match=headers["ETag"]))[0] == 202


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ('"v2"', 202),
        ('"v1", "v2"', 202),
        ('"other", "v2.77-gzip"', 202),
        ("*", 202),
        ('"v1"', 412),
        ('"v22"', 412),
        ('"2"', 412),
        ('W/"v2"', 412),
    ],
)
async def test_which_tags_match(api: Api, given: str, status: int) -> None:
    await put(api, "one")
    await put(api, "two")
    assert (await put(api, "three", If_Match=given))[0] == status
    assert await content(api) == (b"three" if status == 202 else b"two")


async def test_what_is_not_there_matches_nothing(api: Api) -> None:
    for given in ("*", '"v1"', '"v0"'):
        status, body = await put(api, "one", If_Match=given)
        assert is_problem(status, body, "precondition-failed")
        assert body["version"] == 0
        assert (await asked(api, "DELETE", If_Match=given))[0] == 412
    await put(api, "one")
    await asked(api, "DELETE")
    assert (await put(api, "two", If_Match="*"))[0] == 412
    assert (await asked(api, "DELETE", If_Match="*"))[0] == 412
    assert (await put(api, "two", If_Match='"v2"'))[0] == 202


async def test_create_and_never_replace(api: Api) -> None:
    assert (await put(api, "one", If_None_Match="*"))[0] == 202
    for data in ("one", "two"):
        status, body = await put(api, data, If_None_Match="*")
        assert is_problem(status, body, "precondition-failed")
    await asked(api, "DELETE")
    assert (await put(api, "two", If_None_Match="*"))[0] == 202
    assert (await put(api, "three", If_None_Match="*", If_Match="*"))[0] == 412
    status, body = await put(api, "three", If_None_Match='"v1"')
    assert is_problem(status, body, "malformed-request", "If-None-Match")
    assert await content(api) == b"two"


async def test_sending_again_after_a_lost_answer_is_no_conflict(api: Api) -> None:
    await put(api, "one")
    assert (await put(api, "two", If_Match='"v1"'))[1]["version"] == 2
    status, body = await put(api, "two", If_Match='"v1"')
    assert (status, body["outcome"], body["version"]) == (202, "unchanged", 2)
    assert (await asked(api, "DELETE", If_Match='"v2"'))[0] == 202
    assert (await asked(api, "DELETE", If_Match='"v2"'))[1]["outcome"] == "unchanged"


# --- at once -------------------------------------------------------------------------------------


class Together:
    """A registry whose readers wait until `count` of them have read, so that all decide on the
    same row. Beyond these it is as it is."""

    def __init__(self, registry: Any, count: int) -> None:
        self._registry = registry
        self._waiting = count
        self._all_read = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    async def get(self, key: DocumentKey) -> Row | None:
        row: Row | None = await self._registry.get(key)
        self._waiting -= 1
        if self._waiting <= 0:
            self._all_read.set()
        await self._all_read.wait()
        return row


class Unread(Together):
    """One that would accept a change unread: no change with a condition may go that way."""

    async def accept_blind(self, key: Any, change: Any, **more: Any) -> Any:
        raise AssertionError("accepted without looking")


def edit(text: str, precondition: Precondition) -> Change:
    return Change(
        key=KEY, change_type=ChangeType.INSERT, content=text.encode(),
        content_type="text/plain", precondition=precondition,
    )  # fmt: skip


async def raced(acceptor: Acceptor, precondition: Precondition, count: int) -> list[Any]:
    changes = [edit(f"by {n}", precondition) for n in range(count)]
    return await asyncio.gather(*map(acceptor.accept, changes), return_exceptions=True)


@pytest.mark.parametrize("kind", [Together, Unread])
async def test_of_editors_who_read_the_same_only_one_wins(
    flow: Pipeline, kind: type[Together]
) -> None:
    await flow.insert("a", "one")
    registry: Any = kind(flow.registry, 5)
    acceptor = replace(flow.acceptor, registry=registry)
    results = await raced(acceptor, Precondition(versions=frozenset({1})), 5)
    won = [result for result in results if isinstance(result, Accepted)]
    lost = [result for result in results if isinstance(result, PreconditionFailedError)]
    assert ([accepted.version for accepted in won], len(lost)) == ([2], 4)
    assert {error.version for error in lost} == {2}


async def test_of_those_who_create_only_one_does(flow: Pipeline) -> None:
    registry: Any = Together(flow.registry, 5)
    acceptor = replace(flow.acceptor, registry=registry)
    results = await raced(acceptor, Precondition(exists=False), 5)
    assert [result.version for result in results if isinstance(result, Accepted)] == [1]
    assert sum(isinstance(result, PreconditionFailedError) for result in results) == 4


async def test_two_dozen_editors_over_http(api: Api) -> None:
    await put(api, "0")
    for version in range(1, 6):
        texts = [f"{version} by {n}" for n in range(24)]
        answers = await asyncio.gather(
            *(put(api, text, If_Match=f'"v{version}"') for text in texts)
        )
        (winner,) = (
            text for text, (status, _) in zip(texts, answers, strict=True) if status == 202
        )
        assert {status for status, _ in answers} == {202, 412}
        assert await content(api) == winner.encode()


# --- in JSON -------------------------------------------------------------------------------------


async def test_a_change_in_json_names_the_version_it_is_of(api: Api) -> None:
    assert (await api.change(insert(if_version=0)))[1]["version"] == 1
    status, body = await api.change(insert(content="two", if_version=0))
    assert is_problem(status, body, "precondition-failed")
    named = {"namespace": "docs", "document_id": "a"}
    update = {"change_type": "update", "metadata": {"n": 1}, **named}
    assert (await api.change({**update, "if_version": 1}))[1]["version"] == 2
    delete = {"change_type": "delete", **named}
    status, body = await api.change({**delete, "if_version": 1})
    assert is_problem(status, body, "precondition-failed")
    assert (await api.change({**delete, "if_version": 2}))[1]["version"] == 3


@pytest.mark.parametrize("given", [-1, 2**63, 1.0, "1", True, [1]])
async def test_versions_that_are_none(api: Api, given: Any) -> None:
    status, body = await api.change(insert(if_version=given))
    assert is_problem(status, body, "invalid-field", "if_version")


async def test_in_lists_and_feeds_it_costs_only_the_change(api: Api) -> None:
    await api.change(insert())
    stale, other = insert(content="x", if_version=7), insert("b", if_version=0)
    status, body = await api.change({"changes": [stale, other]})
    assert status == 202
    failed, accepted = body["results"]
    assert failed["error"]["type"].endswith(":precondition-failed")
    assert accepted["version"] == 1
    failed, accepted = await api.feed(lines(stale, insert(content="y", if_version=1)), **NDJSON)
    assert (failed["error"]["status"], accepted["version"]) == (412, 2)


async def test_the_audit_trail_has_no_doubt_that_nothing_was_done(flow: Pipeline) -> None:
    trail = MemoryAuditTrail()
    auditing = Auditing(trail=trail)
    async with serving(flow, services_too={"auditing": auditing}) as api:
        await put(api, "one")
        assert (await put(api, "two", If_Match='"v9"'))[0] == 412
    await auditing.close()
    assert [event.result for event in trail.events] == ["accepted"]
