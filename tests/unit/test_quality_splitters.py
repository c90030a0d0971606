"""The recursive splitter of the benchmark, and what counts as a hit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.quality.collection import Document, Passage
from tests.bench.quality.recursive import split
from tests.bench.quality.splitters import Chunk, held, recursive, size_for_chunks

texts = st.lists(
    st.sampled_from(["a", "word", ". ", " ", "\n", "\n\n", "\t", "longer-word"]), max_size=80
).map("".join)


def pieces(text: str, size: int) -> list[str]:
    return [text[start:end] for start, end in split(text, size)]


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("", 10, []),
        (" \n ", 10, []),
        ("one two", 10, ["one two"]),
        ("One.\n\nTwo.\n\nThree.", 12, ["One.\n\nTwo.", "Three."]),
        ("one two three\n\nfour", 8, ["one two", "three", "four"]),
        ("One two. Three", 9, ["One two", ". Three"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
    ],
)
def test_it_cuts_at_the_coarsest_separator_that_helps(
    text: str, size: int, expected: list[str]
) -> None:
    assert pieces(text, size) == expected


@given(texts, st.integers(2, 40))
def test_chunks_are_small_enough_and_hold_everything(text: str, size: int) -> None:
    found = pieces(text, size)
    assert all(0 < len(piece) <= size and piece == piece.strip() for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


@pytest.mark.parametrize("wanted", [7, 20, 55])
def test_the_size_makes_as_many_chunks_as_wanted(wanted: int) -> None:
    documents = [Document(str(n), f"Some {n} words. " * (40 + n), "text/plain") for n in range(4)]
    size = size_for_chunks(documents, wanted)
    assert len(recursive(documents, size)) == pytest.approx(wanted, abs=2)


def chunk(document: int, start: int, end: int) -> Chunk:
    return Chunk(document, start, end, "", "")


def test_a_chunk_holds_a_passage_from_half_of_it_on() -> None:
    passage = Passage(0, 10, 20)
    chunks = [chunk(0, 0, 15), chunk(0, 15, 40), chunk(0, 0, 14), chunk(0, 16, 40), chunk(1, 0, 40)]
    assert held(chunks, [passage]) == [[0], [0], [], [], []]


def test_a_chunk_may_hold_several_passages() -> None:
    passages = [Passage(0, 0, 10), Passage(0, 12, 22), Passage(0, 24, 34)]
    assert held([chunk(0, 0, 23), chunk(0, 24, 99)], passages) == [[0, 1], [2]]
