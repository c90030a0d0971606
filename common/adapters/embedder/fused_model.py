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
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import structlog

__all__ = ["FUSION_VERSION", "GRAPH", "MOST_BYTES", "RECORD", "fused_folder", "keep"]

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


def fused_folder(original: Path, fingerprint: str, cache_folder: Path) -> Path:
    """The folder to load in place of `original`, whose graph has this fingerprint.

    It is `original` itself where nothing can be fused, or where that failed, which is logged. Of
    several processes one does the work and the others wait for it. Blocks; raises nothing.
    """
    if (original / OPTIMIZED_RECORD).exists():
        return original
    target = cache_folder / f"{original.name}-{fingerprint}-fused-{_versions()}"
    try:
        record = _kept(target)
        if record is None:
            with _alone(cache_folder):
                record = _kept(target) or _made(original, target)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("embedder.graph_not_fused", error=_told(error), used=str(original))
        return original
    return target if record["fused"] else original


def keep(draft: Path, reason: str | None) -> None:
    """Write down that the draft's graph is whole, or why there is none."""
    record: dict[str, Any] = {"fused": reason is None, "reason": reason}
    if reason is None:
        record["crc32"] = _crc32(draft / GRAPH)
    (draft / RECORD).write_text(json.dumps(record), encoding="utf-8")


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


def _made(original: Path, target: Path) -> dict[str, Any]:
    """In a process of its own, whose memory (five times the graph's) is given back at its end."""
    draft = target.with_name(f".{target.name}-draft")
    for left in (draft, target):
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _run([sys.executable, "-m", "common.optimizing.fuse_folder", str(original), str(draft)])
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    record: dict[str, Any] = json.loads((target / RECORD).read_bytes())
    log.info("embedder.graph_fused", fused=record["fused"], reason=record["reason"])
    return record


def _run(command: list[str]) -> None:
    """Raises subprocess.SubprocessError."""
    subprocess.run(  # noqa: S603 - this interpreter, with a module of the project
        command, check=True, timeout=MOST_SECONDS, stdin=subprocess.DEVNULL, capture_output=True
    )


@contextmanager
def _alone(cache_folder: Path) -> Iterator[None]:
    cache_folder.mkdir(parents=True, exist_ok=True)
    with (cache_folder / "fusing.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
