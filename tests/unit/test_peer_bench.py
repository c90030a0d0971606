"""What the comparison with other tools rests on: its guard, its counts and its edits."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.bench.edits import Draw
from tests.bench.peers.comparison import stale_and_missing
from tests.bench.peers.feed import Feed, restricted
from tests.bench.peers.guard import run_guarded
from tests.bench.peers.install import requirements
from tests.bench.peers.job import Edit, Job, Phase, last_revision, read_job, write_job
from tests.bench.peers.lines import tokens_lines

DOCUMENTS = [("a.md", "one"), ("b.md", "two"), ("c.md", "three")]


def job(**changes: object) -> Job:
    values = {"system": "langchain", "model_folder": "m", "data_folder": "d", "chunk_size": 800}
    return Job(**{**values, **changes})  # type: ignore[arg-type]


def phase(tokens: int) -> Phase:
    return Phase("replay", 1.0, 1, tokens, 1, 1, 0, 0, 100.0)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_a_child_that_takes_too_much_memory_is_ended_and_what_it_said_is_kept() -> None:
    said = run_guarded(
        python(
            "import time; print('{\"embedded\": 7}', flush=True); "
            "taken = bytearray(b'x' * 400_000_000); time.sleep(60)"
        ),
        limit_gigabytes=0.2,
        limit_seconds=50,
    )
    assert said.failure.startswith("killed at 0.")
    assert said.embedded == 7


@pytest.mark.slow
def test_a_child_that_takes_too_long_is_ended() -> None:
    said = run_guarded(python("import time; time.sleep(60)"), limit_gigabytes=5, limit_seconds=0.3)
    assert said.failure == "killed after 0.3 s"


@pytest.mark.slow
def test_a_child_that_fails_says_why() -> None:
    code = "print('{\"ready\": true}', flush=True); raise ValueError('no such model')"
    said = run_guarded(python(code), limit_gigabytes=5, limit_seconds=50)
    assert said.failure == "ended with 1: ValueError: no such model"
    assert said.answers == [{"ready": True}]


@pytest.mark.slow
def test_a_child_that_ends_well_has_not_failed() -> None:
    said = run_guarded(python("print('{\"rates\": 1}')"), limit_gigabytes=5, limit_seconds=50)
    assert (said.answers, said.failure) == ([{"rates": 1}], "")


def test_a_job_comes_out_of_its_file_as_it_went_in(tmp_path: Path) -> None:
    edits = [Edit("a.md", "“ö”\n\ud800"), Edit("b.md", None)]
    sent = job(documents=DOCUMENTS, edits=edits, batch=4, inference=False)
    write_job(sent, tmp_path / "job.json")
    assert read_job(tmp_path / "job.json") == sent


def test_the_last_revision_is_what_the_edits_leave() -> None:
    edits = [Edit("a.md", "1"), Edit("b.md", None), Edit("d.md", "4"), Edit("d.md", "5")]
    left = last_revision(job(documents=DOCUMENTS, edits=edits))
    assert left == {"a.md": "1", "c.md": "three", "d.md": "5"}


def test_records_nothing_calls_for_are_stale_and_chunks_without_a_record_missing() -> None:
    held = [("a", "1"), ("a", "old"), ("gone", "1"), ("a", "1")]
    assert stale_and_missing(held, [("a", "1"), ("a", "2")]) == (4, 3, 1)


def test_a_chunk_said_twice_may_have_one_record_or_two() -> None:
    twice = [("a", "1"), ("a", "1")]
    assert stale_and_missing([("a", "1")], twice) == (1, 0, 0)
    assert stale_and_missing(twice, twice) == (2, 0, 0)


def test_tokens_are_held_against_each_peers_own_target() -> None:
    phases = {
        "bloomweaver, one by one": phase(40),
        "bloomweaver, posted as fast as it goes": phase(1),
        "langchain, its defaults": phase(100),
        "langchain, batch 1": phase(60),
        "llamaindex, batch 1": phase(400),
        "cocoindex, batch 1": phase(50),
    }
    lines = tokens_lines("replay", phases, promised=True)
    assert [(line.result, line.target, line.met) for line in lines] == [
        ("0.400", "<= 0.5", True),
        ("0.667", "<= 0.5", False),
        ("0.100", "<= 0.15", True),
        ("0.800", "", None),
    ]
    assert {line.met for line in tokens_lines("replay", phases, promised=False)} == {None}


def test_where_documents_are_left_out_so_are_their_edits() -> None:
    edits = [Edit("c.md", "x"), Edit("b.md", "y"), Edit("a.md", "z"), Edit("new.md", "n")]
    feed = Feed("some", DOCUMENTS, edits, promised=True)
    assert restricted(feed, documents_at_most=2, edits_at_most=9) == Feed(
        "some", DOCUMENTS[:2], [Edit("b.md", "y"), Edit("a.md", "z")], promised=False
    )
    fewer = restricted(feed, documents_at_most=3, edits_at_most=1)
    assert (fewer.edits, fewer.promised) == (edits[:1], False)
    assert restricted(feed, documents_at_most=3, edits_at_most=4) == feed


def test_an_edit_changes_one_sentence_and_nothing_else() -> None:
    section = "# Heading {0}\n\nThe first sentence of part {0} is here. The second one is longer.\n"
    contents = [section.format(number) for number in range(30)]
    draw = Draw(random.Random(1), contents)
    for edited in (draw.edited(1000) for _ in range(20)):
        before = edited.before.split(". ")
        assert len(edited.before) >= 1000
        for after in edited.after:
            assert after != edited.before
            kept = sum(part in after for part in before)
            assert kept >= len(before) - 2


def test_the_peers_are_a_group_of_their_own() -> None:
    wanted = requirements()
    assert any(requirement.startswith("langchain-core") for requirement in wanted)
    assert all("<" in requirement for requirement in wanted)
