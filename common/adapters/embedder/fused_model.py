"""The faster graph of a model that computes the same vectors, made once and kept.

A graph as exporters write it spells attention out. Put together (common/optimizing/fusion.py) it
computes the same sums in another order and takes a quarter less time, so that its vectors differ
by what two versions of onnxruntime differ by, and belong to the same embedding profile: this is a
graph optimisation at load time like onnxruntime's own, except that its result is kept and was
compared with the original on this machine before anyone used it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Final

import structlog

__all__ = ["FUSION_VERSION", "GRAPH", "MOST_BYTES", "RECORD", "keep", "kept_folder", "make_fused"]

log = structlog.get_logger(__name__)

FUSION_VERSION: Final = 1
"""To be raised whenever the fusions change: what was kept before is then made again."""

GRAPH: Final = "model.onnx"
RECORD: Final = "fused.json"
OPTIMIZED_RECORD: Final = "optimized.json"
"""Of a folder that `bloomweaver optimize` wrote: its graph is fused already."""

MOST_BYTES: Final = 700_000_000
"""Of a graph. Fusing takes some five times as much memory for a moment, which a machine that was
chosen for a larger model may not have; `bloomweaver optimize --graph fused` does it when asked."""

MOST_SECONDS: Final = 120.0
"""MiniLM takes 2."""

_LOOK_SECONDS: Final = 0.05


def make_fused(original: Path, fingerprint: str, cache_folder: Path, stop: threading.Event) -> None:
    """Keep a fused graph of `original`, whose graph has this fingerprint, unless one is kept.

    Of several processes one does the work and the others wait for it; `stop` ends it soon. Where
    nothing can be fused that is kept in mind. Blocks; what fails is logged.
    """
    target = _target(original, fingerprint, cache_folder)
    try:
        if not _is_optimized(original) and _kept(target) is None:
            with _alone(cache_folder, stop):
                if _kept(target) is None and not stop.is_set():
                    _make(original, target, stop)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("embedder.graph_not_fused", error=_told(error), used=str(original))


def kept_folder(original: Path, fingerprint: str, cache_folder: Path) -> Path:
    """The fused folder to load in place of `original`, or that, where none was made."""
    target = _target(original, fingerprint, cache_folder)
    record = None if _is_optimized(original) else _kept(target)
    return target if record and record["fused"] else original


def keep(draft: Path, reason: str | None) -> None:
    """Write down that the draft's graph is whole, or why there is none."""
    record: dict[str, Any] = {"fused": reason is None, "reason": reason}
    if reason is None:
        record["crc32"] = _crc32(draft / GRAPH)
    (draft / RECORD).write_text(json.dumps(record), encoding="utf-8")


def _is_optimized(original: Path) -> bool:
    return (original / OPTIMIZED_RECORD).exists()


def _target(original: Path, fingerprint: str, cache_folder: Path) -> Path:
    return cache_folder / f"{original.name}-{fingerprint}-fused-{_versions()}"


def _versions() -> str:
    stated = f"{FUSION_VERSION} {version('onnx')} {version('onnxruntime')}"
    return hashlib.sha256(stated.encode()).hexdigest()[:8]


def _kept(target: Path) -> dict[str, Any] | None:
    """None where it must be made, also because its graph is damaged."""
    try:
        record = json.loads((target / RECORD).read_bytes())
        whole = not record["fused"] or _crc32(target / GRAPH) == record["crc32"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return record if whole else None


def _make(original: Path, target: Path, stop: threading.Event) -> None:
    """In a process of its own, whose memory (five times the graph's) is given back at its end."""
    draft = target.with_name(f".{target.name}-draft")
    for left in (draft, target):
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        command = [sys.executable, "-m", "common.optimizing.fuse_folder", str(original), str(draft)]
        if not _run(command, stop):
            return
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    record = json.loads((target / RECORD).read_bytes())
    log.info("embedder.graph_fused", fused=record["fused"], reason=record["reason"])


def _run(command: list[str], stop: threading.Event) -> bool:
    """Whether it ended by itself, and well. Raises subprocess.SubprocessError when it did not do
    well, OSError when it could not begin."""
    began = time.monotonic()
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603 - this interpreter, with a module of the project
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        ) as child,
    ):
        try:
            while child.poll() is None and not stop.wait(_LOOK_SECONDS):
                if time.monotonic() - began > MOST_SECONDS:
                    raise subprocess.TimeoutExpired(command[:3], MOST_SECONDS)
        finally:
            child.kill()
        if stop.is_set() and child.wait() < 0:
            return False
        if child.wait():
            errors.seek(0)
            raise subprocess.CalledProcessError(child.returncode, command[:3], stderr=errors.read())
    return True


@contextmanager
def _alone(cache_folder: Path, stop: threading.Event) -> Iterator[None]:
    cache_folder.mkdir(parents=True, exist_ok=True)
    with (cache_folder / "fusing.lock").open("ab") as file:
        while not _locked(file) and not stop.wait(_LOOK_SECONDS):
            pass
        yield


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _crc32(path: Path) -> int:
    """Against damage, not against malice: who can write here can write the product's data."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _told(error: Exception) -> str:
    said = getattr(error, "stderr", None) or b""
    return (said.decode(errors="replace").strip().splitlines() or [str(error)])[-1]
