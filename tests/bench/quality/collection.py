"""What is searched and asked: documents, passages in them, and queries that want some of these."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from common.extraction.content_types import guess_content_type
from tests.acceptance.truth import alive
from tests.bench.quality import cranfield

FEED = cranfield.DATA / "prometheus-docs.jsonl.gz"
QUESTIONS = Path(__file__).with_name("questions.jsonl")
ABSTRACTS_A_DOCUMENT = 20


@dataclass(frozen=True, slots=True)
class Document:
    document_id: str
    content: str
    content_type: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A span of a document's content, in characters, half open."""

    document: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Query:
    """`wanted`: places in the collection's passages."""

    text: str
    wanted: frozenset[int]


@dataclass(frozen=True, slots=True)
class Collection:
    documents: list[Document]
    passages: list[Passage]
    queries: list[Query]


@dataclass(frozen=True, slots=True)
class Question:
    """`passage` stands in the named document, word for word, and in no other."""

    text: str
    document_id: str
    passage: str


def questions() -> list[Question]:
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    return [
        Question(found["question"], found["document_id"], found["passage"])
        for found in map(json.loads, lines)
    ]


def joined_cranfield(seed: int) -> Collection:
    """Twenty abstracts in a document of plain text, in an order drawn by the seed; a passage is an
    abstract.

    An empty abstract that was judged relevant cannot be wanted here.
    """
    drawn = cranfield.abstracts()
    random.Random(seed).shuffle(drawn)
    documents: list[Document] = []
    passages: list[Passage] = []
    for first in range(0, len(drawn), ABSTRACTS_A_DOCUMENT):
        start = 0
        members = drawn[first : first + ABSTRACTS_A_DOCUMENT]
        for abstract in members:
            end = start + len(abstract.text)
            passages.append(Passage(len(documents), start, end))
            start = end + 2
        content = "\n\n".join(abstract.text for abstract in members)
        documents.append(Document(f"cranfield/{first}", content, "text/plain"))
    places = {abstract.document_id: place for place, abstract in enumerate(drawn)}
    queries = [
        Query(judged.text, frozenset(places[name] for name in judged.relevant if name in places))
        for judged in cranfield.judged_queries()
    ]
    return Collection(documents, passages, queries)


def prometheus() -> Collection:
    """The documents left at the end of the feed, and the questions: each wants one passage."""
    left = sorted(alive(FEED).items())
    places = {name: place for place, (name, _) in enumerate(left)}
    passages: list[Passage] = []
    queries: list[Query] = []
    for question in questions():
        place = places[question.document_id]
        start = left[place][1].index(question.passage)
        queries.append(Query(question.text, frozenset([len(passages)])))
        passages.append(Passage(place, start, start + len(question.passage)))
    documents = [
        Document(name, content, guess_content_type(name) or "text/plain") for name, content in left
    ]
    return Collection(documents, passages, queries)
