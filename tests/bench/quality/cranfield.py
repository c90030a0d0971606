"""The Cranfield collection: abstracts on aerodynamics, queries, and which abstracts answer them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[4] / "shared" / "data"
ABSTRACTS = DATA / "cranfield.jsonl.gz"
QUERIES = DATA / "cranfield-queries.jsonl.gz"


@dataclass(frozen=True, slots=True)
class Abstract:
    document_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A query and the ids of the abstracts that were judged relevant to it (grades over 0)."""

    text: str
    relevant: frozenset[str]


def abstracts() -> list[Abstract]:
    """Those with a text, or else a title: all but two of the 1,400."""
    read = (Abstract(line["document_id"], line["text"] or line["title"]) for line in _of(ABSTRACTS))
    return [abstract for abstract in read if abstract.text.strip()]


def judged_queries() -> list[Judged]:
    """225, each with a relevant abstract; -1 stands for judged and not relevant."""
    return [
        Judged(
            line["query"], frozenset(name for name, grade in line["relevant"].items() if grade > 0)
        )
        for line in _of(QUERIES)
    ]


def _of(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
