"""The faster graph a model is loaded from: same vectors, made once, never trusted when damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from structlog.testing import capture_logs

from common.adapters.embedder import fused_model
from common.adapters.embedder.fastembed import FastembedEmbedder
from common.adapters.embedder.fused_model import kept_folder, make_fused
from common.adapters.embedder.packaged_model import PACKAGED_MODELS, assemble
from common.ports.embedder import Passage
from tests.encoder_layer import EncoderLayer

NAME = "all-MiniLM-L6-v2-int8"
TEXTS = ["A rule evaluates at an interval.", "Alerts " * 40, "naïve 日本 42 %"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model: the packaged one's files around one encoder layer."""
    packaged = assemble(PACKAGED_MODELS[NAME], tmp_path / "packaged")
    folder: Path = shutil.copytree(packaged, tmp_path / "small")
    onnx.save(EncoderLayer(vocabulary=30_522).model(), folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 16, "pad_token_id": 0}))
    return folder


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The children that were started."""
    started: list[list[str]] = []
    run = fused_model._run

    def counted(command: list[str], stop: threading.Event) -> bool:
        started.append(command)
        return run(command, stop)

    monkeypatch.setattr(fused_model, "_run", counted)
    return started


def fused_folder(original: Path, fingerprint: str, cache_folder: Path) -> Path:
    """As a process that prepares and then loads."""
    make_fused(original, fingerprint, cache_folder, threading.Event())
    return kept_folder(original, fingerprint, cache_folder)


def kinds(folder: Path) -> set[str]:
    return {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}


async def vectors(cache: Path, **options: Any) -> tuple[str, Any]:
    embedder = FastembedEmbedder(NAME, cache_folder=cache, lanes=1, **options)
    try:
        await embedder.prepare()
        found = [(await embedder.embed_documents([Passage(text)]))[0] for text in TEXTS]
        return embedder.profile.id, np.array(found)
    finally:
        await embedder.close()


async def test_the_packaged_model_is_fused_and_its_vectors_stay(tmp_path: Path) -> None:
    profile, original = await vectors(tmp_path)
    assert not list(tmp_path.glob("*fused*"))
    fused_profile, fused = await vectors(tmp_path, fuse=True)
    (folder,) = (path for path in tmp_path.glob("*-fused-*") if path.is_dir())
    assert "MultiHeadAttention" in kinds(folder)
    assert fused_profile == profile
    assert np.abs(fused - original).max() < 1e-5


def test_it_is_made_once(model: Path, tmp_path: Path, runs: list[list[str]]) -> None:
    first = fused_folder(model, "f1", tmp_path / "cache")
    assert first != model
    assert "MultiHeadAttention" in kinds(first)
    assert fused_folder(model, "f1", tmp_path / "cache") == first
    assert len(runs) == 1


def test_other_weights_get_a_graph_of_their_own(model: Path, tmp_path: Path) -> None:
    one = fused_folder(model, "f1", tmp_path / "cache")
    assert fused_folder(model, "f2", tmp_path / "cache") != one


def test_of_many_at_once_one_makes_it(model: Path, tmp_path: Path, runs: list[list[str]]) -> None:
    barrier = threading.Barrier(4)

    def load(_: int) -> Path:
        barrier.wait()
        return fused_folder(model, "f1", tmp_path / "cache")

    with ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(load, range(4)))
    assert len(folders) == 1
    assert model not in folders
    assert len(runs) == 1


def test_a_damaged_graph_is_made_again(model: Path, tmp_path: Path, runs: list[list[str]]) -> None:
    folder = fused_folder(model, "f1", tmp_path / "cache")
    graph = bytearray((folder / "model.onnx").read_bytes())
    whole = bytes(graph)
    graph[len(graph) // 2] ^= 1
    (folder / "model.onnx").write_bytes(graph)
    assert fused_folder(model, "f1", tmp_path / "cache") == folder
    assert (folder / "model.onnx").read_bytes() == whole
    assert len(runs) == 2


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_damaged_copy_is_made_again(model: Path, tmp_path: Path, name: str) -> None:
    folder = fused_folder(model, "f1", tmp_path / "cache")
    (folder / name).write_text("{}")
    assert kept_folder(model, "f1", tmp_path / "cache") == model
    assert fused_folder(model, "f1", tmp_path / "cache") == folder
    assert (folder / name).read_bytes() == (model / name).read_bytes()


def test_a_corrected_configuration_is_loaded(model: Path, tmp_path: Path) -> None:
    one = fused_folder(model, "f1", tmp_path / "cache")
    corrected = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**corrected, "model_max_length": 16}))
    other = fused_folder(model, "f1", tmp_path / "cache")
    assert json.loads((other / "tokenizer_config.json").read_text())["model_max_length"] == 16
    assert not one.exists()  # nothing but the graph in use stays


def test_what_a_killed_parent_left_is_removed(model: Path, tmp_path: Path) -> None:
    draft = tmp_path / "cache" / ".fusing-left"
    draft.mkdir(parents=True)
    (draft / "constants.onnx").write_bytes(b"half")
    fused_folder(model, "f1", tmp_path / "cache")
    assert not draft.exists()


def test_a_child_ends_with_its_parent(model: Path, tmp_path: Path) -> None:
    """Its parent's end of the pipe is all that it knows of it."""
    command = [sys.executable, "-m", "common.optimizing.fuse_folder", str(model), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        assert child.stdin
        child.stdin.close()
        assert child.wait(60) == 1
    assert not (tmp_path / "fused.json").exists()


async def test_a_fused_folder_that_does_not_load_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = shutil.copytree(assemble(PACKAGED_MODELS[NAME], tmp_path), tmp_path / "broken")
    (broken / "model.onnx").unlink()
    (broken / "model.onnx").write_bytes(b"no graph")
    monkeypatch.setattr("common.adapters.embedder.fastembed.kept_folder", lambda *_: broken)
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path, lanes=1, fuse=True)
    with capture_logs() as logs:
        assert len(await embedder.embed_query("cat")) == 384
    await embedder.close()
    assert [entry["event"] for entry in logs] == ["embedder.graph_not_loaded"]


