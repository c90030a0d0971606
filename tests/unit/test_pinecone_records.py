"""What is kept in Pinecone comes back as it was, by what Pinecone can keep."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.adapters.index import pinecone_records
from common.adapters.index.pinecone_limits import METADATA_BYTES, USER_METADATA_BYTES
from common.adapters.index.pinecone_namespaces import decoded, encoded
from common.identity import canonical_json
from common.ports.errors import PermanentError
from tests.servers import pinecone_checks
from tests.unit.pinecone_builders import metadatas, names, record, scalars


def kept(metadata: dict[str, Any]) -> dict[str, Any]:
    """As the service gives it back: checked, every number a float."""
    return pinecone_checks.metadata(json.loads(json.dumps(metadata)))


@given(metadatas, st.one_of(st.none(), st.text(max_size=50)))
def test_metadata_comes_back_with_its_types(metadata: dict[str, Any], text: str | None) -> None:
    written = record(7, metadata=metadata, text=text, headings=("A", "") if text else ())
    held = kept(pinecone_records.stored(written))
    found = pinecone_records.record(written.id, written.vector.tolist(), held)
    assert found == written
    assert {k: type(v) for k, v in found.metadata.items()} == {
        k: type(v) for k, v in metadata.items()
    }


@given(st.dictionaries(names, scalars, max_size=5))
def test_a_match_reads_the_same(metadata: dict[str, Any]) -> None:
    written = record(7, metadata=metadata)
    found = pinecone_records.match("id", 1.0000002, kept(pinecone_records.stored(written)))
    assert found is not None
    assert (found.metadata, found.text, found.score) == (metadata, "text", 1.0)


@given(st.lists(names, unique=True, max_size=6))
def test_no_two_field_names_meet_and_none_is_one_of_ours(given_names: list[str]) -> None:
    ours = set(pinecone_records.stored(record(0, metadata={"n": 1, "e": []}))) - {"n"}
    stored = [pinecone_records.stored_name(name) for name in given_names]
    assert len(set(stored)) == len(stored)
    assert not ours & set(stored)


def test_a_text_that_does_not_fit_is_left_to_the_pack_with_its_headings() -> None:
    largest = record(0, text="x" * (METADATA_BYTES - 300))
    assert pinecone_records.stored(largest)["_text"] == largest.text
    larger = record(0, text="x" * METADATA_BYTES)
    held = kept(pinecone_records.stored(larger))
    found = pinecone_records.record(larger.id, [1.0, 0.0, 0.0], held)
    assert found is not None
    assert (found.text, found.heading_path) == (None, ())
    assert found.document_id == "a.md"


def test_headings_without_end_go_to_the_pack_too() -> None:
    stored = pinecone_records.stored(record(0, headings=("h" * METADATA_BYTES,)))
    assert "_text" not in stored
    kept(stored)


def test_all_metadata_that_accept_lets_in_fits() -> None:
    metadata = {f"field {n}": n / 7 for n in range(63)}
    rest = USER_METADATA_BYTES - len(canonical_json(metadata)) - len('"t":"",')
    metadata_full: dict[str, Any] = {**metadata, "t": "x" * rest}
    assert len(canonical_json(metadata_full)) == USER_METADATA_BYTES
    kept(pinecone_records.stored(record(0, metadata=metadata_full, document_id="\0" * 1000)))


def test_metadata_beyond_that_names_the_document_and_the_limit() -> None:
    with pytest.raises(PermanentError, match=r"'a\.md'.*40000"):
        pinecone_records.stored(record(0, metadata={"t": "x" * METADATA_BYTES}))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, float("inf"), float("nan")])
def test_numbers_that_cannot_be_kept_are_refused(value: float) -> None:
    with pytest.raises(PermanentError, match="'year'"):
        pinecone_records.stored(record(0, metadata={"year": value}))


@pytest.mark.parametrize(
    "held",
    [None, {}, {"title": "of another program"}, {"_document": "a", "_generation": "x"}],
    ids=["nothing", "empty", "foreign", "changed"],
)
def test_records_of_others_are_no_records(held: dict[str, Any] | None) -> None:
    assert pinecone_records.match("id", 1.0, held) is None
    assert pinecone_records.record("id", [1.0], held) is None


def test_numbers_that_somebody_added_are_not_taken_for_others() -> None:
    held = kept(pinecone_records.stored(record(0, metadata={"b": 2})))
    assert pinecone_records.match("id", 1.0, {**held, "a": 1.0}) is None


@given(st.text(max_size=30))
def test_a_namespace_has_one_name_in_ascii_and_back(namespace: str) -> None:
    name = encoded(namespace)
    assert decoded(name) == namespace
    assert pinecone_checks.namespace_of({"namespace": name}) == name
    assert name


@given(st.text(alphabet="%0123456789ABCDEFabcdef_-.~ü/", max_size=8))
def test_no_two_names_stand_for_one_namespace(name: str) -> None:
    namespace = decoded(name)
    assert namespace is None or encoded(namespace) == name


def test_names_with_a_meaning_of_their_own() -> None:
    assert encoded("") not in ("", "__default__")
    assert encoded("__default__") != "__default__"
    assert decoded("") is None
    assert decoded("__default__") is None
    assert encoded("team-a.docs_1") == "team-a.docs_1"
    assert decoded("%FF") is None
