"""Embeds on this machine with fastembed (onnxruntime on the CPU, or on a GPU)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import re
import threading
import time
from array import array
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import structlog

from common.adapters.embedder import calibration
from common.adapters.embedder.device import Device, check_session, choose_device
from common.adapters.embedder.fused_model import kept_folder, make_fused
from common.adapters.embedder.lanes import Lanes
from common.adapters.embedder.model_source import TextModel, source_of
from common.adapters.embedder.token_input import TokenTemplate, encoded, feed_ids, template_of
from common.model import EmbeddingProfile, Vector
from common.ports.embedder import (
    ModelUnavailableError,
    Passage,
    TokenIds,
    Tokenizer,
    TransientError,
)
from common.ports.errors import PortError
from common.settings import Settings, default_lanes

if TYPE_CHECKING:
    import numpy as np

    from common.chunking.tokenizer import ModelTokenizer

__all__ = ["FastembedEmbedder", "connect", "known_prefixes"]

log = structlog.get_logger(__name__)

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

_PROBES: Final = ("A probe's text: naïve, 42 %.", "Zwei Wörter 日本", "[MASK] <s> \u00a0 x_y\n- z")

_SAMPLE: Final = "Retrieval finds passages that answer a question, whatever words they use. " * 4

Kind = Literal["query", "passage"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Input:
    """A text or a passage as the model takes it: ids with special tokens, or the text itself."""

    kind: Kind
    value: TokenIds[int] | str
    length: int

    @property
    def key(self) -> tuple[str, bytes | str]:
        value = self.value
        return self.kind, value if isinstance(value, str) else value.tobytes()


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model in memory. Without a template it takes texts only."""

    model: TextModel
    machine: calibration.Machine
    lanes: Lanes[_Input]
    template: TokenTemplate | None


