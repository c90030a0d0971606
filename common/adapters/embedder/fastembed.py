"""Embeds on this machine with fastembed (onnxruntime on the CPU)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import threading
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from common.adapters.embedder.packaged_model import (
    PACKAGED_MODELS,
    PackagedModel,
    assemble,
    tokenizer_path,
)
from common.batching import plan_batches
from common.model import EmbeddingProfile, Vector
from common.ports.embedder import ModelUnavailableError, TokenCounter, TransientError
from common.ports.errors import PortError
from common.settings import Settings

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FastembedEmbedder", "connect", "known_prefixes"]

MAX_PADDED_TOKENS: Final = 128
"""Batch only what is short. On one thread a batch of texts of 128 tokens or more is no faster than
the same texts one by one (26 a second either way), and at 512 tokens four at once take 650 MB
instead of 340. Short texts gain: 8 tokens go from 160 a second to 450 in batches of 16."""
MAX_BATCH: Final = 16

_REGISTRATION: Final = threading.Lock()
_DEFAULT_MAX_TOKENS: Final = 512
_SEARCH_PASSAGES: Final = "Represent this sentence for searching relevant passages: "

_PREFIXES: Final = (
    # (pattern of the model's name, query prefix, document prefix), from the models' own cards.
    (r"snowflake-arctic-embed.*-v2", "query: ", ""),
    (r"snowflake-arctic-embed", _SEARCH_PASSAGES, ""),
    (r"bge-(small|base|large)-en", _SEARCH_PASSAGES, ""),
    (r"mxbai-embed-large", _SEARCH_PASSAGES, ""),
    (r"nomic-embed-text", "search_query: ", "search_document: "),
    (r"(^|[/-])e5-(small|base|large)", "query: ", "passage: "),
)

T = TypeVar("T")


class _TextModel(Protocol):
    """The part of fastembed's TextEmbedding used here. It adds no prefix to any text."""

    def passage_embed(
        self, texts: Iterable[str], *, batch_size: int
    ) -> Iterable[np.ndarray[Any, Any]]: ...

    def query_embed(self, query: str) -> Iterable[np.ndarray[Any, Any]]: ...


class _Source(Protocol):
    """Where a model comes from. Errors are ModelUnavailableError."""

    def profile(self, query_prefix: str, document_prefix: str) -> EmbeddingProfile: ...

    def load(self, threads: int) -> _TextModel: ...

    def tokenizer_json(self) -> Path: ...


class FastembedEmbedder:
    """Implements the embedder port.

    `model` is a packaged model's name, any name fastembed knows, or the absolute path of a folder.
    `cache_folder` holds assembled and downloaded models. `threads` are those of one inference.
    Prefixes of None are those the model's authors ask for. All inference runs in one thread of
    its own, a call after the other; onnxruntime releases the interpreter's lock meanwhile.
    """

    def __init__(
        self,
        model: str,
        *,
        cache_folder: Path,
        threads: int = 1,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
    ) -> None:
        query, document = known_prefixes(model)
        self._query_prefix = query if query_prefix is None else query_prefix
        self._document_prefix = document if document_prefix is None else document_prefix
        self._source = _source(model, cache_folder)
        self._threads = threads
        self._profile: EmbeddingProfile | None = None
        self._model: _TextModel | None = None
        self._counter: TokenCounter | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="embedder")

    @property
    def profile(self) -> EmbeddingProfile:
        """Loads no weights; for the packaged model it reads no file and imports no library."""
        if self._profile is None:
            self._profile = self._source.profile(self._query_prefix, self._document_prefix)
        return self._profile

    async def load(self) -> None:
        """Load the weights and embed once, so that the first text finds everything warm."""
        await self._run(self._loaded)

    async def token_counter(self) -> TokenCounter:
        if self._counter is None:
            self._counter = await self._run(self._token_counter)
        return self._counter

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector[float]]:
        """Sorted by length and cut into batches within this call; texts over the window are cut."""
        return await self._run(lambda: self._embed_documents(texts))

    async def embed_query(self, text: str) -> Vector[float]:
        return await self._run(lambda: self._embed_query(text))

    async def close(self) -> None:
        """Wait for the inference under way and let the weights go."""
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
        self._model = None

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, _translated, call)

    def _loaded(self) -> _TextModel:
        if self._model is None:
            model = self._source.load(self._threads)
            list(model.query_embed("warm"))
            self._model = model
        return self._model

    def _token_counter(self) -> TokenCounter:
        from common.chunking.tokenizer import TokenizerCounter

        return TokenizerCounter(self._source.tokenizer_json())

    def _embed_documents(self, texts: Sequence[str]) -> list[Vector[float]]:
        model = self._loaded()
        prefixed = [self._document_prefix + text for text in texts]
        lengths = [_estimated_tokens(text, self.profile.max_tokens) for text in prefixed]
        vectors: list[Vector[float]] = [array("f")] * len(prefixed)
        for batch in plan_batches(lengths, MAX_PADDED_TOKENS, MAX_BATCH):
            members = [prefixed[i] for i in batch]
            embedded = model.passage_embed(members, batch_size=len(members))
            for i, vector in zip(batch, embedded, strict=True):
                vectors[i] = _normalised(vector)
        return vectors

    def _embed_query(self, text: str) -> Vector[float]:
        (vector,) = self._loaded().query_embed(self._query_prefix + text)
        return _normalised(vector)


