"""Records for tests of the Pinecone adapter."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from common.model import Record, Vector

names = st.one_of(
    st.sampled_from(["lang", "_document", "_u", "_text", "_numbers", "$and", "$", "", "a.b", "ü"]),
    st.text(max_size=8),
)
scalars = st.one_of(
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
)
metadatas = st.dictionaries(
    names, st.one_of(scalars, st.lists(st.text(max_size=5), max_size=3)), max_size=8
)


def record(
    number: int,
    *,
    vector: Vector[float] | None = None,
    metadata: Mapping[str, Any] | None = None,
    text: str | None = "text",
    headings: tuple[str, ...] = ("Guide", "Start"),
    document_id: str = "a.md",
) -> Record:
    return Record(
        id=f"{'k' * 26}#1#{number}",
        vector=vector if vector is not None else array("f", [1.0, 0.0, 0.0]),
        document_id=document_id,
        generation=1,
        number=number,
        doc_hash="h" * 64,
        heading_path=headings,
        text=text,
        metadata=dict(metadata or {}),
    )
