"""`bloomweaver optimize`: a faster graph of a model beside the original, if its vectors agree."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.output import Output
from common.cli.problems import CommandError, ExitCode, WrongUsageError

if TYPE_CHECKING:
    from common.adapters.embedder.fastembed import FastembedEmbedder
    from common.model import EmbeddingProfile
    from common.optimizing.optimize import Optimized, Request
    from common.settings import Settings

SCHEME = "fastembed"
FEW_TEXTS = 100
"""Fewer say little about a model."""
WORTH_IT = 1.1
"""A graph that is faster by less is not worth a profile of its own."""

OnProgress = Callable[[str, int, int], None]


class GraphKind(StrEnum):
    INT8 = "int8"
    FUSED = "fused"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeOptions:
    """What the command line says. A model of None is the configured one."""

    model: str | None = None
    graph: GraphKind = GraphKind.INT8
    target: Path | None = None
    sample: tuple[str, ...] = ()
    texts: int = 200
    min_cosine: float | None = None
    force: bool = False
    data_dir: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The model as it is called in BLOOMWEAVER_EMBEDDER_URL, and its folder."""

    name: str
    folder: Path
    cache_folder: Path


def optimize_command(options: OptimizeOptions, out: Output) -> int:
    from common.cli.configuration import load_settings
    from common.extraction.extract import UnreadableDocument
    from common.optimizing.optimize import optimize
    from common.optimizing.problems import OptimizationError, TargetExistsError
    from common.ports.errors import PortError

    settings = load_settings({"data_dir": options.data_dir})
    try:
        original = _original(options.model, settings)
        request = _request(options, settings, original)
        with _progress(out) as progress:
            optimized = optimize(request, progress)
    except TargetExistsError as error:
        raise WrongUsageError(str(error)) from error
    except (OptimizationError, PortError, UnreadableDocument) as error:
        raise CommandError(str(error)) from error
    lines = setting_lines(optimized, settings)
    out.json({**optimized.as_json(), "folder": str(optimized.folder), "settings": lines})
    _show(optimized, lines, out)
    return ExitCode.DONE


# --- what is asked for ---------------------------------------------------------------------------


def _original(model: str | None, settings: Settings) -> Original:
    """Raises WrongUsageError, ModelUnavailableError, DataFolderError."""
    from common.adapters.embedder.packaged_model import PACKAGED_MODELS, assemble
    from common.storage.data_folder import DataFolder

    name = _model_name(model, settings)
    cache = settings.model_folder
    if name in PACKAGED_MODELS:
        DataFolder(settings.data_dir)  # a folder that is not one yet must become one first
        folder = assemble(PACKAGED_MODELS[name], cache)
        return Original(name=name, folder=folder, cache_folder=cache)
    folder = Path(name).expanduser().absolute()
    if not folder.is_dir():
        raise WrongUsageError(
            f"{name} is neither a model folder nor a packaged model "
            f"({', '.join(PACKAGED_MODELS)}); of a model that fastembed downloads, name the folder "
            "that holds its model.onnx and tokenizer.json"
        )
    return Original(name=str(folder), folder=folder, cache_folder=cache)


def _model_name(model: str | None, settings: Settings) -> str:
    scheme, colon, name = settings.embedder_url.partition(":")
    if model is not None:
        return model.removeprefix(f"{SCHEME}:")
    if not colon or scheme != SCHEME:
        raise WrongUsageError(f"{settings.embedder_url} is no model on this machine: name one")
    return name


def _request(options: OptimizeOptions, settings: Settings, original: Original) -> Request:
    from common.chunking.chunker import ChunkSizes
    from common.optimizing.optimize import Request

    profile = _embedder(original.name, original, settings).profile
    suffixed = original.folder.with_name(f"{original.folder.name}-{options.graph}")
    return Request(
        original=original.folder,
        original_profile=profile,
        target=(options.target.expanduser() if options.target else suffixed).absolute(),
        graph=options.graph.value,
        open_embedder=lambda folder: _embedder(str(folder), original, settings, profile),
        documents=_documents(options.sample),
        sizes=ChunkSizes(
            target_tokens=settings.chunk_target_tokens,
            max_tokens=min(settings.chunk_max_tokens, profile.max_tokens),
        ),
        texts=options.texts,
        bar=options.min_cosine,
        replace=options.force,
    )