def known_prefixes(model: str) -> tuple[str, str]:
    """The query and document prefix the model's authors ask for; empty for an unknown model."""
    name = model.lower().rstrip("/")
    for pattern, query, document in _PREFIXES:
        if re.search(pattern, name):
            return query, document
    return "", ""


def _estimated_tokens(text: str, max_tokens: int) -> int:
    """A guess good enough to sort by, so that no text is tokenised twice.

    Four ASCII characters a token; two UTF-8 bytes beyond ASCII count as a token.
    """
    characters = len(text)
    extra_bytes = len(text.encode("utf-8", "replace")) - characters
    return min(max_tokens, characters // 4 + extra_bytes // 2 + 2)


def _normalised(vector: np.ndarray[Any, Any]) -> Vector[float]:
    """Some of fastembed's models return vectors of any length; the port promises 1."""
    import numpy as np

    unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return array("f", unit.astype(np.float32, copy=False).tobytes())


def _translated(call: Callable[[], T]) -> T:
    try:
        return call()
    except PortError:
        raise
    except Exception as error:
        raise TransientError(f"embedding failed: {error}") from error


def _source(model: str, cache_folder: Path) -> _Source:
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

    def load(self, threads: int) -> _TextModel:
        # Hashing the file leaves the interpreter free to import fastembed (0.5 s) meanwhile.
        importing = threading.Thread(target=_import_quietly, name="import-fastembed")
        importing.start()
        try:
            folder = assemble(self._model, self._cache_folder)
        finally:
            importing.join()
        return _load_folder(folder, self._model.dimension, "mean", threads)

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

    def load(self, threads: int) -> _TextModel:
        self._require("tokenizer.json")
        return _load_folder(self._folder, self._dimension(), self._pooling(), threads)

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

    def load(self, threads: int) -> _TextModel:
        model: _TextModel = self._open(threads=threads)
        return model

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


def _load_folder(folder: Path, dimension: int, pooling: str, threads: int) -> _TextModel:
    """A session on `folder`/model.onnx. Raises ModelUnavailableError."""
    try:
        embedding = _text_embedding()
        name = _registered(folder, dimension, pooling)
        model: _TextModel = embedding(name, specific_model_path=str(folder), threads=threads)
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


def connect(url: str, settings: Settings, receiver: str) -> FastembedEmbedder:
    """`fastembed:NAME` or `fastembed:/a/model/folder`."""
    return FastembedEmbedder(
        url.partition(":")[2],
        cache_folder=settings.data_dir.absolute() / "run" / "models",
        query_prefix=settings.query_prefix,
        document_prefix=settings.document_prefix,
    )
