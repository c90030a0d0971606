"""The scrub as a client, an operator and a process notice it: HTTP, metrics, the clock, the
command line on a running service and on a folder that nobody has open."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from common import identity, telemetry
from common.adapters.index.qdrant_edge import QdrantEdgeIndex
from common.cli.main import app
from common.composition import open_ports
from common.model import DocumentKey, QueueName, Record
from common.ports.errors import PermanentError
from common.scrubbing import FindingKind, OnProgress, ScrubBusyError, ScrubReport
from common.settings import Settings
from common.storage.data_folder import DataFolder
from tests.acceptance.aws_installation import AwsInstallation, pinecone_server
from tests.fakes.embedder import word_vector
from tests.integration.test_http_api import Api, is_problem, serving
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from tests.servers.aws import moto
from tests.servers.provision import provision
from webhook import scrub_route
from webhook.feed import STOPPING_SIGNAL
from workers.scrub import Scrubber
from workers.scrub_job import ScrubJob

TEXT = "# One\n\nalpha beta\n\n# Two\n\ngamma delta"
NOTHING_ANSWERS = "http://127.0.0.1:9"


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
def job(flow: Pipeline) -> ScrubJob:
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


@pytest.fixture
async def api(flow: Pipeline, job: ScrubJob) -> AsyncIterator[Api]:
    async with serving(flow, scrub=job) as made:
        yield made


async def damage(flow: Pipeline, name: str = "a.md") -> None:
    """A document with a record missing."""
    await flow.insert(name, TEXT)
    await flow.run()
    row = await flow.row(name)
    ids = identity.record_ids(identity.document_key(row.key), row.applied.manifest)
    del flow.index.records[NAMESPACE][ids[1]]


async def scrub(api: Api, **body: Any) -> list[Any]:
    async with api.client.post("/v1/scrub", json=body) as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        return [json.loads(line) async for line in response.content]


class Held:
    """A scrub that goes on until it is let go, and notes how it ended."""

    last: ScrubReport | None = None
    last_of_all: ScrubReport | None = None
    running = True

    def __init__(self, job: ScrubJob) -> None:
        self.go = asyncio.Event()
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = False
        self._job = job

    async def __call__(
        self, *, namespace: str | None, repair: bool, progress: OnProgress | None = None
    ) -> ScrubReport:
        report = await self._job(namespace=namespace, repair=repair, progress=progress)
        self.began.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.ended.set()
        return report


# --- HTTP ----------------------------------------------------------------------------------------


async def test_a_scrub_reports_by_document_and_repairs_on_request(flow: Pipeline, api: Api) -> None:
    assert await api.get("/v1/scrub") == (200, {"running": False, "report": None})
    await damage(flow)
    report = (await scrub(api))[-1]["report"]
    (finding,) = report["findings"]
    assert (finding["document_id"], finding["kind"]) == ("a.md", "missing_record")
    assert (report["clean"], report["documents_checked"], finding["repaired"]) == (False, 1, False)
    assert (await api.get("/v1/scrub"))[1] == {"running": False, "report": report}
    report = (await scrub(api, repair=True, namespace=NAMESPACE))[-1]["report"]
    assert (report["clean"], report["findings"][0]["repaired"]) == (True, True)
    await flow.run()
    report = (await scrub(api))[-1]["report"]
    assert (report["clean"], report["findings"], report["counts"]) == (True, [], {})
    assert len(await flow.shown("a.md")) == 2


async def test_progress_comes_while_it_runs(
    flow: Pipeline, job: ScrubJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_route, "PROGRESS_SECONDS", 0.01)
    await damage(flow)
    held = Held(job)
    async with (
        serving(flow, scrub=held) as api,
        api.client.post("/v1/scrub", json={}) as response,
    ):
        line = json.loads(await response.content.readline())
        assert line["progress"]["documents_total"] == 1
        held.go.set()
        *_, last = [json.loads(line) async for line in response.content]
        assert last["report"]["findings_total"] == 1


@pytest.mark.parametrize(
    ("body", "status", "slug", "field"),
    [
        ([], 400, "malformed-json", None),
        ({"repair": 1}, 422, "invalid-field", "repair"),
        ({"namespace": 7}, 422, "invalid-field", "namespace"),
        ({"namespace": "../x"}, 422, "invalid-field", "namespace"),
        ({"mend": True}, 422, "unknown-field", "mend"),
        ({"namespace": "nowhere"}, 404, "not-found", "namespace"),
    ],
)
async def test_a_refused_scrub_is_a_problem(
    api: Api, body: Any, status: int, slug: str, field: str | None
) -> None:
    answer = await api.post("/v1/scrub", body)
    assert answer[0] == status
    assert is_problem(status, answer[1], slug, field)


async def test_one_scrub_at_a_time(flow: Pipeline, job: ScrubJob, api: Api) -> None:
    await damage(flow)
    reading, go_on = asyncio.Event(), asyncio.Event()
    fetch = flow.index.fetch

    async def slow(*arguments: Any) -> list[Record]:
        reading.set()
        await go_on.wait()
        return await fetch(*arguments)

    flow.index.fetch = slow  # type: ignore[assignment]
    first = asyncio.create_task(scrub(api))
    await reading.wait()
    assert (await api.get("/v1/scrub"))[1]["running"]
    status, body = await api.post("/v1/scrub", {})
    assert is_problem(status, body, "scrub-running")
    with pytest.raises(ScrubBusyError):
        await job(namespace=None, repair=False)
    go_on.set()
    assert (await first)[-1]["report"]["findings_total"] == 1
    assert (await scrub(api))[-1]["report"]["findings_total"] == 1


async def test_a_client_that_goes_away_cancels_its_scrub(flow: Pipeline, job: ScrubJob) -> None:
    held = Held(job)
    await damage(flow)
    async with serving(flow, scrub=held) as api:
        async with api.client.post("/v1/scrub", json={}):
            await held.began.wait()
        await held.ended.wait()
        assert held.cancelled


async def test_a_service_that_stops_ends_the_scrub_and_says_so(
    flow: Pipeline, job: ScrubJob
) -> None:
    held = Held(job)
    await damage(flow)
    async with serving(flow, scrub=held) as api:
        async with api.client.post("/v1/scrub", json={}) as response:
            await held.began.wait()
            assert api.runner.app
            api.runner.app[STOPPING_SIGNAL].set()
            *_, last = [json.loads(line) async for line in response.content]
        assert is_problem(503, last["error"], "stopping")
        assert held.cancelled


async def test_a_process_without_the_index_says_where_to_ask(flow: Pipeline) -> None:
    async with serving(flow) as api:
        status, body = await api.post("/v1/scrub", {})
        assert is_problem(status, body, "scrub-unavailable")
        assert "bloomweaver up" in body["detail"]
        assert (await api.get("/v1/scrub"))[0] == 503


async def test_metrics_tell_what_the_last_scrub_left(flow: Pipeline, api: Api) -> None:
    async def metrics() -> str:
        async with api.client.get("/metrics") as response:
            return await response.text()

    await damage(flow)
    assert "bloomweaver_scrub_findings{" not in await metrics()
    await scrub(api)
    assert 'bloomweaver_scrub_findings{kind="missing_record"} 1.0' in await metrics()
    assert "bloomweaver_scrub_finished_timestamp_seconds 1000.0" in await metrics()
    name = "bloomweaver_scrub_repaired_total{missing_record}"
    before = telemetry.totals().get(name, 0.0)
    await scrub(api, repair=True)
    assert 'bloomweaver_scrub_findings{kind="missing_record"} 0.0' in await metrics()
    assert telemetry.totals()[name] == before + 1


async def test_a_scrub_of_one_namespace_hides_no_other_in_the_metrics(
    flow: Pipeline, api: Api
) -> None:
    await damage(flow)
    stray = next(iter(flow.index.records[NAMESPACE].values()))
    flow.index.records["elsewhere"][stray.id] = stray
    await scrub(api)
    await scrub(api, namespace="elsewhere")
    async with api.client.get("/metrics") as response:
        assert 'bloomweaver_scrub_findings{kind="missing_record"} 1.0' in await response.text()


# --- by the clock --------------------------------------------------------------------------------


async def test_it_runs_by_the_clock_repairs_nothing_and_survives_errors(
    flow: Pipeline, job: ScrubJob
) -> None:
    await damage(flow)
    before = await flow.row("a.md")
    whole = job.scrubber
    calls = 0
    done = asyncio.Event()

    class Broken:
        async def scrub(self, **named: Any) -> ScrubReport:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise PermanentError("the index is gone")
            if calls == 2:
                raise RuntimeError("nobody expected this")
            report = await whole.scrub(**named)
            done.set()
            return report

    broken: Any = Broken()
    job.scrubber = broken
    stop = asyncio.Event()
    with capture_logs() as logged:
        running = asyncio.create_task(job.run(stop, 0.001))
        await done.wait()
        stop.set()
        await running
    told = [entry["error"] for entry in logged if entry["event"] == "scrub.failed"]
    assert told == ["the index is gone", "nobody expected this"]
    assert job.last is not None
    assert job.last.counts == {FindingKind.MISSING: 1}
    assert await flow.row("a.md") == before


async def test_a_stop_ends_a_scrub_that_runs_by_the_clock(job: ScrubJob) -> None:
    began = asyncio.Event()

    class Endless:
        async def scrub(self, **_: Any) -> ScrubReport:
            began.set()
            await asyncio.Event().wait()
            raise AssertionError

    endless: Any = Endless()
    job.scrubber = endless
    stop = asyncio.Event()
    running = asyncio.create_task(job.run(stop, 0.001))
    await began.wait()
    stop.set()
    await running
    assert not job.running


# --- the command ---------------------------------------------------------------------------------


class Ended:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def report(self) -> Any:
        """The last line: the service under test logs to the same stream."""
        return json.loads(self.out.splitlines()[-1])


async def command(*words: str | Path, url: str, **environment: str) -> Ended:
    """In a thread: it owns an event loop, and the server needs this one."""
    variables = {"COLUMNS": "240", "BLOOMWEAVER_URL": url, **environment}
    runner = CliRunner(env=variables)
    result = await asyncio.to_thread(runner.invoke, app, ["scrub", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


async def test_the_command_asks_the_service_and_its_exit_code_tells(
    flow: Pipeline, api: Api
) -> None:
    url = str(api.url("")).rstrip("/")
    await damage(flow)
    ended = await command(url=url)
    assert ended.code == 1
    assert "a.md" in ended.out
    assert "missing record" in ended.out
    assert "--repair" in ended.out
    ended = await command("--json", "--namespace", NAMESPACE, url=url)
    assert ended.code == 1
    assert ended.report["findings"][0]["document_id"] == "a.md"
    assert (await command("--repair", url=url)).code == 0
    await flow.run()
    ended = await command(url=url)
    assert (ended.code, "nothing is wrong" in ended.out) == (0, True)
    ended = await command("--namespace", "nowhere", url=url)
    assert ended.code == 1
    assert "nowhere" in ended.err


async def test_a_report_of_any_length_is_read(flow: Pipeline, api: Api) -> None:
    for n in range(400):
        record = Record(
            id=f"not ours {n} {'x' * 3000}", vector=word_vector("x"), document_id="d", generation=1,
            number=n, doc_hash="", heading_path=(), text="", metadata={},
        )  # fmt: skip
        flow.index.records[f"ns{n}"][record.id] = record
    ended = await command("--json", url=str(api.url("")).rstrip("/"))
    assert ended.code == 1
    assert len(ended.report["findings"]) == 400
    assert len(ended.out) > 2**20


async def stopped_service(folder: Path) -> DataFolder:
    """A data folder as a stopped service leaves it, with a record missing."""
    async with pipeline(folder) as flow:
        data = DataFolder(folder / "data")
        index: Any = QdrantEdgeIndex(data.index_path)
        flow.index = index
        await flow.insert("a.md", TEXT)
        await flow.run()
        row = await flow.row("a.md")
        ids = identity.record_ids(identity.document_key(row.key), row.applied.manifest)
        await index.delete(NAMESPACE, ids[:1])
        await index.close()
    return data


def process(*words: str | Path, data_dir: Path) -> Ended:
    """A process of its own, which sets its logging up for itself."""
    environment = {
        **os.environ, "BLOOMWEAVER_URL": NOTHING_ANSWERS, "BLOOMWEAVER_DATA_DIR": str(data_dir),
        "COLUMNS": "240",
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "common.cli.main", "scrub", *map(str, words)],
        capture_output=True, text=True, check=False, env=environment, timeout=120,
    )  # fmt: skip
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.slow
async def test_without_a_service_the_folder_itself_is_scrubbed(tmp_path: Path) -> None:
    data = await stopped_service(tmp_path)
    ended = process("--json", data_dir=data.path)
    assert ended.code == 1, ended.err
    (finding,) = ended.report["findings"]
    assert (finding["document_id"], finding["kind"]) == ("a.md", "missing_record")
    assert len(ended.out.splitlines()) == 1
    assert str(data.path) in ended.err.replace("\n", "")
    ended = process("--repair", "--data-dir", data.path, data_dir=tmp_path / "other")
    assert (ended.code, "repaired" in ended.out) == (0, True)
    async with pipeline(tmp_path) as flow:
        assert (await flow.row("a.md")).desired.version == 2
        assert (await flow.queue.depth(QueueName.CHANGE)).backlog == 1


@pytest.mark.slow
async def test_a_folder_in_use_is_not_opened(tmp_path: Path) -> None:
    data = await stopped_service(tmp_path)
    with data.own():
        ended = process(data_dir=data.path)
    assert ended.code == 1
    assert "in use by process" in ended.err


async def test_a_service_that_was_named_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    data = await stopped_service(tmp_path)
    ended = await command("--url", NOTHING_ANSWERS, url="", BLOOMWEAVER_DATA_DIR=str(data.path))
    assert ended.code == 3
    ended = await command("--data-dir", tmp_path / "none", url=NOTHING_ANSWERS)
    assert ended.code == 2
    ended = await command(url=NOTHING_ANSWERS, BLOOMWEAVER_DATA_DIR=str(tmp_path / "none"))
    assert ended.code == 3
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
async def test_what_servers_keep_is_compared_from_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = pinecone_server(lag_seconds=0)
    fleet = AwsInstallation(tmp_path, moto().url, index.url, {"audit_url": "sqlite:"})
    await provision(fleet.aws_url, fleet.product_settings)
    for name, value in fleet.environment.items():
        monkeypatch.setenv(name, value)
    nobodys = identity.record_id(identity.document_key(DocumentKey(NAMESPACE, "gone.md")), 1, 0)
    stray = Record(
        id=nobodys, vector=array("f", [1.0, *[0.0] * 383]), document_id="gone.md", generation=1,
        number=0, doc_hash="", heading_path=(), text="", metadata={},
    )  # fmt: skip
    async with open_ports(Settings(), receiver="test", own_index=True) as ports:
        assert ports.index is not None
        await ports.index.upsert(NAMESPACE, [stray])
    try:
        ended = fleet.run("scrub", "--json")  # no service runs at its address
        assert ended.returncode == 1, ended.stderr
        assert json.loads(ended.stdout)["counts"] == {"orphan": 1}
        ended = fleet.run("scrub", "--url", fleet.url)
        assert ended.returncode == 3, "a service that is named is asked"
        ended = fleet.run("scrub", "--data-dir", str(tmp_path))
        assert ended.returncode == 2, "a folder that is named is not passed over"
        ended = fleet.run("scrub", "--repair")  # by a registry that may be another index's
        assert (ended.returncode, f"({NAMESPACE})" in ended.stderr) == (1, True), ended.stderr
        ended = fleet.run("scrub", "--repair", "--namespace", NAMESPACE)
        assert (ended.returncode, "1 repaired" in ended.stdout) == (0, True), ended.stdout
        ended = fleet.run("scrub")
        assert (ended.returncode, "nothing is wrong" in ended.stdout) == (0, True), ended.stdout
    finally:
        index.stop()
    ended = fleet.run("audit", "list", "--json")
    told = json.loads(ended.stdout)["entries"]
    assert {(entry["action"], entry["count"]) for entry in told} == {("scrub.repair", 1)}
    assert [entry["result"] for entry in told] == ["accepted", "begun", "refused", "begun"]
