"""Every route by who calls it. A route that is added without a line in ROUTES fails a test."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from common.access import Role
from common.model import QueueName
from tests.access import Keys, bearer
from tests.fakes.audit import MemoryAuditTrail
from tests.integration.test_http_api import Api, insert, serving
from tests.pipeline import Pipeline, pipeline
from webhook.auditing import Auditing
from webhook.problems import TYPE_PREFIX
from workers.scrub import Scrubber
from workers.scrub_job import ScrubJob

WHO = ("nobody", "reader", "editor", "admin of docs", "admin", "admin of other")
"""All but `admin`, who reaches everything, and the last one are bound to the namespace docs."""
STRANGER = "a key that is not known"
ANYBODY, NOTHING_FOR_ANYBODY = (200,) * 6, (404,) * 6
SEARCH = {"query": "alpha"}


@dataclass(frozen=True)
class Asked:
    """A request of a route, and its answer's status for each of WHO."""

    path: str
    statuses: tuple[int, ...]
    body: Any = None
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


def write(status: int) -> tuple[int, ...]:
    return (401, 403, status, status, status, 403)


def read(status: int = 200) -> tuple[int, ...]:
    return (401, status, status, status, status, 403)


def admin(*, of_docs: int, of_all: int, of_other: int) -> tuple[int, ...]:
    return (401, 403, 403, of_docs, of_all, of_other)


DOCUMENTS = "/v1/namespaces/{namespace}/documents"
DOCUMENT = DOCUMENTS + "/{document_id}"
LETTERS = "/v1/dead-letters"
A = "/v1/namespaces/docs/documents/a"
ROUTES: dict[str, Asked] = {
    "POST /v1/changes": Asked("/v1/changes", write(202), insert("new")),
    f"GET {DOCUMENTS}": Asked("/v1/namespaces/docs/documents", read()),
    f"GET {DOCUMENT}": Asked(A, read()),
    f"PUT {DOCUMENT}": Asked(A, write(202), "text", (("Content-Type", "text/plain"),)),
    f"DELETE {DOCUMENT}": Asked(A, write(202)),
    f"GET {DOCUMENT}/chunks": Asked(f"{A}/chunks", read()),
    f"GET {DOCUMENT}/content": Asked(f"{A}/content", read()),
    f"GET {DOCUMENT}/history": Asked(f"{A}/history", read()),
    "POST /v1/namespaces/{namespace}/search": Asked("/v1/namespaces/docs/search", read(), SEARCH),
    # These tell each what is of its namespaces, so that nobody who may ask is refused.
    "GET /v1/stats": Asked("/v1/stats", (401, 200, 200, 200, 200, 200)),
    f"GET {LETTERS}": Asked(LETTERS, admin(of_docs=200, of_all=200, of_other=200)),
    f"POST {LETTERS}/redrive": Asked(
        f"{LETTERS}/redrive", admin(of_docs=200, of_all=200, of_other=200), {"all": True}
    ),
    f"POST {LETTERS}/discard": Asked(
        f"{LETTERS}/discard", admin(of_docs=200, of_all=200, of_other=200), {"all": True}
    ),
    f"GET {LETTERS}/{{message_id}}": Asked(
        f"{LETTERS}/LETTER", admin(of_docs=200, of_all=200, of_other=404)
    ),
    f"DELETE {LETTERS}/{{message_id}}": Asked(
        f"{LETTERS}/LETTER", admin(of_docs=200, of_all=200, of_other=404)
    ),
    "GET /v1/audit": Asked("/v1/audit", admin(of_docs=200, of_all=200, of_other=200)),
    # These tell of all namespaces.
    "GET /v1/scrub": Asked("/v1/scrub", admin(of_docs=403, of_all=200, of_other=403)),
    "POST /v1/scrub": Asked("/v1/scrub", admin(of_docs=403, of_all=200, of_other=403), {}),
    "GET /metrics": Asked("/metrics", admin(of_docs=403, of_all=200, of_other=403)),
    "GET /healthz": Asked("/healthz", ANYBODY),
    "GET /readyz": Asked("/readyz", ANYBODY),
    "GET /openapi.json": Asked("/openapi.json", ANYBODY),
    "GET /docs": Asked("/docs", ANYBODY),
    "GET /docs/{digest}/{name}": Asked("/docs/none/such.js", NOTHING_FOR_ANYBODY),
}
OF_THEIR_OWN = {"POST /v1/sources/{name}"}
"""Routes that verify their requests in a way of their own, with tests of their own."""


