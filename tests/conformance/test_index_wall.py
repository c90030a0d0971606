"""No filter that a user can write finds, in one namespace, what is in another: on every index."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.filters import FilterError, parse_filter
from common.ports.errors import PortError
from common.ports.index import Index
from tests.conformance.test_index import FACTORIES, SLOW, record

OURS, THEIRS = "docs", "docs2"
QUERY = record(0).vector
VISIBLE_WITHIN_SECONDS = 30.0

fields = st.sampled_from(
    ["namespace", "document_id", "generation", "text", "doc_hash", "tenant", "$namespace", "ns",
     "metadata.namespace", "_namespace", "__namespace__", "id", "year"],
)  # fmt: skip
values = st.one_of(st.sampled_from([OURS, THEIRS, "a.md", "", "*"]), st.integers(-1, 2))
conditions = st.one_of(
    values,
    st.builds(lambda op, value: {op: value}, st.sampled_from(["$eq", "$ne"]), values),
    st.builds(
        lambda op, some: {op: some},
        st.sampled_from(["$in", "$nin"]),
        st.lists(values, min_size=1, max_size=3),
    ),
    st.builds(lambda yes: {"$exists": yes}, st.booleans()),
)
filters = st.recursive(
    st.dictionaries(fields, conditions, min_size=1, max_size=2),
    lambda inner: st.builds(
        lambda op, some: {op: some},
        st.sampled_from(["$and", "$or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


async def filled(index: Index) -> None:
    """The same documents in both; theirs call themselves ours wherever metadata lets them."""
    ours = record(0, document="a.md", metadata={"tenant": OURS, "year": 1})
    theirs = record(1, document="b.md", metadata={"tenant": OURS, "ns": OURS, "year": 1})
    for namespace, one in ((OURS, ours), (THEIRS, replace(theirs, text=OURS))):
        token = await index.upsert(namespace, [one])
        await index.wait_visible(namespace, token, timeout_seconds=VISIBLE_WITHIN_SECONDS)


@pytest.mark.parametrize("name", [name for name in FACTORIES if name not in SLOW])
def test_no_filter_reaches_across(name: str, tmp_path: Path) -> None:
    tried = 0

    with asyncio.Runner() as runner:

        async def opened() -> Index:
            index = FACTORIES[name](tmp_path)
            await filled(index)
            return index

        index = runner.run(opened())

        async def found(where: Any) -> set[str]:
            matches = await index.query(OURS, QUERY, top_k=10, where=parse_filter(where))
            return {match.document_id for match in matches}

        @settings(
            max_examples=60,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.differing_executors],
        )
        @given(filters)
        def reaches_nothing(where: Any) -> None:
            nonlocal tried
            with contextlib.suppress(FilterError, PortError):
                assert runner.run(found(where)) <= {"a.md"}
                tried += 1

        try:
            reaches_nothing()
            assert tried >= 20, "most filters were refused: nothing was shown"
            assert runner.run(found({"tenant": OURS})) == {"a.md"}
            assert runner.run(found(None)) == {"a.md"}
        finally:
            runner.run(index.close())
