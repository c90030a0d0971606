"""Where fastembed's models come from: installed packages, a folder, or fastembed's own list."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from common.adapters.embedder.packaged_model import (
    PACKAGED_MODELS,
    PackagedModel,
    assemble,
    tokenizer_path,
)
from common.model import EmbeddingProfile
from common.ports.embedder import ModelUnavailableError

if TYPE_CHECKING:
    import numpy as np

log = structlog.get_logger(__name__)

_REGISTRATION: Final = threading.Lock()
_DEFAULT_MAX_TOKENS: Final = 512

Options = Mapping[str, Any]
"""fastembed's `threads` and `cuda`."""

Replace = Callable[[Path, str], Path]
"""(a model folder, its fingerprint) → the folder to load in its place."""


class TextModel(Protocol):
    """The part of fastembed's TextEmbedding used here. It adds no prefix to any text."""

    @property
    def model(self) -> Any:
        """What TextEmbedding chose to run the model with."""

    def passage_embed(
        self, texts: Iterable[Any], *, batch_size: int
    ) -> Iterable[np.ndarray[Any, Any]]: ...

    def query_embed(
        self, query: Iterable[Any], *, batch_size: int
    ) -> Iterable[np.ndarray[Any, Any]]: ...


class Source(Protocol):
    """Where a model comes from. Errors are ModelUnavailableError."""

    def profile(self, query_prefix: str, document_prefix: str) -> EmbeddingProfile: ...

    def load(self, options: Options, replace: Replace) -> TextModel: ...

    def folder(self) -> tuple[Path, str] | None:
        """The model folder and its fingerprint; None where fastembed keeps the model its way."""

    def tokenizer_json(self) -> Path: ...


def source_of(model: str, cache_folder: Path) -> Source:
    """`model`: a packaged model's name, any name fastembed knows, or a folder's absolute path."""
    if model in PACKAGED_MODELS:
        return _Packaged(PACKAGED_MODELS[model], cache_folder)
    if Path(model).is_absolute():
        return _Folder(Path(model))
    return _Named(model, cache_folder)


class _Packaged:
    """A model from installed packages."""

    def __init__(self, model: PackagedModel, cache_folder: Path) -> None:
        self._model = model
        self._cache_folder = cache_folder

    def profile(self, query_prefix: str, document_prefix: str) -> EmbeddingProfile:
        return self._model.profile(query_prefix, document_prefix)

    def load(self, options: Options, replace: Replace) -> TextModel:
        # Hashing the file leaves the interpreter free to import fastembed (0.5 s) meanwhile.
        importing = threading.Thread(target=_import_quietly, name="import-fastembed")
        importing.start()
        try:
            original, fingerprint = self.folder()
            folder = replace(original, fingerprint)
        finally:
            importing.join()
        return _load_one_of(folder, original, self._model.dimension, "mean", options)

    def folder(self) -> tuple[Path, str]:
        return assemble(self._model, self._cache_folder), self._model.fingerprint

    def tokenizer_json(self) -> Path:
        return tokenizer_path(self._model)