def _embedder(
    model: str, original: Original, settings: Settings, profile: EmbeddingProfile | None = None
) -> FastembedEmbedder:
    """On one thread, as an embedding worker's lane runs it. A profile's prefixes are taken over:
    a draft folder's name tells nothing."""
    from common.adapters.embedder.fastembed import FastembedEmbedder

    return FastembedEmbedder(
        model,
        cache_folder=original.cache_folder,
        threads=1,
        lanes=1,
        query_prefix=profile.query_prefix if profile else settings.query_prefix,
        document_prefix=profile.document_prefix if profile else settings.document_prefix,
    )


def _documents(sample: tuple[str, ...]) -> list[tuple[bytes, str]]:
    """The named files, or the packaged handbook. Raises WrongUsageError, CommandError."""
    from common.cli.files import scan

    with as_file(files("common.demo")) as handbook:
        paths = list(sample) or [str(handbook / "documents")]
        found = scan(paths).files.values()
        try:
            return [(file.path.read_bytes(), file.content_type) for file in found]
        except OSError as error:
            raise CommandError(f"cannot read {error.filename}: {error.strerror}") from error


# --- what is said --------------------------------------------------------------------------------


def setting_lines(optimized: Optimized, settings: Settings) -> list[str]:
    """What makes the product use the folder. The prefixes are named where the folder's name does
    not tell them as the original's did."""
    from common.adapters.embedder.fastembed import known_prefixes

    lines = {"EMBEDDER_URL": f"{SCHEME}:{optimized.folder}"}
    query, document = known_prefixes(str(optimized.folder))
    if settings.query_prefix is None and query != optimized.profile.query_prefix:
        lines["QUERY_PREFIX"] = optimized.profile.query_prefix
    if settings.document_prefix is None and document != optimized.profile.document_prefix:
        lines["DOCUMENT_PREFIX"] = optimized.profile.document_prefix
    return [f"BLOOMWEAVER_{name}={shlex.quote(value)}" for name, value in lines.items()]


def _show(optimized: Optimized, lines: list[str], out: Output) -> None:
    found = optimized.agreement
    out.say(f"{optimized.graph} graph ({optimized.variant}) in {optimized.folder}", "bold green")
    out.say(f"agreement with the original on {found.texts:,} texts: {found}")
    out.say(f"speed: {optimized.speed:.1f} times the original's, text by text on one thread")
    out.say("to use it:", "bold")
    for line in lines:
        out.say(f"  {line}")
    out.say(
        f"Its vectors are a profile of their own, {optimized.profile.id}: a namespace that is "
        "bound to another profile refuses documents and searches with it, so that vectors of two "
        "models are never mixed. Use it from the start, or in another data folder."
    )
    _warn(optimized, out)


def _warn(optimized: Optimized, out: Output) -> None:
    if optimized.agreement.texts < FEW_TEXTS:
        out.note(f"fewer than {FEW_TEXTS} texts say little: name more with --sample", "yellow")
    if optimized.speed < WORTH_IT:
        out.note("it is hardly faster on this machine: the original serves you as well", "yellow")


@contextmanager
def _progress(out: Output) -> Iterator[OnProgress]:
    with out.progress() as display:
        task: Any = None
        current = ""

        def finish() -> None:
            if task is not None and display.tasks[task].total is None:
                display.update(task, total=1, completed=1)

        def update(what: str, done: int, total: int) -> None:
            nonlocal task, current
            if what != current:
                finish()
                current, task = what, display.add_task(what, total=total or None)
            display.update(task, completed=done)

        yield update
        finish()
