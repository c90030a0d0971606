"""Requests stay within Pinecone's limits, whatever the records are."""

from __future__ import annotations

import itertools
import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pinecone._internal.http_client import _encode_json

from common.adapters.index.pinecone_limits import UPSERT_BYTES, UPSERT_RECORDS, packed
from common.adapters.index.pinecone_records import encode
from common.model import Record
from common.ports.errors import PermanentError
from common.ports.index import DimensionMismatchError
from tests.servers.pinecone_checks import MAX_REQUEST_BYTES, MAX_UPSERT_RECORDS, upserted
from tests.unit.pinecone_builders import metadatas, record

components = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([1e-5, 1.23456789e-05, -9.99999e-5, 1e16, 0.1, 1.0]),
)


@given(
    st.lists(st.lists(components, min_size=4, max_size=4).filter(any), min_size=1, max_size=8),
    metadatas,
    st.text(max_size=200),
)
def test_no_record_takes_more_bytes_than_it_is_counted_with(
    vectors: list[list[float]], metadata: dict[str, object], text: str
) -> None:
    records = [
        record(n, vector=array("f", values), metadata=metadata, text=text)
        for n, values in enumerate(vectors)
    ]
    ready = encode("docs", records, 4)
    body = {"vectors": [one.body for one in ready], "namespace": "docs"}
    sent = len(_encode_json(body))
    assert sent <= sum(one.size for one in ready) + len('{"vectors":[],"namespace":"docs"}')


@given(st.lists(st.integers(1, 60_000), max_size=3000))
def test_every_item_is_sent_once_in_order_and_no_part_is_over_a_limit(sizes: list[int]) -> None:
    items = list(enumerate(sizes))
    parts = packed(items, lambda item: item[1], max_count=UPSERT_RECORDS, max_bytes=UPSERT_BYTES)
    assert [item for part in parts for item in part] == items
    for part in parts:
        assert 1 <= len(part) <= MAX_UPSERT_RECORDS
        assert sum(size for _, size in part) <= UPSERT_BYTES < MAX_REQUEST_BYTES
    for one, following in itertools.pairwise(parts):
        whole = sum(size for _, size in one) + following[0][1]
        assert len(one) == UPSERT_RECORDS or whole > UPSERT_BYTES, "fewer requests would do"


def test_nothing_makes_no_request_and_a_giant_one_of_its_own() -> None:
    assert packed([], len, max_count=2, max_bytes=3) == []
    assert packed(["a", "giant", "b"], len, max_count=9, max_bytes=3) == [["a"], ["giant"], ["b"]]


def test_the_largest_records_are_taken_by_the_service() -> None:
    """A batch of the consumers, with vectors of 3,072 dimensions and as much text as goes."""
    vector = array("f", [(-1) ** n * (n + 1) / 7919 for n in range(3072)])
    records = [record(n, vector=vector, text="ü" * 19_000) for n in range(256)]
    ready = encode("docs", records, 3072)
    parts = packed(ready, lambda one: one.size, max_count=UPSERT_RECORDS, max_bytes=UPSERT_BYTES)
    for part in parts:
        data = _encode_json({"vectors": [one.body for one in part], "namespace": "docs"})
        assert len(data) <= MAX_REQUEST_BYTES
        assert len(upserted(json.loads(data), 3072)) == len(part)


def test_another_dimension_and_what_is_no_number_are_refused_before_sending() -> None:
    with pytest.raises(DimensionMismatchError, match=r"3 dimensions.*has 2"):
        encode("docs", [_of([1.0, 0.0])], 3)
    with pytest.raises(PermanentError, match="not finite"):
        encode("docs", [_of([1.0, float("nan"), 0.0])], 3)


def _of(values: list[float]) -> Record:
    return record(0, vector=array("f", values))
