"""The folder that is written: the original's files around another graph, all of it or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from common.optimizing.problems import OptimizationError, TargetExistsError

__all__ = ["RECORD", "complete", "draft_beside", "put_in_place", "require_writable", "small_files"]

RECORD: Final = "optimized.json"
"""What a written folder says about itself."""

_COPIED: Final = ("*.json", "*.txt", "*.model", "1_Pooling/*.json")
"""Tokenizer, configuration and pooling: never other weights that lie beside the graph."""


def require_writable(target: Path, *, replace: bool) -> None:
    """Raises TargetExistsError, OptimizationError; before any work is done."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise TargetExistsError(f"{target} exists and is no folder: choose another with --out")
    if target.exists() and not (target / RECORD).is_file() and any(target.iterdir()):
        # --force is for what this command wrote; a folder of something else is nobody's to remove.
        raise TargetExistsError(
            f"{target} exists and was not written by this command (it has no {RECORD}): "
            "choose another folder with --out"
        )
    if target.exists() and any(target.iterdir()) and not replace:
        raise TargetExistsError(
            f"{target} exists already: use it as it is, overwrite it with --force, or choose "
            "another folder with --out"
        )
    with draft_beside(target):
        pass


@contextmanager
def draft_beside(target: Path) -> Iterator[Path]:
    """An empty folder on the target's file system, removed in the end. Raises OptimizationError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".optimize-", dir=target.parent))
    except OSError as error:
        raise OptimizationError(
            f"cannot write in {target.parent} ({error.strerror or error}): "
            "choose a folder that can be written with --out"
        ) from error
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def complete(draft: Path, original: Path) -> None:
    """Copy what a model folder needs besides its graph."""
    for path in small_files(original):
        copy = draft / path.relative_to(original)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)


def small_files(folder: Path) -> list[Path]:
    """What a model folder holds besides its graph and what is said about that."""
    found = (path for pattern in _COPIED for path in folder.glob(pattern))
    return sorted(path for path in found if path.name != RECORD and path.is_file())


def put_in_place(draft: Path, target: Path, record: Mapping[str, Any]) -> None:
    """Write the record, and give the draft its name. Raises OptimizationError.

    What was there is renamed away first, so that nobody meets half a folder; a process that has
    the old graph open keeps it.
    """
    try:
        (draft / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        draft.chmod(0o755)  # temporary folders are their owner's alone
        for path in (draft, *draft.rglob("*")):
            _sync(path)
        if target.exists():
            target.rename(draft.with_name(f"{draft.name}-old"))
        draft.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise OptimizationError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft.with_name(f"{draft.name}-old"), ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