class FastembedEmbedder:
    """Implements the embedder port.

    `model` is a packaged model's name, any name fastembed knows, or the absolute path of a folder.
    `cache_folder` holds assembled and downloaded models, and what calibration found. `lanes`
    inferences of `threads` threads each run side by side on one session; None: as many as the
    device is given by default. `fuse`: on a CPU `prepare` makes a faster graph with the same
    vectors of the model's own and keeps it in `cache_folder`; `load` uses it.
    Prefixes of None are those the model's authors ask for. Loading and tokenising have a thread of
    their own; onnxruntime releases the interpreter's lock meanwhile.
    """

    def __init__(
        self,
        model: str,
        *,
        cache_folder: Path,
        threads: int = 1,
        lanes: int | None = None,
        device: Literal["cpu", "cuda", "auto"] = "cpu",
        fuse: bool = False,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
    ) -> None:
        query, document = known_prefixes(model)
        self._query_prefix = query if query_prefix is None else query_prefix
        self._document_prefix = document if document_prefix is None else document_prefix
        self._source = source_of(model, cache_folder)
        self._cache_folder = cache_folder
        self._threads = threads
        self._lanes = lanes
        self._wanted_device = device
        self._fuse = fuse
        self._profile: EmbeddingProfile | None = None
        self._model: _Loaded | None = None
        self._own_tokenizer: ModelTokenizer | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="embedder")

    @property
    def profile(self) -> EmbeddingProfile:
        """Loads no weights; for the packaged model it reads no file and imports no library."""
        if self._profile is None:
            self._profile = self._source.profile(self._query_prefix, self._document_prefix)
        return self._profile

    async def prepare(self) -> None:
        """Implements PreparingEmbedder by a fused graph (2 s for MiniLM)."""
        if not self._fuse or self._wanted_device != "cpu":
            return
        stop = threading.Event()
        try:
            await asyncio.to_thread(self._prepare, stop)
        finally:
            stop.set()

    async def load(self) -> None:
        """Load the weights and embed once, so that the first text finds everything warm."""
        await self._run(self._loaded)

    async def tokenizer(self) -> Tokenizer:
        return await self._run(self._tokenizer)

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        """Batched with whatever else waits; equal passages share one inference."""
        if not passages:
            return []
        loaded, inputs = await self._run(lambda: self._document_inputs(passages))
        return await loaded.lanes.embed(inputs)

    async def embed_query(self, text: str) -> Vector[float]:
        loaded, inputs = await self._run(lambda: self._query_inputs(text))
        (vector,) = await loaded.lanes.embed(inputs)
        return vector

    async def calibrate(self) -> None:
        """Find this machine's best batch while nothing waits, unless that was done before."""
        loaded = await self._run(self._loaded)
        folder, machine = self._cache_folder, loaded.machine
        known = await asyncio.to_thread(calibration.read_budget, folder, machine)
        if known is not None or loaded.template is None:
            return
        budget = await calibration.calibrate(partial(self._measure, loaded), machine.device)
        loaded.lanes.max_padded_tokens = budget
        log.info("embedder.calibrated", max_padded_tokens=budget, device=machine.device)
        try:
            await asyncio.to_thread(calibration.write_budget, folder, machine, budget)
        except OSError as error:  # a model folder that is read-only, as in an image
            log.info("embedder.calibration_not_kept", error=str(error))

    async def close(self) -> None:
        """Wait for the inferences under way and let the weights go."""
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
        if self._model:
            await self._model.lanes.close()
        self._model = None

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, _translated, call)

    def _tokenizer(self) -> ModelTokenizer:
        from common.chunking.tokenizer import ModelTokenizer

        if self._own_tokenizer is None:
            self._own_tokenizer = ModelTokenizer(self._source.tokenizer_json())
        return self._own_tokenizer

    def _loaded(self) -> _Loaded:
        if self._model is None:
            model, device = self._opened()
            list(model.query_embed(["warm"], batch_size=1))
            _return_freed_memory()
            self._model = self._at_work(model, device)
        return self._model

    def _opened(self) -> tuple[TextModel, Device]:
        # With a CPU nobody asks what onnxruntime was built with, so that it is imported late.
        providers = _providers() if self._wanted_device != "cpu" else []
        device = choose_device(self._wanted_device, providers)
        try:
            return self._opened_on(device), device
        except ModelUnavailableError as error:
            if device == "cpu" or self._wanted_device != "auto":
                raise
            log.warning("embedder.no_gpu", error=str(error))
            return self._opened_on("cpu"), "cpu"

    def _opened_on(self, device: Device) -> TextModel:
        options = {"threads": self._threads, "cuda": device == "cuda"}
        model = self._source.load(options, partial(self._folder_to_load, device))
        if device == "cuda":
            check_session(model.model.model.get_providers())
        return model

    def _folder_to_load(self, device: Device, original: Path, fingerprint: str) -> Path:
        if not self._fuse or device != "cpu":
            return original
        return kept_folder(original, fingerprint, self._cache_folder)

    def _prepare(self, stop: threading.Event) -> None:
        found = _translated(self._source.folder)
        if found:
            make_fused(*found, self._cache_folder, stop)

    def _at_work(self, model: TextModel, device: Device) -> _Loaded:
        machine = self._machine(device)
        known = calibration.read_budget(self._cache_folder, machine)
        lanes = Lanes(
            partial(_vectors, model),
            count=machine.lanes,
            max_padded_tokens=known or calibration.DEFAULT_BUDGETS[device],
        )
        # Models without an ONNX graph have no such method: they get their texts.
        template = template_of(model.model.tokenizer) if hasattr(model.model, "tokenize") else None
        if template:
            feed_ids(model.model, template)
        return _Loaded(model, machine, lanes, template)

    def _machine(self, device: Device) -> calibration.Machine:
        import onnxruntime

        return calibration.Machine(
            model=self.profile.fingerprint,
            device=device,
            lanes=self._lanes or default_lanes(device),
            processor=calibration.processor_name(),
            onnxruntime=onnxruntime.__version__,
        )

    @cached_property
    def _prefix_ids(self) -> TokenIds[int] | None:
        """Of the document prefix, put before given ids; None: given ids cannot be used.

        They can if the prefix leaves the tokens behind it as they are, and if the tokenizer they
        are from reads odd texts as the model's does.
        """
        loaded, own, prefix = self._loaded(), self._tokenizer(), self._document_prefix
        if loaded.template is None:
            return None
        if prefix and not (own.separable and prefix[-1].isspace()):
            return None
        wrapped = [loaded.template.wrapped(ids) for ids in own.encode(_PROBES)]
        if wrapped != encoded(loaded.model.model.tokenizer, _PROBES):
            log.warning("embedder.tokenizers_differ", model=self.profile.model)
            return None
        return own.encode([prefix])[0]

    def _document_inputs(self, passages: Sequence[Passage]) -> tuple[_Loaded, list[_Input]]:
        loaded = self._loaded()
        inputs: dict[int, _Input] = {}
        for place, passage in enumerate(passages):
            ids = passage.token_ids
            if ids is not None and loaded.template and self._prefix_ids is not None:
                value = loaded.template.wrapped(self._prefix_ids + ids)
                inputs[place] = _Input("passage", value, len(value))
        others = [place for place in range(len(passages)) if place not in inputs]
        texts = [self._document_prefix + passages[place].text for place in others]
        inputs.update(zip(others, self._inputs_of(texts, "passage"), strict=True))
        return loaded, [inputs[place] for place in range(len(passages))]

    def _query_inputs(self, text: str) -> tuple[_Loaded, list[_Input]]:
        return self._loaded(), self._inputs_of([self._query_prefix + text], "query")

    def _inputs_of(self, texts: Sequence[str], kind: Kind) -> list[_Input]:
        loaded = self._loaded()
        if loaded.template is None:
            return [_Input(kind, text, _estimated_tokens(text)) for text in texts]
        rows = encoded(loaded.model.model.tokenizer, texts) if texts else []
        return [_Input(kind, row, len(row)) for row in rows]

    async def _measure(self, loaded: _Loaded, texts: int, tokens: int) -> float | None:
        sample = encoded(loaded.model.model.tokenizer, [_SAMPLE])[0]
        row = array("i", islice(cycle(sample), tokens))
        batch = [_Input("passage", row, tokens)] * texts
        return await loaded.lanes.try_while_idle(lambda: _seconds_of(loaded.model, batch))


