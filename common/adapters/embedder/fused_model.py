"""The faster graph of a model that computes the same vectors, made once and kept.

A graph as exporters write it spells attention out. Put together (common/optimizing/fusion.py) it
computes the same sums in another order and takes a quarter less time; its vectors differ by
rounding (under 1e-5) and belong to the same embedding profile. This is a graph optimisation at load
time like onnxruntime's own, except that its result is kept and was compared with the original on
this machine before anyone used it.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
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

from common.optimizing.model_folder import RECORD as OPTIMIZED
from common.optimizing.model_folder import small_files

__all__ = ["FUSION_VERSION", "GRAPH", "MOST_BYTES", "RECORD", "keep", "kept_folder", "make_fused"]

log = structlog.get_logger(__name__)

FUSION_VERSION: Final = 1
"""To be raised whenever the fusions change: what was kept before is then made again."""

GRAPH: Final = "model.onnx"
RECORD: Final = "fused.json"
MOST_BYTES: Final = 700_000_000
"""Of a graph. Fusing takes some five times as much memory for a moment, which a machine that was
chosen for a larger model may not have; `bloomweaver optimize --graph fused` does it when asked."""

MOST_SECONDS: Final = 120.0
"""MiniLM takes 2."""

RETRY_SECONDS: Final = 86400.0
"""What failed once, for want of memory or disk perhaps, is not tried again at every start."""

_LOOK_SECONDS: Final = 0.05
_DRAFT: Final = "fusing-"


def make_fused(original: Path, fingerprint: str, cache_folder: Path, stop: threading.Event) -> None:
    """Keep a fused graph of `original`, whose graph has this fingerprint, unless one is kept.

    Of several processes one does the work and the others wait for it; `stop` ends it soon. What
    did not work is kept in mind for a day. Blocks; what fails is logged.
    """
    try:
        target = _target(original, fingerprint, cache_folder)
        if _is_optimized(original) or _kept(target) is not None:
            return
        with _alone(cache_folder, stop):
            if _kept(target) is None and not stop.is_set():
                _make(original, target, stop)
    except (OSError, ValueError) as error:
        log.warning("embedder.graph_not_fused", error=str(error), used=str(original))


def kept_folder(original: Path, fingerprint: str, cache_folder: Path) -> Path:
    """The fused folder to load in place of `original`, or that, where none was made."""
    try:
        target = _target(original, fingerprint, cache_folder)
    except OSError:  # whoever loads the original tells what is wrong with it
        return original
    record = None if _is_optimized(original) else _kept(target)
    return target if record and record["fused"] else original


def keep(draft: Path, reason: str | None) -> None:
    """Write down what the draft holds now, or why it holds no graph; durably."""
    if reason is not None:
        shutil.rmtree(draft)
        draft.mkdir()
    record: dict[str, Any] = {
        "fused": reason is None,
        "reason": reason,
        "at": time.time(),
        "crc32": {str(path.relative_to(draft)): _crc32(path) for path in _files(draft)},
    }
    (draft / RECORD).write_text(json.dumps(record), encoding="utf-8")
    for path in (*_files(draft), draft):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_optimized(original: Path) -> bool:
    """`bloomweaver optimize` wrote it: its graph is fused already."""
    return (original / OPTIMIZED).exists()


def _target(original: Path, fingerprint: str, cache_folder: Path) -> Path:
    """Another file in the original is another folder: what is loaded are copies."""
    versions = f"{FUSION_VERSION} {version('onnx')} {version('onnxruntime')}"
    digest = hashlib.sha256(versions.encode())
    for path in small_files(original):
        digest.update(str(path.relative_to(original)).encode() + b"\0" + path.read_bytes())
    return cache_folder / f"{original.name}-{fingerprint}-fused-{digest.hexdigest()[:12]}"


def _kept(target: Path) -> dict[str, Any] | None:
    """None where it must be made, also because something in it is damaged."""
    try:
        record = json.loads((target / RECORD).read_bytes())
        if record["fused"]:
            whole = all(_crc32(target / name) == crc for name, crc in record["crc32"].items())
        else:
            whole = 0 <= time.time() - record["at"] < RETRY_SECONDS
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return record if whole else None


def _make(original: Path, target: Path, stop: threading.Event) -> None:
    """In a process of its own, whose memory (five times the graph's) is given back at its end."""
    for left in target.parent.glob(f".{_DRAFT}*"):
        shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{_DRAFT}", dir=target.parent))
    command = [sys.executable, "-m", "common.optimizing.fuse_folder", str(original), str(draft)]
    try:
        try:
            if not _run(command, stop):
                return
        except subprocess.SubprocessError as error:
            keep(draft, _told(error))
        _put_in_place(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    record = json.loads((target / RECORD).read_bytes())
    if record["fused"]:
        log.info("embedder.graph_fused", folder=str(target))
    else:
        log.warning("embedder.graph_not_fused", error=record["reason"], used=str(original))


def _put_in_place(draft: Path, target: Path) -> None:
    """And remove what other versions made of the same model: who loaded it has it in memory."""
    stem = target.name.rpartition("-")[0]
    for left in target.parent.glob(f"{glob.escape(stem)}-*"):
        shutil.rmtree(left, ignore_errors=True)
    draft.chmod(0o755)  # temporary folders are their owner's alone
    draft.rename(target)


def _run(command: list[str], stop: threading.Event) -> bool:
    """Whether it ended by itself, and well. Raises subprocess.SubprocessError when it did not do
    well, OSError when it could not begin."""
    began = time.monotonic()
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603 - this interpreter, with a module of the project
            command,
            stdin=subprocess.PIPE,  # its end tells the child that nobody waits any more
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is this process' to handle
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
        began = time.monotonic()
        while not _locked(file) and not stop.wait(_LOOK_SECONDS):
            if time.monotonic() - began > MOST_SECONDS:
                raise TimeoutError(f"another process holds {file.name}")
        yield


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


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
