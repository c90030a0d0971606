"""Embeddings through fastembed: the packaged model, any fastembed model by name, or a folder."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common.adapters.embedder import packaged_model
from common.batching import plan_batches
from common.model import EmbeddingProfile, Vector
from common.ports.embedder import ModelUnavailableError, TokenCounter
from common.settings import Settings

if TYPE_CHECKING:
    from fastembed import TextEmbedding

__all__ = ["FastembedEmbedder", "connect"]

T = TypeVar("T")

MAX_PADDED_TOKENS = 512
MAX_BATCH = 8
"""On a CPU the model's matrix products are large enough at one full window; more only spills the
cache. Measured: docs/performance.md, 'Batch shape'."""
CHARACTERS_PER_TOKEN = 4
"""Close enough to sort texts by: the padding it misjudges is a few per cent."""

_E5 = ("query: ", "passage: ")
_BGE = ("Represent this sentence for searching relevant passages: ", "")
KNOWN_PREFIXES: dict[str, tuple[str, str]] = {
    "BAAI/bge-small-en-v1.5": _BGE,
    "BAAI/bge-base-en-v1.5": _BGE,
    "BAAI/bge-large-en-v1.5": _BGE,
    "intfloat/e5-small-v2": _E5,
    "intfloat/multilingual-e5-small": _E5,
    "intfloat/multilingual-e5-large": _E5,
    "nomic-ai/nomic-embed-text-v1": ("search_query: ", "search_document: "),
    "nomic-ai/nomic-embed-text-v1.5": ("search_query: ", "search_document: "),
    "nomic-ai/nomic-embed-text-v1.5-Q": ("search_query: ", "search_document: "),
    "mixedbread-ai/mxbai-embed-large-v1": _BGE,
    "snowflake/snowflake-arctic-embed-xs": _BGE,
    "snowflake/snowflake-arctic-embed-s": _BGE,
    "snowflake/snowflake-arctic-embed-m": _BGE,
    "snowflake/snowflake-arctic-embed-l": _BGE,
}
"""(query, document), as each model's authors give them; fastembed adds none by itself."""


def connect(url: str, settings: Settings, receiver: str) -> FastembedEmbedder:
    """`fastembed:NAME` or `fastembed:/a/model/folder`."""
    name = url.partition(":")[2] or packaged_model.NAME
    cache = settings.data_dir.absolute() / "run" / "models"
    return FastembedEmbedder(
        name,
        cache=cache,
        query_prefix=settings.query_prefix,
        document_prefix=settings.document_prefix,
    )