def routes_of(app: web.Application) -> set[str]:
    """`GET /v1/…/{name}`; HEAD goes with GET."""
    return {
        f"{route.method} {route.resource.canonical if route.resource else ''}"
        for route in app.router.routes()
        if route.method not in ("HEAD", "OPTIONS")
    }


@dataclass
class Matrix:
    api: Api
    keys: dict[str, str]
    letter: str

    async def ask(self, method: str, asked: Asked, who: str) -> tuple[int, Any]:
        data = asked.body if isinstance(asked.body, str) else json.dumps(asked.body)
        credential = bearer(self.keys[who]) if who in self.keys else {}
        async with self.api.client.request(
            method,
            asked.path.replace("LETTER", self.letter),
            data=None if asked.body is None else data,
            headers={**dict(asked.headers), **credential},
        ) as response:
            body = await response.read()
            is_json = response.content_type.endswith("json")
            return response.status, json.loads(body.splitlines()[-1]) if is_json else body


@asynccontextmanager
async def matrix(folder: Path) -> AsyncIterator[Matrix]:
    """A document a and a dead letter in the namespace docs."""
    keys = Keys()
    known = {
        "reader": keys.made(Role.READER, "docs"),
        "editor": keys.made(Role.EDITOR, "docs"),
        "admin of docs": keys.made(Role.ADMIN, "docs"),
        "admin": keys.made(Role.ADMIN, "*"),
        "admin of other": keys.made(Role.ADMIN, "other"),
        STRANGER: Keys().made(Role.ADMIN, "*"),
    }
    async with (
        pipeline(folder) as flow,
        serving(
            flow,
            scrub=scrub_job(flow),
            authenticate=keys.doorman,
            services_too={"auditing": Auditing(trail=MemoryAuditTrail())},
        ) as api,
    ):
        await flow.insert("a", "alpha beta")
        await flow.run()
        await flow.insert("dead", "gamma")
        api.journal.clear()
        yield Matrix(api, known, await bury(flow))


async def bury(flow: Pipeline) -> str:
    """What waits to be embedded becomes a dead letter; its id."""
    delivery = await flow.receive(QueueName.CHANGE)
    assert delivery is not None
    await flow.queue.dead_letter(delivery, "broken PDF")
    (letter,) = await flow.queue.dead_letters(limit=10, after=None)
    return letter.message_id


def scrub_job(flow: Pipeline) -> ScrubJob:
    return ScrubJob(
        Scrubber(
            registry=flow.registry,
            blobs=flow.blobs,
            index=flow.index,
            queue=flow.queue,
            timers=flow.sweeper.timers,
            clock=flow.clock,
        )
    )


async def test_every_route_of_the_application_has_a_line(tmp_path: Path) -> None:
    async with matrix(tmp_path) as made:
        assert routes_of(made.api.runner.app) == set(ROUTES) | OF_THEIR_OWN
    assert not set(ROUTES) & OF_THEIR_OWN


@pytest.mark.parametrize("route", ROUTES)
async def test_who_may(route: str, tmp_path: Path) -> None:
    method, asked = route.split(" ", maxsplit=1)[0], ROUTES[route]
    expected = dict(zip(WHO, asked.statuses, strict=True))
    if expected["nobody"] == 401:
        expected[STRANGER] = 401
    refused = [who for who, status in expected.items() if status in (401, 403)]
    allowed = [who for who in expected if who not in refused]
    async with matrix(tmp_path / "refused") as made:
        for who in refused:
            status, body = await made.ask(method, asked, who)
            slug = "unauthenticated" if expected[who] == 401 else "forbidden"
            assert status == expected[who], (who, body)
            assert (body["status"], body["type"]) == (status, TYPE_PREFIX + slug), who
        assert made.api.journal == []
        assert await made.api.flow.queue.dead_letter_count() == 1
    for who in allowed:
        # Each finds it as it was: what one does, the next cannot do again.
        async with matrix(tmp_path / who.replace(" ", "-")) as made:
            for one in allowed if method == "GET" else [who]:
                status, body = await made.ask(method, asked, one)
                assert status == expected[one], (one, body)
        if method == "GET":
            break


def test_the_page_on_access_names_what_is_open() -> None:
    page = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
    (told,) = (line for line in page.splitlines() if "are open to anybody" in line)
    named = set(re.findall(r"`(/[a-z.]+)`", told.partition(" are open to anybody")[0]))
    open_to_all = (ANYBODY, NOTHING_FOR_ANYBODY)
    paths = {asked.path for asked in ROUTES.values() if asked.statuses in open_to_all}
    assert named == {"/" + path.split("/")[1] for path in paths}
