"""What docs/costs.md says of a month is what is computed, which moves as it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.month_costs import BUSY, DEV, IDLE, PROD, Installation, Load, month, tables

PAGE = Path(__file__).parents[2] / "docs" / "costs.md"


def total(installation: Installation, load: Load) -> float:
    return sum(month(installation, load).values())


def test_the_page_shows_what_is_computed() -> None:
    for table in tables().split("\n\n"):
        assert table in PAGE.read_text(), "run python -m tests.bench.month_costs"


@pytest.mark.parametrize("installation", [DEV, PROD])
def test_nothing_computes_in_an_idle_month(installation: Installation) -> None:
    idle = month(installation, IDLE)
    assert idle["instances and their volumes"] == 0
    assert idle["requests of the changes"] == 0
    assert idle["functions and API"] < 1


def test_ten_times_the_changes_cost_ten_times_the_requests() -> None:
    more = replace(BUSY, inserts=500_000, edits=9_000_000, deletes=500_000)
    requests = "requests of the changes"
    assert month(PROD, more)[requests] == pytest.approx(10 * month(PROD, BUSY)[requests])
    assert month(PROD, BUSY)[requests] == pytest.approx(88.75)


def test_what_stands_idle_is_the_endpoints_of_each_zone() -> None:
    assert total(PROD, IDLE) - total(replace(PROD, zones=1), IDLE) == pytest.approx(2 * 36.5)
    assert total(replace(DEV, endpoints=0), IDLE) == pytest.approx(total(DEV, IDLE) - 36.5)


def test_a_scrub_of_more_than_a_night_ends_with_its_function() -> None:
    many = replace(BUSY, documents=100_000_000)
    beyond = replace(many, documents=200_000_000)
    longer = month(PROD, beyond)["nightly scrub"] / month(PROD, many)["nightly scrub"]
    assert longer < 2, "the function's own time does not grow any more"
