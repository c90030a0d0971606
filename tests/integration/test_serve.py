"""`bloomweaver worker serve` over HTTP: with an embedder the tests can hold, and as a process with
the packaged model."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from common.composition import open_ports
from common.model import DocumentKey, QueueName, Vector
from common.parts import timers_of
from common.ports.embedder import Embedder, Passage
from common.ports.errors import TransientError
from common.settings import Settings
from tests.acceptance.service import MODELS, PATIENCE_SECONDS, free_port, wait_until
from tests.fakes.embedder import HashEmbedder, word_vector
from webhook.accept import Acceptor, Change, ChangeType
from workers.serve import EmbeddingServer, build_app

MODEL = "all-MiniLM-L6-v2-int8"


class HeldEmbedder(HashEmbedder):
    """Embeds when `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.given_up = asyncio.Event()
        self.error: Exception | None = None
        self.passages: list[Passage] = []

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        self.passages += passages
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        if self.error:
            raise self.error
        return await super().embed_documents(passages)

    async def embed_query(self, text: str) -> Vector[float]:
        return word_vector(f"query {text}")


class Client:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def post(self, body: Any, **more: Any) -> tuple[int, Any, Any]:
        """Status, JSON and headers."""
        path = f"{self.url}/v1/embeddings"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(path, data=data, **more) as answer:
            return answer.status, await answer.json(), answer.headers

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.url + path) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def served(embedder: Embedder, **settings: Any) -> AsyncIterator[Client]:
    given = Settings(_env_file=None, **settings)
    runner = web.AppRunner(build_app(embedder, given), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            yield Client(session, f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def held() -> HeldEmbedder:
    return HeldEmbedder()


def at_work() -> HeldEmbedder:
    embedder = HeldEmbedder()
    embedder.go.set()
    return embedder


async def test_an_answer_is_as_openai_would_give_it() -> None:
    async with served(at_work()) as client:
        status, said, headers = await client.post({"model": "words", "input": ["a b", "c"]})
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert [each["embedding"] for each in said["data"]] == [
        list(word_vector("a b")), list(word_vector("c")),
    ]  # fmt: skip
    assert said["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


async def test_tokens_are_counted_once_and_as_far_as_they_are_read() -> None:
    embedder = at_work()
    async with served(embedder) as client:
        _, said, _ = await client.post({"model": "words", "input": "word " * 600})
    assert said["usage"]["prompt_tokens"] == 512
    [passage] = embedder.passages
    assert passage.token_ids is not None
    assert len(passage.token_ids) == 600


async def test_queries_are_embedded_as_such() -> None:
    async with served(at_work()) as client:
        given = {"model": "words", "input": ["a", "b"], "input_type": "query"}
        _, said, _ = await client.post(given)
    found = [each["embedding"] for each in said["data"]]
    assert found == [list(word_vector("query a")), list(word_vector("query b"))]


async def test_beyond_the_waiting_requests_it_asks_for_patience() -> None:
    embedder = held()
    async with served(embedder, serve_max_waiting=1) as client:
        first = asyncio.create_task(client.post({"model": "words", "input": "a"}))
        await embedder.begun.wait()
        status, said, headers = await client.post({"model": "words", "input": "b"})
        assert (status, said["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(headers["Retry-After"]) >= 1
        assert "requests_waiting 1" in (await client.get("/metrics"))[1]
        embedder.go.set()
        assert (await first)[0] == 200
        assert (await client.post({"model": "words", "input": "b"}))[0] == 200


async def test_who_goes_away_is_not_worked_for() -> None:
    embedder = held()
    async with served(embedder, serve_max_waiting=1) as client:
        request = asyncio.create_task(client.post({"model": "words", "input": "a"}))
        await embedder.begun.wait()
        request.cancel()
        await asyncio.wait_for(embedder.given_up.wait(), PATIENCE_SECONDS)
        embedder.go.set()
        assert (await client.post({"model": "words", "input": "b"}))[0] == 200, "its place is free"


@pytest.mark.parametrize(
    ("error", "status"), [(TransientError("secret"), 503), (ValueError("secret"), 500)]
)
async def test_what_goes_wrong_inside_is_not_told(error: Exception, status: int) -> None:
    embedder = at_work()
    embedder.error = error
    async with served(embedder) as client:
        found, said, _ = await client.post({"model": "words", "input": "a"})
    assert (found, said["error"]["type"]) == (status, "server_error")
    assert "secret" not in json.dumps(said)


async def test_errors_have_openais_shape_everywhere() -> None:
    async with served(at_work(), serve_max_body_bytes=100) as client:
        cases = [
            await client.post(b"{"),
            await client.post({"model": "words", "input": "a" * 200}),
            await client.post({"model": "other", "input": "a"}),
        ]
        assert [status for status, _, _ in cases] == [400, 413, 404]
        for _, said, _ in cases:
            assert set(said["error"]) == {"message", "type", "param", "code"}
        status, text = await client.get("/v1/embeddings")
        assert (status, "error" in json.loads(text)) == (405, True)
        status, text = await client.get("/v1/completions")
        assert (status, "error" in json.loads(text)) == (404, True)


async def test_models_health_and_metrics() -> None:
    async with served(at_work()) as client:
        models = json.loads((await client.get("/v1/models"))[1])
        assert [(m["id"], m["object"]) for m in models["data"]] == [("words", "model")]
        assert json.loads((await client.get("/v1/models/words"))[1])["owned_by"] == "bloomweaver"
        assert (await client.get("/v1/models/other"))[0] == 404
        assert (await client.get("/healthz"))[0] == 200
        assert (await client.get("/readyz"))[0] == 200
        await client.post({"model": "words", "input": "a"})
        metrics = (await client.get("/metrics"))[1]
        assert 'bloomweaver_embedding_requests_total{status="200"}' in metrics


async def listens(client: Client) -> bool:
    try:
        await client.get("/healthz")
    except aiohttp.ClientConnectorError:
        return False
    return True


async def test_a_drain_ends_what_was_begun_and_takes_nothing_new() -> None:
    embedder = held()
    settings = Settings(_env_file=None, serve_port=free_port(), drain_timeout_seconds=30)
    server = EmbeddingServer(embedder, settings)
    await server.start()
    async with aiohttp.ClientSession() as session:
        client = Client(session, f"http://127.0.0.1:{settings.serve_port}")
        request = asyncio.create_task(client.post({"model": "words", "input": "a"}))
        await embedder.begun.wait()
        stop = asyncio.Event()
        stop.set()
        closing = asyncio.create_task(server.close_at(stop))
        while await listens(client):  # noqa: ASYNC110 - it is what a client sees
            await asyncio.sleep(0)
        embedder.go.set()
        assert (await request)[0] == 200
        await closing
    await server.close()


# --- as a process --------------------------------------------------------------------------------


@contextmanager
def process(folder: Path, *arguments: str, **more: str) -> Iterator[tuple[str, Any]]:
    """`worker serve` with the packaged model; its URL, and the process."""
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BLOOMWEAVER_")}
    given = {
        "BLOOMWEAVER_DATA_DIR": str(folder / "data"),
        "BLOOMWEAVER_MODEL_CACHE_DIR": str(MODELS),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [sys.executable, "-m", "common.cli.main", "worker", "serve", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with (folder / "serve.log").open("wb") as log:
        running = subprocess.Popen(
            [*command, *arguments], env=inherited | given | more, stdout=log, stderr=log, cwd=folder
        )
    try:
        wait_until("it is ready", lambda: running.poll() is not None or _answers(url))
        assert running.poll() is None, (folder / "serve.log").read_text()
        yield url, running
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/readyz", timeout=5).close()
    except OSError:
        return False
    return True


def post(url: str, body: dict[str, Any]) -> Any:
    """As OpenAI's Python client does: with a key nobody asks for."""
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-none"}
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/v1/embeddings", data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_the_packaged_model_is_served_as_openais_client_asks(tmp_path: Path) -> None:
    with process(tmp_path, "--no-queue") as (url, running):
        texts = ["How are deletes kept?", "A tombstone remembers a delete.", "Bake for an hour."]
        # What the client sends when it is not told otherwise.
        said = post(url, {"input": texts, "model": MODEL, "encoding_format": "base64"})
        vectors = [
            np.frombuffer(base64.b64decode(each["embedding"]), dtype=np.float32)
            for each in said["data"]
        ]
        assert [vector.shape for vector in vectors] == [(384,)] * 3
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
        assert said["usage"]["prompt_tokens"] == said["usage"]["total_tokens"] > 10
        plain = post(url, {"input": texts[0], "model": MODEL})["data"][0]["embedding"]
        assert struct.pack("<384f", *plain) == vectors[0].tobytes()
        assert sorted(path.name for path in (tmp_path / "data").iterdir() if path.is_file()) == [
            "FORMAT"
        ], "without a queue none is opened"
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
async def test_documents_are_embedded_beside_the_requests(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path / "data", model_cache_dir=MODELS)
    async with open_ports(settings, receiver="test", own_index=False) as ports:
        acceptor = Acceptor(
            registry=ports.registry, blobs=ports.blobs, queue=ports.queue,
            profile=ports.profile, timers=timers_of(settings),
        )  # fmt: skip
        change = Change(
            key=DocumentKey("docs", "a.txt"), change_type=ChangeType.INSERT,
            content=b"A tombstone remembers a delete.", content_type="text/plain",
        )  # fmt: skip
        await acceptor.accept(change)
        with process(tmp_path) as (url, running):
            said = await asyncio.to_thread(post, url, {"input": "a", "model": MODEL})
            assert len(said["data"]) == 1
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await ports.queue.depth(QueueName.CREATE)).waiting == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            running.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(running.wait, PATIENCE_SECONDS) == 0


@pytest.mark.slow
def test_a_port_that_is_taken_is_told_in_a_line(tmp_path: Path) -> None:
    with process(tmp_path, "--no-queue") as (url, _):
        port = url.rpartition(":")[2]
        command = [sys.executable, "-m", "common.cli.main", "worker", "serve", "--no-queue"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BLOOMWEAVER_")}
        ended = subprocess.run(
            [*command, "--port", port], cwd=tmp_path, capture_output=True, text=True,
            env=environment | {"BLOOMWEAVER_MODEL_CACHE_DIR": str(MODELS)},
            timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
    assert ended.returncode == 1
    assert "serve.cannot_start" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_its_options_are_for_it_alone() -> None:
    from typer.testing import CliRunner

    from common.cli.main import app

    result = CliRunner().invoke(app, ["worker", "embed", "--port", "1"])
    assert result.exit_code == 2
    assert "--port is for `worker serve`" in result.stderr
