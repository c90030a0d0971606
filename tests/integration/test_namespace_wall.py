"""A namespace is a wall: what a key that is bound to `docs` can do to, and learn of, `other`."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from common.access import Role
from common.model import DocumentKey, QueueName
from tests.access import Keys, bearer
from tests.integration.test_access_matrix import scrub_job
from tests.integration.test_http_api import Api, insert, is_problem, lines, serving
from tests.pipeline import pipeline

HUSH = "hush"
"""In every text, id and metadata of the other namespace."""
JSON = {"Content-Type": "application/json"}


@dataclass
class Wall:
    """Asks as an admin of `docs` alone, unless it is told otherwise."""

    api: Api
    ours: str
    all: str

    async def ask(
        self, method: str, path: str | URL, value: Any = None, *, key: str | None = None
    ) -> tuple[int, Any]:
        data = value if isinstance(value, bytes | None) else json.dumps(value).encode()
        async with self.api.client.request(
            method, path, data=data and io.BytesIO(data), headers=JSON | bearer(key or self.ours)
        ) as response:
            return response.status, await response.json(content_type=None)

    async def refused(self, method: str, path: str | URL, value: Any = None) -> Any:
        status, body = await self.ask(method, path, value)
        assert is_problem(status, body, "forbidden", "namespace")
        assert HUSH not in json.dumps(body)
        return body

    async def feed(self, *values: Any) -> list[Any]:
        headers = {"Content-Type": "application/x-ndjson"} | bearer(self.ours)
        async with self.api.client.post(
            "/v1/changes", data=io.BytesIO(lines(*values)), headers=headers
        ) as response:
            assert response.status == 200
            return [json.loads(line) async for line in response.content]

    async def hidden_version(self, document_id: str = "hush.md") -> int | None:
        row = await self.api.flow.registry.get(DocumentKey("other", document_id))
        return row.desired.version if row else None


@pytest.fixture
async def wall(tmp_path: Path) -> AsyncIterator[Wall]:
    """`hush.md` is in `other` and applied, `a` in `docs`; each has a dead letter."""
    keys = Keys()
    ours, everything = keys.made(Role.ADMIN, "docs"), keys.made(Role.ADMIN, "*")
    async with (
        pipeline(tmp_path) as flow,
        serving(flow, scrub=scrub_job(flow), authenticate=keys.doorman) as api,
    ):
        made = Wall(api, ours, everything)
        hidden = insert("hush.md", "hush alpha", namespace="other", metadata={"team": HUSH})
        for change in (insert("a", "alpha"), hidden):
            assert (await made.ask("POST", "/v1/changes", change, key=everything))[0] == 202
        await flow.run()
        for change in (insert("dead"), insert("dead-hush", "x hush", namespace="other")):
            assert (await made.ask("POST", "/v1/changes", change, key=everything))[0] == 202
            delivery = await flow.receive(QueueName.CHANGE)
            assert delivery is not None
            await flow.queue.dead_letter(delivery, "broken hush" if "hush" in str(change) else "x")
        api.journal.clear()
        yield made


# --- changes -------------------------------------------------------------------------------------


async def test_a_change_of_another_namespace_is_refused(wall: Wall) -> None:
    for change in (
        insert("hush.md", "mine now", namespace="other"),
        {"change_type": "update", "namespace": "other", "document_id": "hush.md", "content": "x"},
        {"change_type": "delete", "namespace": "other", "document_id": "hush.md"},
    ):
        await wall.refused("POST", "/v1/changes", change)
    assert wall.api.journal == []
    assert await wall.hidden_version() == 1


async def test_a_list_with_one_such_change_is_refused_whole(wall: Wall) -> None:
    changes = [insert("n1"), insert("hush.md", namespace="other"), insert("n2")]
    status, body = await wall.ask("POST", "/v1/changes", {"changes": changes})
    assert is_problem(status, body, "forbidden", "changes[1].namespace")
    assert wall.api.journal == []


async def test_such_a_line_of_a_feed_is_refused_and_the_others_are_taken(wall: Wall) -> None:
    first, second, third = await wall.feed(
        insert("n1"), insert("hush.md", "mine", namespace="other"), insert("n2")
    )
    assert (first["outcome"], third["outcome"]) == ("accepted", "accepted")
    assert second["error"]["status"] == 403
    assert second["error"]["field"] == "namespace"
    assert await wall.hidden_version() == 1


async def test_a_new_namespace_is_not_made_by_who_may_not(wall: Wall) -> None:
    await wall.refused("POST", "/v1/changes", insert("a", namespace="newer"))
    await wall.refused("PUT", "/v1/namespaces/newer/documents/a", b"x")
    assert set(await wall.api.flow.registry.namespaces()) == {"docs", "other"}


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "documents", None),
        ("GET", "documents/hush.md", None),
        ("GET", "documents/hush.md/chunks", None),
        ("GET", "documents/hush.md/content", None),
        ("GET", "documents/hush.md/history", None),
        ("PUT", "documents/hush.md", b"mine"),
        ("DELETE", "documents/hush.md", None),
        ("POST", "search", {"query": "alpha"}),
        ("POST", "search", {"query": "alpha", "wait": 1, "min_version": {"hush.md": 1}}),
    ],
)
async def test_an_address_of_another_namespace_is_refused(
    method: str, path: str, body: Any, wall: Wall
) -> None:
    said = await wall.refused(method, f"/v1/namespaces/other/{path}", body)
    nowhere = await wall.refused(method, f"/v1/namespaces/nowhere/{path}", body)
    assert said["detail"].replace("other", "nowhere") == nowhere["detail"]
    assert wall.api.journal == []
    assert await wall.hidden_version() == 1


@pytest.mark.parametrize(
    "namespace",
    ["%6Fther", "other%2F", "docs%2F..%2Fother", "docs%00", "docs%2A", "*", "Docs", "docs%20", "."],
)
async def test_no_spelling_of_a_namespace_gets_through(namespace: str, wall: Wall) -> None:
    path = wall.api.url(f"/v1/namespaces/{namespace}/documents/hush.md")
    status, body = await wall.ask("GET", path)
    assert is_problem(status, body, "forbidden", "namespace")


@pytest.mark.parametrize(
    "path",
    ["docs/../other/documents/hush.md", "docs/documents/../../other/documents/hush.md"],
)
async def test_no_step_up_in_a_path_is_taken(path: str, wall: Wall) -> None:
    status, body = await wall.ask("GET", wall.api.url(f"/v1/namespaces/{path}"))
    assert status == 404
    assert "hush alpha" not in json.dumps(body)


# --- reading what is one's own -------------------------------------------------------------------


async def test_search_finds_nothing_of_others_whatever_is_asked(wall: Wall) -> None:
    wheres: list[Any] = [
        None,
        {"namespace": "other"},
        {"team": HUSH},
        {"team": {"$ne": "x"}},
        {"document_id": "hush.md"},
        {"$or": [{"team": HUSH}, {"team": {"$exists": True}}]},
    ]
    for where in wheres:
        body = {"query": "hush alpha", "top_k": 100, **({"filter": where} if where else {})}
        status, found = await wall.ask("POST", "/v1/namespaces/docs/search", body)
        assert status in (200, 422), found
        if status == 200:
            assert HUSH not in json.dumps(found["hits"])


async def test_a_document_cannot_place_itself_in_another_namespace(wall: Wall) -> None:
    faked = {"namespace": "other", "document_id": "hush.md", "version": 9, "tenant": "other"}
    status, body = await wall.ask("POST", "/v1/changes", insert("fake", "alpha", metadata=faked))
    if status == 202:
        await wall.api.flow.run()
    else:
        assert body["field"].startswith("metadata")
    path = "/v1/namespaces/other/search"
    status, found = await wall.ask("POST", path, {"query": "alpha"}, key=wall.all)
    assert status == 200
    assert {hit["document_id"] for hit in found["hits"]} == {"hush.md"}
    assert {hit["version"] for hit in found["hits"]} == {1}


async def test_versions_that_are_waited_for_are_of_the_own_namespace(wall: Wall) -> None:
    """The same for a document that others have and for one that nobody has."""
    said = []
    for name in ("hush.md", "nobody.md"):
        body = {"query": "x", "wait": 0, "min_version": {name: 1}}
        status, answer = await wall.ask("POST", "/v1/namespaces/docs/search", body)
        said.append((status, json.dumps(answer).replace(name, "NAME")))
    assert said[0] == said[1]
    assert said[0][0] == 504


async def test_a_cursor_of_another_namespace_leads_nowhere_else(wall: Wall) -> None:
    for n in range(3):
        change = insert(f"hush-{n}", "x", namespace="other")
        assert (await wall.ask("POST", "/v1/changes", change, key=wall.all))[0] == 202
    path = "/v1/namespaces/{}/documents?limit=1"
    _, page = await wall.ask("GET", path.format("other"), key=wall.all)
    status, ours = await wall.ask("GET", path.format("docs") + f"&cursor={page['cursor']}")
    assert status == 200
    assert HUSH not in json.dumps(ours["documents"])


# --- what is told of everything ------------------------------------------------------------------


async def test_stats_tell_of_the_own_namespaces_and_sum_nothing_up(wall: Wall) -> None:
    status, stats = await wall.ask("GET", "/v1/stats")
    assert status == 200
    assert [n["namespace"] for n in stats["namespaces"]] == ["docs"]
    assert set(stats) == {"namespaces", "version"}
    _, everything = await wall.ask("GET", "/v1/stats", key=wall.all)
    assert [n["namespace"] for n in everything["namespaces"]] == ["docs", "other"]


async def test_a_scrub_is_of_the_own_namespace(wall: Wall) -> None:
    await wall.refused("POST", "/v1/scrub", {"namespace": "other"})
    status, body = await wall.ask("POST", "/v1/scrub", {"repair": True})
    assert is_problem(status, body, "forbidden")
    headers = JSON | bearer(wall.ours)
    async with wall.api.client.post(
        "/v1/scrub", json={"namespace": "docs"}, headers=headers
    ) as answer:
        assert answer.status == 200
        last = (await answer.read()).splitlines()[-1]
    assert HUSH.encode() not in last
    status, body = await wall.ask("GET", "/v1/scrub")
    assert is_problem(status, body, "forbidden")


# --- dead letters --------------------------------------------------------------------------------


async def hidden_letter(wall: Wall) -> str:
    """The id of the other namespace's letter, however it was come by."""
    _, page = await wall.ask("GET", "/v1/dead-letters?namespace=other", key=wall.all)
    (letter,) = page["dead_letters"]
    return str(letter["message_id"])


