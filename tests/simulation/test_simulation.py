"""Whole installations under faults: thousands of seeds, and the mutants that prove the checks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.fleet import Batch, run_seeds
from tests.simulation.mutants import MUTANTS
from tests.simulation.story import story_of

pytestmark = pytest.mark.slow

SEEDS = 5000
MUTANT_SEEDS = 3000
"""Each mutant is noticed within so many seeds; most within fifty (docs/consistency.md)."""


def test_every_invariant_holds_under_every_fault() -> None:
    total = Batch()
    for batch in run_seeds(0, SEEDS):
        total.add(batch)
    assert total.runs == SEEDS
    assert not total.found, "\n".join(text for _, text in total.found[:5])
    for fault in ("race lost", "message lost", "message delivered twice", "upsert in part"):
        assert total.stats[fault] > 100, f"{fault!r} hardly ever happened: is it still injected?"


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checks_notice_a_guard_that_is_gone(mutant: str) -> None:
    for batch in run_seeds(0, MUTANT_SEEDS, mutant=mutant):
        if batch.found:
            return
    pytest.fail(f"{mutant} went unnoticed in {MUTANT_SEEDS} runs")


def test_a_seed_is_one_run_exactly_whatever_the_hash_seed() -> None:
    stories = {_story_in_a_process(hash_seed) for hash_seed in ("0", "1", "77")}
    assert len(stories) == 1
    assert len(stories.pop().splitlines()) > 20


def _story_in_a_process(hash_seed: str) -> str:
    command = [sys.executable, "-m", "tests.simulation", "--seed", "5"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        command, env=environment, text=True, capture_output=True, check=True
    ).stdout


def test_a_broken_seed_tells_how_to_see_it_again_and_what_happened() -> None:
    found, lines = story_of(0, "no-registration")
    assert found
    assert "python -m tests.simulation --seed 0 --mutant no-registration" in str(found)
    assert any("applied 1" in line for line in lines)
