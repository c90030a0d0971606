"""`bloomweaver canary` against the real API: what it shows, how it fails, and what it leaves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.access import Role
from common.cli import canary_run
from common.cli.main import app
from common.client import AsyncClient, Status, Summary
from tests.access import Keys
from tests.integration.test_cli import WITHIN_SECONDS, hears_interrupts
from tests.integration.test_client import working
from tests.integration.test_http_api import Api, serving
from tests.integration.test_http_history import give_up
from tests.pipeline import Pipeline, pipeline

STEPS = ["reach", "insert", "found", "replace", "replaced", "delete", "gone"]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What the command said; the service in this process logs to the same stdout."""
        return [line for line in self.out.splitlines() if line.startswith(("ok", "the", "{"))]

    @property
    def json(self) -> Any:
        [line] = self.lines
        return json.loads(line)


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


async def canary(api: Api, *words: str, key: str = "") -> Ended:
    """The command in a thread: it owns an event loop, and the server needs this one."""
    runner = CliRunner(env={"COLUMNS": "200", "BLOOMWEAVER_API_KEY": key})
    command = ["canary", "--url", str(api.url("")), *words]
    result = await asyncio.to_thread(runner.invoke, app, command)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


async def documents(api: Api, namespace: str = "canary") -> list[Summary]:
    async with AsyncClient(str(api.url("")), api_key="", retry_seconds=0) as client:
        return [document async for document in client.documents(namespace=namespace)]


async def nothing_is_left(api: Api) -> bool:
    """The last accepted change of every canary is its delete."""
    found = await documents(api)
    return len(found) == 1 and found[0].tombstone


async def test_a_canary_flies_through_a_service_that_works(flow: Pipeline) -> None:
    async with serving(flow) as api, working(flow):
        ended = await canary(api)
        assert ended.code == 0, ended.err
        *lines, end = ended.lines
        assert [line[4:28].rstrip() for line in lines] == [
            "reach the service", "put a document", "find it", "replace it",
            "find the new text only", "delete it", "find it no more",
        ]  # fmt: skip
        assert "a search finds its text" in lines[2]
        assert "the canary is well: 7 steps" in end
        [left] = await documents(api)
        assert (left.status, left.version) == (Status.DELETED, 3)
    assert not flow.index.records["canary"]


async def test_machines_read_the_same(flow: Pipeline) -> None:
    async with serving(flow) as api, working(flow):
        ended = await canary(api, "--json", "--namespace", "kb-other")
        told = ended.json
        assert (ended.code, told["ok"], told["searched"]) == (0, True, True)
        assert [step["step"] for step in told["steps"]] == STEPS
        assert all(step["seconds"] >= 0 for step in told["steps"])
        assert [d.document_id for d in await documents(api, "kb-other")] == [told["document_id"]]


async def test_each_flight_has_a_document_of_its_own(flow: Pipeline) -> None:
    async with serving(flow) as api, working(flow):
        one, other = await canary(api, "--json"), await canary(api, "--json")
        assert (one.code, other.code) == (0, 0)
        assert one.json["document_id"] != other.json["document_id"]


async def test_a_service_that_cannot_search_is_asked_for_the_chunks(flow: Pipeline) -> None:
    async with serving(flow, searching=False) as api, working(flow):
        ended = await canary(api)
        assert ended.code == 0, ended.err
        assert "what was applied shows the new text and not the old" in ended.out
        assert "cannot search" in ended.out
        assert (await canary(api, "--json")).json["searched"] is False


async def test_a_service_that_must_search_and_cannot_is_a_failure(flow: Pipeline) -> None:
    async with serving(flow, searching=False) as api, working(flow):
        ended = await canary(api, "--search", "required", "--timeout-seconds", "2")
        assert ended.code == 1
        assert "step `find it` failed" in ended.err
        assert "the last search was answered:" in ended.err
        assert "was deleted" in ended.err


async def test_what_a_killed_canary_left_goes_with_the_next_one(
    flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = f"canary-{'a' * 16}"
    monkeypatch.setattr(canary_run, "LEFTOVER_HOURS", -1.0)
    async with serving(flow) as api, working(flow):
        async with AsyncClient(str(api.url("")), api_key="", retry_seconds=0) as client:
            await client.insert(left, "a song", namespace="canary")
        ended = await canary(api)
        assert ended.code == 0, ended.err
        assert f"deleted what earlier canaries left: {left}" in ended.lines[0]
        assert all(document.tombstone for document in await documents(api))


async def test_without_a_worker_it_says_where_to_look_and_leaves_nothing(flow: Pipeline) -> None:
    async with serving(flow) as api:
        ended = await canary(api, "--timeout-seconds", "1")
        assert ended.code == 1
        assert "put a document" in ended.out
        assert "error: step `find it` failed after" in ended.err
        assert "the time was up" in ended.err
        assert "stood at PENDING, version 1 accepted, 0 applied" in ended.err
        assert "embedding worker" in ended.err
        assert "--history -n canary" in ended.err
        assert "was deleted" in ended.err
        assert await nothing_is_left(api)


async def test_a_failure_is_told_to_machines_too(flow: Pipeline) -> None:
    async with serving(flow) as api:
        ended = await canary(api, "--json", "--timeout-seconds", "1")
        told = ended.json
        assert (ended.code, told["ok"], told["failed_step"]) == (1, False, "found")
        assert [step["step"] for step in told["steps"]] == STEPS[:2]
        assert told["error"] == "the time was up"


async def test_a_document_that_was_given_up_ends_it_at_once(flow: Pipeline) -> None:
    async with serving(flow) as api:
        flying = asyncio.create_task(canary(api))
        async with asyncio.timeout(WITHIN_SECONDS):
            while True:
                if await documents(api):
                    break
                await asyncio.sleep(0.01)
        await give_up(api, "the model is broken")
        ended = await flying
        assert ended.code == 1
        assert "step `find it` failed" in ended.err
        assert "FAILED: the model is broken" in ended.err
        assert await nothing_is_left(api)


async def test_a_key_that_may_not_write_is_named(flow: Pipeline) -> None:
    keys = Keys()
    async with serving(flow, authenticate=keys.doorman) as api:
        ended = await canary(api, key=keys.made(Role.READER, "*"))
        assert ended.code == 1
        assert "step `put a document` failed" in ended.err
        assert "BLOOMWEAVER_API_KEY" in ended.err
        # There is nothing that it could have left.
        assert "deleted" not in ended.err


async def test_nothing_answers() -> None:
    result = await asyncio.to_thread(
        CliRunner(env={"COLUMNS": "200"}).invoke, app, ["canary", "--url", "http://127.0.0.1:9"]
    )
    assert result.exit_code == 3
    assert "step `reach the service` failed" in result.stderr
    assert "was deleted" not in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interruption_leaves_nothing(
    flow: Pipeline, number: signal.Signals, code: int
) -> None:
    async with serving(flow) as api:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-m", "common.cli.main", "canary",
            "--url", str(api.url("")), env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            preexec_fn=hears_interrupts,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(WITHIN_SECONDS):
                while b"put a document" not in await process.stdout.readline():
                    pass
                process.send_signal(number)
                _, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        assert (process.returncode, b"Traceback" in err) == (code, False), err
        assert b"interrupted" in err
        assert b"was deleted" in err
        assert await nothing_is_left(api)