class FastembedEmbedder:
    """One onnxruntime session with `threads` intra-op threads, used by one thread at a time."""

    def __init__(
        self,
        name: str = packaged_model.NAME,
        *,
        cache: Path | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        threads: int = 1,
    ) -> None:
        self._name = name
        self._cache = cache or Path(tempfile.gettempdir()) / f"bloomweaver-models-{os.getuid()}"
        self._threads = threads
        self._prefixes = (query_prefix, document_prefix)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._model: TextEmbedding | None = None
        self._profile: EmbeddingProfile | None = None
        self._counter: TokenCounter | None = None

    @property
    def profile(self) -> EmbeddingProfile:
        """Found without loading the model's weights. Raises ModelUnavailableError."""
        if self._profile is None:
            known_query, known_document = KNOWN_PREFIXES.get(self._name, ("", ""))
            query, document = self._prefixes
            self._profile = EmbeddingProfile(
                **_facts(self._name),
                query_prefix=known_query if query is None else query,
                document_prefix=known_document if document is None else document,
            )
        return self._profile

    async def load(self) -> None:
        await self._in_worker(self._loaded)

    async def token_counter(self) -> TokenCounter:
        if self._counter is None:
            self._counter = await self._in_worker(self._load_counter)
        return self._counter

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector[float]]:
        prefixed = [self.profile.document_prefix + text for text in texts]
        return await self._in_worker(lambda: self._embed(prefixed))

    async def embed_query(self, text: str) -> Vector[float]:
        (vector,) = await self._in_worker(lambda: self._embed([self.profile.query_prefix + text]))
        return vector

    async def close(self) -> None:
        """Finish the batch under way and let the model go."""
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
        self._model = None

    async def _in_worker(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, call)

    def _embed(self, texts: Sequence[str]) -> list[Vector[float]]:
        model = self._loaded()
        lengths = [min(len(t) // CHARACTERS_PER_TOKEN + 1, self.profile.max_tokens) for t in texts]
        vectors: list[Vector[float]] = [array("f")] * len(texts)
        batches = plan_batches(lengths, max_padded_tokens=MAX_PADDED_TOKENS, max_batch=MAX_BATCH)
        for batch in batches:
            found = model.embed([texts[place] for place in batch], batch_size=len(batch))
            for place, vector in zip(batch, found, strict=True):
                vectors[place] = array("f", vector.astype("float32").tobytes())
        return vectors

    def _loaded(self) -> TextEmbedding:
        if self._model is None:
            self._model = self._load()
        return self._model

    def _load(self) -> TextEmbedding:
        from fastembed import TextEmbedding

        # The arena keeps the largest batch's memory for ever and makes nothing faster here.
        options: dict[str, Any] = {"threads": self._threads, "enable_cpu_mem_arena": False}
        try:
            if not _is_local(self._name):
                return TextEmbedding(self._name, **options)
            folder = self._folder()
            registered = _register(folder, self.profile)
            return TextEmbedding(registered, specific_model_path=str(folder), **options)
        except ModelUnavailableError:
            raise
        except Exception as error:  # fastembed raises whatever its hub client and runtime raise
            raise ModelUnavailableError(
                f"the embedding model {self._name!r} cannot be loaded: {error}. Without access to "
                "the model hub set BLOOMWEAVER_EMBEDDER_URL to fastembed:/a/model/folder or to "
                f"fastembed:{packaged_model.NAME}, which needs no download"
            ) from error

    def _folder(self) -> Path:
        if self._name == packaged_model.NAME:
            return packaged_model.assemble(self._cache)
        return Path(self._name)

    def _load_counter(self) -> TokenCounter:
        from common.chunking.tokenizer import TokenizerCounter

        if self._name == packaged_model.NAME:
            return TokenizerCounter(packaged_model.tokenizer_path())
        if _is_local(self._name):
            return TokenizerCounter(Path(self._name) / "tokenizer.json")
        tokenizer = getattr(self._loaded().model, "tokenizer", None)
        if tokenizer is None:
            raise ModelUnavailableError(f"the model {self._name!r} shows no tokenizer")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.json"
            path.write_text(tokenizer.to_str())
            return TokenizerCounter(path)


def _is_local(name: str) -> bool:
    return name == packaged_model.NAME or name.startswith("/")


def _facts(name: str) -> dict[str, Any]:
    """Model, fingerprint, dimension and window, as cheaply as they are to be had."""
    if name == packaged_model.NAME:
        return {
            "model": name,
            "fingerprint": packaged_model.MODEL_SHA256[:16],
            "dimension": packaged_model.DIMENSION,
            "max_tokens": packaged_model.MAX_TOKENS,
        }
    return _folder_facts(Path(name)) if _is_local(name) else _named_facts(name)


def _folder_facts(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
        digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        window = settings.get("model_max_length", config.get("max_position_embeddings", 512))
        return {
            "model": folder.name,
            "fingerprint": digest[:16],
            "dimension": int(config["hidden_size"]),
            "max_tokens": int(min(window, config.get("max_position_embeddings", window))),
        }
    except (OSError, KeyError, ValueError) as error:
        raise ModelUnavailableError(
            f"{folder} is no model folder: it needs model.onnx, tokenizer.json, config.json with "
            f"hidden_size, tokenizer_config.json and special_tokens_map.json ({error})"
        ) from error


def _named_facts(name: str) -> dict[str, Any]:
    from fastembed import TextEmbedding

    known = {m["model"].lower(): m for m in TextEmbedding.list_supported_models()}
    model = known.get(name.lower())
    if model is None:
        raise ModelUnavailableError(
            f"fastembed knows no model {name!r}: name one of its list, {packaged_model.NAME}, or "
            "the absolute path of a model folder in BLOOMWEAVER_EMBEDDER_URL=fastembed:…"
        )
    return {
        "model": model["model"],
        "fingerprint": hashlib.sha256(json.dumps(model["sources"]).encode()).hexdigest()[:16],
        "dimension": int(model["dim"]),
        "max_tokens": 512,
    }


def _register(folder: Path, profile: EmbeddingProfile) -> str:
    """Tell fastembed of a folder, once per process; the name carries the fingerprint."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = f"local/{profile.model}-{profile.fingerprint}"
    if any(m["model"].lower() == name.lower() for m in TextEmbedding.list_supported_models()):
        return name
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType[_pooling(folder)],
        normalization=True,
        sources=ModelSource(url="https://localhost/never-downloaded"),
        dim=profile.dimension,
        model_file="model.onnx",
    )
    return name


def _pooling(folder: Path) -> str:
    """As sentence-transformers writes it down; mean where nothing is said."""
    try:
        config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    except FileNotFoundError:
        return "MEAN"
    return "CLS" if config.get("pooling_mode_cls_token") else "MEAN"