class _Folder:
    """A model folder: model.onnx, tokenizer.json, config.json, tokenizer_config.json."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def profile(self, query_prefix: str, document_prefix: str) -> EmbeddingProfile:
        return EmbeddingProfile(
            model=self._folder.name,
            fingerprint=self._fingerprint(),
            dimension=self._dimension(),
            max_tokens=self._max_tokens(),
            query_prefix=query_prefix,
            document_prefix=document_prefix,
        )

    def load(self, options: Options, replace: Replace) -> TextModel:
        self._require("tokenizer.json")
        folder = replace(*self.folder())
        return _load_one_of(folder, self._folder, self._dimension(), self._pooling(), options)

    def folder(self) -> tuple[Path, str]:
        return self._folder, self._fingerprint()

    def tokenizer_json(self) -> Path:
        return self._require("tokenizer.json")

    def _require(self, name: str) -> Path:
        path = self._folder / name
        if not path.is_file():
            raise ModelUnavailableError(
                f"the model folder {self._folder} has no {name}: it needs model.onnx, "
                "tokenizer.json, config.json and tokenizer_config.json"
            )
        return path

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads(self._require(name).read_bytes())
        except ValueError as error:
            raise ModelUnavailableError(f"{self._folder / name} is not JSON: {error}") from error
        return value

    def _fingerprint(self) -> str:
        """Of everything that decides a vector: weights, tokenizer, pooling."""
        digest = hashlib.sha256(self._pooling().encode())
        for name in ("model.onnx", "tokenizer.json"):
            with self._require(name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    def _dimension(self) -> int:
        return self._positive(self._json("config.json").get("hidden_size"), "hidden_size")

    def _max_tokens(self) -> int:
        length = self._json("tokenizer_config.json").get("model_max_length")
        return self._positive(length, "model_max_length")

    def _positive(self, value: object, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise ModelUnavailableError(f"the model folder {self._folder} states no usable {name}")
        return value

    def _pooling(self) -> str:
        if not (self._folder / "1_Pooling" / "config.json").is_file():
            return "mean"
        config = self._json("1_Pooling/config.json")
        modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        for key, pooling in modes.items():
            if config.get(key):
                return pooling
        raise ModelUnavailableError(f"{self._folder}/1_Pooling asks for neither mean nor cls")


class _Named:
    """A model fastembed knows by name, downloaded by it unless it is in the cache already."""

    def __init__(self, name: str, cache_folder: Path) -> None:
        self._name = name
        # fastembed reads its own variable when it is given no folder: an image with a model baked
        # in sets it.
        baked = "FASTEMBED_CACHE_PATH" in os.environ
        self._cache = None if baked else str(cache_folder / "fastembed")

    def profile(self, query_prefix: str, document_prefix: str) -> EmbeddingProfile:
        description = self._description()
        stated = re.search(r"(\d+) input tokens", description["description"])
        return EmbeddingProfile(
            model=description["model"],
            fingerprint=_description_fingerprint(description),
            dimension=description["dim"],
            max_tokens=int(stated[1]) if stated else _DEFAULT_MAX_TOKENS,
            query_prefix=query_prefix,
            document_prefix=document_prefix,
        )

    def load(self, options: Options, replace: Replace) -> TextModel:
        """As fastembed keeps it: its cache is no model folder of ours to replace."""
        model: TextModel = self._open(**options)
        return model

    def folder(self) -> None:
        return None

    def tokenizer_json(self) -> Path:
        # fastembed has no public way to tell where it put a model.
        return Path(self._open(lazy_load=True).model._model_dir) / "tokenizer.json"

    def _open(self, **options: Any) -> Any:
        name = self._description()["model"]
        try:
            return _text_embedding()(name, cache_dir=self._cache, **options)
        except Exception as error:
            raise ModelUnavailableError(
                f"fastembed cannot load {name}: {error}. Let this machine reach huggingface.co "
                "once, or point FASTEMBED_CACHE_PATH at a folder that holds the model, or use "
                f"the packaged {next(iter(PACKAGED_MODELS))}"
            ) from error

    def _description(self) -> dict[str, Any]:
        for description in _text_embedding().list_supported_models():
            if description["model"].lower() == self._name.lower():
                return dict(description)
        raise ModelUnavailableError(
            f"unknown model {self._name!r}: use {', '.join(PACKAGED_MODELS)}, a name from "
            "fastembed's list of text embedding models, or the absolute path of a model folder"
        )


def _description_fingerprint(description: dict[str, Any]) -> str:
    """fastembed pins no revision: the repository and the file in it stand for the weights."""
    source = json.dumps([description["sources"], description["model_file"]], sort_keys=True)
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _text_embedding() -> Any:
    from fastembed.text import TextEmbedding

    return TextEmbedding


def _import_quietly() -> None:
    """Warm the import; if it fails, the import that needs it tells why."""
    try:
        _text_embedding()
    except ImportError:
        return


def _load_one_of(
    folder: Path, original: Path, dimension: int, pooling: str, options: Options
) -> TextModel:
    """The original where what was made of it does not load. Raises ModelUnavailableError."""
    try:
        return _load_folder(folder, dimension, pooling, options)
    except ModelUnavailableError as error:
        if folder == original:
            raise
        log.warning("embedder.graph_not_loaded", error=str(error), used=str(original))
    return _load_folder(original, dimension, pooling, options)


def _load_folder(folder: Path, dimension: int, pooling: str, options: Options) -> TextModel:
    """A session on `folder`/model.onnx. Raises ModelUnavailableError."""
    try:
        embedding = _text_embedding()
        name = _registered(folder, dimension, pooling)
        model: TextModel = embedding(name, specific_model_path=str(folder), **options)
    except Exception as error:
        raise ModelUnavailableError(f"cannot load the model in {folder}: {error}") from error
    return model


def _registered(folder: Path, dimension: int, pooling: str) -> str:
    """The name under which fastembed, which keeps one list a process, knows the folder."""
    from fastembed.common.model_description import ModelSource, PoolingType

    name = f"bloomweaver/{hashlib.sha256(f'{folder}|{pooling}'.encode()).hexdigest()[:16]}"
    with _REGISTRATION:
        known = {description["model"] for description in _text_embedding().list_supported_models()}
        if name not in known:
            _text_embedding().add_custom_model(
                model=name,
                pooling=PoolingType.MEAN if pooling == "mean" else PoolingType.CLS,
                normalization=True,
                # Required, and never used: the folder is given at loading.
                sources=ModelSource(url="https://localhost/unused"),
                dim=dimension,
                model_file="model.onnx",
            )
    return name
