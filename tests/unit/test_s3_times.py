"""When an object of S3 was put, at the latest, and what is older than a moment for certain."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from common.aws.s3_bucket import LONGEST_TRANSFER_SECONDS
from common.aws.s3_listing import put_by
from common.aws.s3_versions import Version, older_than

TEN = datetime.fromtimestamp(10, UTC)


def test_a_put_may_have_come_late_in_the_second_that_s3_tells() -> None:
    assert put_by(TEN, '"abc"') == 11


def test_an_upload_in_parts_is_dated_by_its_beginning() -> None:
    assert put_by(TEN, '"abc-2"') == 11 + LONGEST_TRANSFER_SECONDS


def version(name: str, put_by: float, *, newest: bool = False, marker: bool = False) -> Version:
    return Version("k", name, newest, marker, put_by)


@pytest.mark.parametrize(("before", "chosen"), [(11.0, 0), (11.5, 2), (5.0, 0)])
def test_all_versions_go_if_even_the_newest_is_older(before: float, chosen: int) -> None:
    versions = [version("2", 11.0, newest=True), version("1", 3.0)]

    assert len(older_than(versions, before)) == chosen


def test_where_the_newest_is_unknown_nothing_goes() -> None:
    assert older_than([version("1", 3.0)], 100.0) == []
