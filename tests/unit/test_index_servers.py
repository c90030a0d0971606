"""What the adapters for index servers share: names, addresses, refusals, the meaning of filters."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.adapters.index import (
    chroma,
    chroma_filters,
    pinecone_filters,
    qdrant,
    qdrant_edge_filters,
    qdrant_filters,
)
from common.adapters.index.chroma_filters import MAX_CLAUSES, condition
from common.adapters.index.collection_names import LONGEST_NAME, CollectionNames
from common.adapters.index.filter_matching import matches
from common.adapters.index.server_errors import KeyRefusedError, NotThereError, refusal
from common.adapters.index.server_url import parse_server_url
from common.model import MetadataValue
from common.ports.errors import PermanentError, TransientError
from common.ports.index import FieldFilter, Filter, MetadataFilter
from common.settings import Settings
from tests.conformance.test_index import filters, metadatas
from tests.fakes.index import matches as by_definition

namespaces = st.text(min_size=1, max_size=128).filter(
    lambda text: text.isprintable() and len(text.encode(errors="replace")) <= 128
)


@given(namespaces)
def test_a_collection_name_is_valid_everywhere_and_read_back(namespace: str) -> None:
    names = CollectionNames("a-prefix-of-thirty-two-characters"[:31])
    name = names.of(namespace)
    assert 3 <= len(name) <= LONGEST_NAME
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert name[0].isalnum()
    assert name[-1].isalnum()
    assert names.namespace_of(name) == namespace


@given(namespaces, namespaces)
def test_two_namespaces_never_share_a_collection(one: str, other: str) -> None:
    names = CollectionNames()
    assert (names.of(one) == names.of(other)) == (one == other)


def test_a_readable_namespace_has_a_readable_collection() -> None:
    assert CollectionNames().of("docs-2") == "bloomweaver.docs-2"


@pytest.mark.parametrize(
    "name",
    ["docs", "bloomweaver", "bloomweaver-b.docs", "bloomweaver.Docs", "bloomweaver._64ocs",
     "bloomweaver.a b", "bloomweaver._ff", "bloomweaver..", "bloomweaver..mrxwg4y", "x.docs"],
)  # fmt: skip
def test_names_that_others_gave_are_not_ours(name: str) -> None:
    assert CollectionNames().namespace_of(name) is None


def test_a_prefix_does_not_reach_into_a_longer_one() -> None:
    assert CollectionNames("team").namespace_of(CollectionNames("team-b").of("docs")) is None


@pytest.mark.parametrize("prefix", ["", "a.b", "Team", "-a", "a" * 33])
def test_a_prefix_that_could_be_misread_is_refused(prefix: str) -> None:
    with pytest.raises(PermanentError, match="prefix"):
        CollectionNames(prefix)


def test_an_address_and_its_options() -> None:
    found = parse_server_url("chroma:https://h:1/p?prefix=t&tenant=a", options=("tenant",))
    assert str(found.base) == "https://h:1/p"
    assert (found.names.prefix, found.options) == ("t", {"tenant": "a"})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("qdrant:", "qdrant:http://HOST:PORT"),
        ("qdrant:host:6333", "qdrant:http://HOST:PORT"),
        ("qdrant:ftp://host", "qdrant:http://HOST:PORT"),
        ("qdrant:http://user:hidden@host", "no secret"),
        ("qdrant:http://host?tenant=x", "unknown parameter 'tenant'; known: prefix"),
    ],
)
def test_an_address_that_cannot_be_used_says_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(PermanentError, match=said) as refused:
        parse_server_url(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("adapter", [chroma, qdrant])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    adapter: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = adapter.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    monkeypatch.setattr("common.adapters.index.server_url.find_spec", lambda name: None)
    with pytest.raises(PermanentError, match=rf"pip install 'bloomweaver\[{scheme}\]'"):
        adapter.connect(f"{scheme}:http://localhost:1", Settings(), "test")  # type: ignore[attr-defined]
    assert importlib.util.find_spec("chromadb")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, TransientError), (500, TransientError), (503, TransientError), (302, TransientError),
     (401, KeyRefusedError), (403, KeyRefusedError), (404, NotThereError),
     (400, PermanentError), (413, PermanentError), (422, PermanentError)],
)  # fmt: skip
def test_only_what_the_request_got_wrong_is_permanent(status: int, kind: type[Exception]) -> None:
    assert type(refusal("Chroma", status, "said")) is kind


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7.0), ("0.5", 0.5), (None, None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None),
     ("nan", None), ("inf", None)],
)  # fmt: skip
def test_how_long_the_server_wants_to_be_left_alone(said: str | None, seconds: float) -> None:
    error = refusal("Qdrant", 429, "slow down", said)
    assert isinstance(error, TransientError)
    assert error.retry_after_seconds == seconds


@pytest.mark.parametrize(
    "where",
    [FieldFilter("year", "near", 3), FieldFilter("year", "gt", "x"),
     FieldFilter("year", "lt", True), Filter("none", ())],
)  # fmt: skip
@pytest.mark.parametrize(
    "condition",
    [chroma_filters.condition, qdrant_filters.condition, qdrant_edge_filters.condition,
     pinecone_filters.condition],
)  # fmt: skip
def test_a_filter_that_means_nothing_is_refused(
    where: MetadataFilter, condition: Callable[[MetadataFilter], object]
) -> None:
    with pytest.raises(PermanentError, match=r"unknown filter|compares numbers"):
        condition(where)


@given(metadatas, filters)
def test_a_filter_at_hand_means_what_its_definition_says(
    metadata: dict[str, MetadataValue], where: MetadataFilter
) -> None:
    assert matches(metadata, where) == by_definition(metadata, where)


def test_a_filter_too_long_for_chroma_is_not_sent() -> None:
    fits = FieldFilter("tags", "in", tuple(f"t{n}" for n in range(MAX_CLAUSES - 1)))
    assert condition(fits) is not None
    assert condition(Filter("all", (fits, FieldFilter("lang", "eq", "en")))) is None


def test_texts_of_a_long_list_are_one_condition() -> None:
    texts = FieldFilter("year", "in", tuple(range(1000)))
    assert condition(texts) == {"n:year": {"$in": [float(n) for n in range(1000)]}}
