"""The questions over the Prometheus documents: each is answered in one place of one document."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.acceptance.truth import alive
from tests.bench.quality.collection import FEED, questions


def test_there_are_enough_and_no_two_are_the_same() -> None:
    asked = [question.text for question in questions()]
    assert len(asked) >= 100
    assert [text for text, count in Counter(asked).items() if count > 1] == []
    assert len({question.document_id for question in questions()}) >= 40


@pytest.mark.skipif(not FEED.exists(), reason=f"the change feed {FEED} is not here")
def test_every_passage_stands_in_its_document_once_and_in_no_other() -> None:
    left = alive(FEED)
    for question in questions():
        places = {name: text.count(question.passage) for name, text in left.items()}
        found = {name: count for name, count in places.items() if count}
        assert found == {question.document_id: 1}, question.passage


def test_passages_are_short_enough_to_lie_in_one_chunk() -> None:
    lengths = [len(question.passage) for question in questions()]
    assert min(lengths) >= 40
    assert max(lengths) <= 250