@pytest.mark.parametrize("again", [False, True])
def test_where_nothing_can_be_fused_the_model_stays(
    model: Path, tmp_path: Path, runs: list[list[str]], again: bool
) -> None:
    fused = fused_folder(model, "f1", tmp_path / "first")
    shutil.copyfile(fused / "model.onnx", model / "model.onnx")
    for _ in range(1 + again):
        assert fused_folder(model, "f2", tmp_path / "cache") == model
    assert len(runs) == 2  # one each: it is not tried at every start


def test_a_graph_of_many_bytes_stays(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from common.optimizing import fuse_folder

    monkeypatch.setattr(fuse_folder, "MOST_BYTES", 10)
    assert "bytes, more than 10" in (fuse_folder.why_not_fused(model, tmp_path) or "")


def test_a_folder_that_was_optimized_is_left_as_it_is(
    model: Path, tmp_path: Path, runs: list[list[str]]
) -> None:
    (model / "optimized.json").write_text("{}")
    assert fused_folder(model, "f1", tmp_path / "cache") == model
    assert not runs


def test_loading_does_not_wait_for_it(model: Path, tmp_path: Path, runs: list[list[str]]) -> None:
    assert kept_folder(model, "f1", tmp_path / "cache") == model
    assert not runs


def test_a_process_that_stops_takes_its_child_with_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if fusing went on for ever: what is left is a cache in which nothing is kept."""
    forever = [sys.executable, "-c", "import time; time.sleep(600)"]
    run, stop = fused_model._run, threading.Event()
    started = threading.Event()

    def slow(_: list[str], given: threading.Event) -> bool:
        started.set()
        return run(forever, given)

    monkeypatch.setattr(fused_model, "_run", slow)
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(make_fused, model, "f1", tmp_path / "cache", stop)
        assert started.wait(10)
        waiting = threads.submit(make_fused, model, "f1", tmp_path / "cache", stop)
        stop.set()
        assert one.exception(30) is None
        assert waiting.exception(30) is None
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["fusing.lock"]


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    with capture_logs() as logs:
        assert fused_folder(tmp_path / "missing", "f1", tmp_path / "cache") == tmp_path / "missing"
    assert "FileNotFoundError" in logs[0]["error"]


@pytest.mark.parametrize(
    "error",
    [
        subprocess.CalledProcessError(1, ["python"], stderr=b"Traceback\nMemoryError: no more"),
        subprocess.TimeoutExpired(["python"], 120),
        OSError(28, "No space left on device"),
    ],
)
def test_a_failure_costs_speed_and_nothing_else(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> bool:
        raise error

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(fused_model, "_run", fail)
        assert fused_folder(model, "f1", tmp_path / "cache") == model
    entry = logs[0]
    assert entry["event"] == "embedder.graph_not_fused"
    assert str(error).rpartition("] ")[2] in entry["error"] or "MemoryError" in entry["error"]
    monkeypatch.setattr(fused_model, "RETRY_SECONDS", 0.0)
    assert fused_folder(model, "f1", tmp_path / "cache") != model  # a day later it is tried again


def test_a_cache_nobody_may_write_costs_speed_and_nothing_else(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert fused_folder(model, "f1", tmp_path / "file" / "cache") == model
