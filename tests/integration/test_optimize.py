"""`bloomweaver optimize` on the packaged model: what it writes is what the product then runs."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

from common.adapters.embedder.fastembed import FastembedEmbedder, connect
from common.adapters.embedder.packaged_model import PACKAGED_MODELS, assemble
from common.chunking.chunker import ChunkSizes
from common.cli import optimize as command
from common.cli.main import app
from common.optimizing.agreement import Agreement
from common.optimizing.fusion import Fusions
from common.optimizing.optimize import Optimized, Request, optimize
from common.optimizing.problems import AgreementTooLowError, UnsuitableModelError
from common.optimizing.quantization import INT8_VARIANTS, Int8Variant
from common.ports.embedder import Embedder, Passage
from common.settings import Settings
from common.storage.data_folder import DataFolder
from tests.encoder_layer import EncoderLayer

NAME = "all-MiniLM-L6-v2-int8"
TEXTS = [
    "How long are tombstones kept?",
    "A lease is permission to do something for a limited time. " * 12,
    "Übergrößenträger, 日本語 and `code()`.",
    "Retries use full jitter, so that clients that failed together do not come back together.",
]
CARELESS = Int8Variant("one scale a matrix", per_channel=False)
CAREFUL = INT8_VARIANTS[0]


def invoke(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["optimize", *words])


Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def embedded(embedder: FastembedEmbedder) -> Vectors:
    """One by one, so that no text shares a batch."""

    async def all_of_them() -> Vectors:
        try:
            found = [await embedder.embed_documents([Passage(text)]) for text in TEXTS]
        finally:
            await embedder.close()
        return np.array([vector for (vector,) in found])

    return asyncio.run(all_of_them())


def kinds(folder: Path) -> list[str]:
    return [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]


def quiet(*_: object) -> None:
    return None


def request(
    folder: Path, target: Path, *, texts: int = 8, variants: Sequence[Int8Variant] = INT8_VARIANTS
) -> Request:
    def open_embedder(model: Path) -> Embedder:
        return FastembedEmbedder(str(model), cache_folder=folder.parent, lanes=1)

    return Request(
        original=folder,
        original_profile=open_embedder(folder).profile,
        target=target,
        graph="int8",
        open_embedder=open_embedder,
        documents=command._documents(()),
        sizes=ChunkSizes(),
        texts=texts,
        variants=variants,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The packaged model as a folder of one's own."""
    packaged = assemble(PACKAGED_MODELS[NAME], tmp_path / "cache")
    folder: Path = shutil.copytree(packaged, tmp_path / "minilm")
    return folder