@pytest.mark.parametrize("query", ["", "?namespace=other", "?document_id=dead-hush", "?limit=1"])
async def test_letters_of_others_are_not_listed(query: str, wall: Wall) -> None:
    status, page = await wall.ask("GET", f"/v1/dead-letters{query}")
    assert status == 200
    assert HUSH not in json.dumps(page)
    assert len(page["dead_letters"]) == (0 if "=other" in query or "hush" in query else 1)
    assert page["cursor"] is None


async def test_a_letter_of_others_is_as_if_it_were_not_there(wall: Wall) -> None:
    theirs = await hidden_letter(wall)
    for method in ("GET", "DELETE"):
        status, body = await wall.ask(method, f"/v1/dead-letters/{theirs}")
        _, nobodys = await wall.ask(method, "/v1/dead-letters/424242")
        assert is_problem(status, body, "not-found", "message_id")
        assert body["detail"].replace(theirs, "424242") == nobodys["detail"]
    for act in ("redrive", "discard"):
        status, body = await wall.ask("POST", f"/v1/dead-letters/{act}", {"message_ids": [theirs]})
        assert (status, [*body.values()]) == (200, [0])
    assert await hidden_letter(wall) == theirs


@pytest.mark.parametrize(
    "which",
    [{"all": True}, {"all": True, "namespace": "other"}, {"all": True, "document_id": "dead-hush"}],
)
@pytest.mark.parametrize("act", ["redrive", "discard"])
async def test_all_letters_are_all_of_ones_own(act: str, which: dict[str, Any], wall: Wall) -> None:
    theirs = await hidden_letter(wall)
    status, body = await wall.ask("POST", f"/v1/dead-letters/{act}", which)
    assert (status, [*body.values()]) == (200, [1 if which == {"all": True} else 0])
    assert await hidden_letter(wall) == theirs
