"""What a child is asked and what it answers. Both sides import it: standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Edit:
    """`content` of None: the document is gone."""

    document_id: str
    content: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of one system on an empty folder: the documents in bulk, then edits one by one.

    `batch` of None is the system's own default. With `inference` false each text gets a vector
    made from its hash: that counts tokens and says nothing about time.
    """

    system: str
    model_folder: str
    data_folder: str
    chunk_size: int
    batch: int | None = None
    inference: bool = True
    documents: list[tuple[str, str]] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Phase:
    """What one part of a run took. `records` are those written; `held` those there at its end.

    `stale`: records beyond what the documents alive call for; `missing`: chunks without a record;
    both None where nobody looked. Tokens are the model's, special ones not included.
    """

    name: str
    seconds: float
    chunks: int
    tokens: int
    records: int
    held: int | None
    stale: int | None
    missing: int | None
    peak_megabytes: float


def write_job(job: Job, path: Path) -> None:
    path.write_text(json.dumps(asdict(job)), encoding="utf-8")


def read_job(path: Path) -> Job:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    value["documents"] = [(name, content) for name, content in value["documents"]]
    value["edits"] = [Edit(**edit) for edit in value["edits"]]
    return Job(**value)


def last_revision(job: Job) -> dict[str, str]:
    """What is alive once everything is applied."""
    left = dict(job.documents)
    for edit in job.edits:
        if edit.content is None:
            left.pop(edit.document_id, None)
        else:
            left[edit.document_id] = edit.content
    return left