@pytest.fixture
def small_model(model: Path) -> Path:
    """Its tokenizer, and one small layer in place of the model."""
    onnx.save(EncoderLayer(vocabulary=30_522).model(), model / "model.onnx")
    config = {"hidden_size": 16, "pad_token_id": 0}
    (model / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.slow
def test_an_int8_graph_of_the_packaged_model_is_one_the_product_runs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    result = invoke("--data-dir", str(data), "--texts", "12", "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    folder = data / "run" / "models" / f"{NAME}-{PACKAGED_MODELS[NAME].fingerprint}-int8"
    assert Path(said["folder"]) == folder
    assert json.loads((folder / "optimized.json").read_text())["agreement"] == said["agreement"]
    assert said["agreement"]["texts"] == 12
    assert said["agreement"]["mean"] >= 0.99
    assert "fewer than 100 texts" in result.stderr
    found = kinds(folder)
    assert (found.count("MatMulInteger"), found.count("MultiHeadAttention")) == (36, 6)

    (line,) = said["settings"]
    settings = Settings(data_dir=data)
    original = connect(settings.embedder_url, settings, "test")
    faster = connect(line.partition("=")[2], settings, "test")
    assert faster.profile.id == said["profile"]
    assert original.profile.id == said["original"]["profile"] != said["profile"]
    cosines = (embedded(original) * embedded(faster)).sum(axis=1)
    assert 0.98 < cosines.min() < 0.9999
    assert cosines.mean() >= 0.99

    DataFolder(data)  # still one that the service can use
    again = invoke("--data-dir", str(data), "--texts", "12")
    assert again.exit_code == 2
    assert "--force" in again.stderr
    twice = invoke(str(folder), "--out", str(tmp_path / "twice"), "--texts", "4")
    assert twice.exit_code == 1
    assert "integer graph already" in twice.stderr


@pytest.mark.slow
def test_a_careless_graph_of_the_packaged_model_is_refused(model: Path) -> None:
    before = sorted(model.parent.iterdir())
    asked = request(model, model.with_name("faster"), variants=[CARELESS])
    with pytest.raises(AgreementTooLowError, match=r"one scale a matrix: mean cosine 0\.9[0-7]"):
        optimize(asked, quiet)
    assert sorted(model.parent.iterdir()) == before


def test_a_fused_graph_gives_the_same_vectors_with_the_folders_own_pooling(
    small_model: Path,
) -> None:
    (small_model / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": True}
    (small_model / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    target = small_model.with_name("minilm-fused")
    result = invoke(str(small_model), "--graph", "fused", "--texts", "8")
    assert result.exit_code == 0, result.stderr
    assert f"BLOOMWEAVER_EMBEDDER_URL=fastembed:{target}" in result.stdout
    cache = small_model.parent
    one, other = (FastembedEmbedder(str(f), cache_folder=cache) for f in (small_model, target))
    assert one.profile.id != other.profile.id
    assert np.abs(embedded(one) - embedded(other)).max() < 1e-4
    assert "MultiHeadAttention" in kinds(target)


def test_the_next_candidate_is_tried_when_one_is_refused(small_model: Path) -> None:
    target = small_model.with_name("faster")
    asked = request(small_model, target, variants=[CARELESS, CAREFUL])
    assert optimize(asked, quiet).variant == CAREFUL.name
    assert json.loads((target / "optimized.json").read_text())["variant"] == CAREFUL.name


@pytest.mark.parametrize("moment", ["quantising", "embedding with the new graph"])
def test_an_interrupted_run_leaves_nothing(small_model: Path, moment: str) -> None:
    def interrupt(what: str, done: int, _: int) -> None:
        if what.startswith(moment) and (done or moment == "quantising"):
            raise KeyboardInterrupt

    before = sorted(small_model.parent.iterdir())
    with pytest.raises(KeyboardInterrupt):
        optimize(request(small_model, small_model.with_name("faster")), interrupt)
    assert sorted(small_model.parent.iterdir()) == before


def test_force_writes_the_folder_anew(small_model: Path) -> None:
    words = [str(small_model), "--texts", "4"]
    assert [invoke(*words).exit_code for _ in range(2)] == [0, 2]
    folder = small_model.with_name("minilm-int8")
    (folder / "model.onnx").write_bytes(b"damaged")
    assert invoke(*words, "--force").exit_code == 0
    assert "MatMulInteger" in kinds(folder)


def test_a_file_that_is_no_graph_is_refused(small_model: Path) -> None:
    (small_model / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(UnsuitableModelError, match="cannot read"):
        optimize(request(small_model, small_model.with_name("faster")), quiet)


def test_what_is_no_model_says_what_is(tmp_path: Path) -> None:
    result = invoke("nobody/knows", "--data-dir", str(tmp_path / "data"))
    assert result.exit_code == 2
    assert NAME in result.stderr
    result = invoke(str(tmp_path), "--data-dir", str(tmp_path / "data"))
    assert result.exit_code == 1
    assert "tokenizer_config.json" in result.stderr


def test_prefixes_a_new_name_does_not_tell_are_named(tmp_path: Path, model: Path) -> None:
    bge = model.rename(tmp_path / "bge-small-en-v1.5")
    options = command.OptimizeOptions(model=str(bge), target=tmp_path / "fast one")
    settings = Settings(data_dir=tmp_path / "data")
    asked = command._request(options, settings, command._original(str(bge), settings))
    prefix = asked.original_profile.query_prefix
    assert prefix.startswith("Represent this sentence")
    nameless = shutil.copytree(bge, tmp_path / "draft")
    assert asked.open_embedder(nameless).profile.query_prefix == prefix
    optimized = Optimized(
        folder=asked.target,
        graph="int8",
        variant="all",
        profile=asked.original_profile,
        original=asked.original_profile,
        agreement=Agreement(texts=1, mean=1.0, fifth_percentile=1.0, least=1.0),
        speed=2.0,
        fusions=Fusions(),
        reduced_range=False,
    )
    folder, query = command.setting_lines(optimized, settings)
    assert folder == f"BLOOMWEAVER_EMBEDDER_URL='fastembed:{asked.target}'"
    assert query == f"BLOOMWEAVER_QUERY_PREFIX='{prefix}'"
    beside = replace(optimized, folder=bge.with_name(f"{bge.name}-int8"))
    assert len(command.setting_lines(beside, settings)) == 1