def known_prefixes(model: str) -> tuple[str, str]:
    """The query and document prefix the model's authors ask for; empty for an unknown model."""
    name = model.lower().rstrip("/")
    for pattern, query, document in _PREFIXES:
        if re.search(pattern, name):
            return query, document
    return "", ""


def _estimated_tokens(text: str) -> int:
    """Good enough to batch by: four ASCII characters a token; of others two UTF-8 bytes."""
    characters = len(text)
    extra_bytes = len(text.encode("utf-8", "replace")) - characters
    return characters // 4 + extra_bytes // 2 + 2


def _vectors(model: TextModel, inputs: Sequence[_Input]) -> list[Vector[float]]:
    """One inference; the inputs are of one kind."""
    embed = model.query_embed if inputs[0].kind == "query" else model.passage_embed
    values = [each.value for each in inputs]
    return [_normalised(vector) for vector in embed(values, batch_size=len(values))]


def _seconds_of(model: TextModel, inputs: Sequence[_Input]) -> float:
    began = time.perf_counter()
    _vectors(model, inputs)
    return time.perf_counter() - began


def _normalised(vector: np.ndarray[Any, Any]) -> Vector[float]:
    """Some of fastembed's models return vectors of any length; the port promises 1."""
    import numpy as np

    unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return array("f", unit.astype(np.float32, copy=False).tobytes())


def _return_freed_memory() -> None:
    """Loading a model frees as much again as it keeps, which glibc holds back (50 MB here)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library needs no asking
        ctypes.CDLL(None).malloc_trim(0)


def _providers() -> Collection[str]:
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN may come as Python packages
    found: list[str] = onnxruntime.get_available_providers()
    return found


def _translated(call: Callable[[], T]) -> T:
    try:
        return call()
    except PortError:
        raise
    except Exception as error:
        raise TransientError(f"embedding failed: {error}") from error


def connect(url: str, settings: Settings, receiver: str) -> FastembedEmbedder:
    """`fastembed:NAME` or `fastembed:/a/model/folder`."""
    return FastembedEmbedder(
        url.partition(":")[2],
        cache_folder=settings.model_folder,
        lanes=settings.inference_lanes,
        device=settings.device,
        fuse=settings.fuse_graph,
        query_prefix=settings.query_prefix,
        document_prefix=settings.document_prefix,
    )
