"""What lies where, what follows from it, and what notifications name."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from common.adapters.landing.s3 import S3Landing
from common.aws.s3_bucket import S3Bucket
from common.landing import (
    MAX_KEY_BYTES,
    Action,
    Cause,
    NotANotificationError,
    Step,
    decoded_metadata,
    key_of,
    longest_name_bytes,
    next_step,
    notices_in,
    place_of,
    reason_key,
)
from common.ports.landing import Area, LandedObject, Notice, Places


def landed(etag: str = "e1", version_id: str | None = None, size: int = 5) -> LandedObject:
    return LandedObject(etag=etag, version_id=version_id, size_bytes=size, metadata={})


NONE = Cause()
REMOVED = Cause(removed=True)
OVERLAPPED = Cause(overlapped=True)
ACCEPTED = Cause(overlapped=True, accepted=True)
LEAVE = Step(Action.LEAVE)
DELETE = Step(Action.DELETE)
PROCESSED = Places(processed=landed("p"))
FAILED = Places(failed=landed("f"))
BOTH = Places(processed=landed("p"), failed=landed("f"))


@pytest.mark.parametrize("cause", [NONE, REMOVED, OVERLAPPED, ACCEPTED])
def test_what_is_incoming_is_taken_whatever_else_is_there(cause: Cause) -> None:
    alone = Places(incoming=landed("i", "v7"))
    assert next_step("docs/a.md", alone, cause) == Step(Action.TAKE, "v7")
    for places in (PROCESSED, FAILED, BOTH):
        more = replace(places, incoming=landed("i"))
        assert next_step("docs/a.md", more, cause) == Step(Action.TAKE, "i")


@pytest.mark.parametrize(
    ("places", "cause", "step"),
    [
        (PROCESSED, NONE, LEAVE),
        (PROCESSED, REMOVED, LEAVE),
        (PROCESSED, OVERLAPPED, Step(Action.CONFIRM, "p")),
        (BOTH, ACCEPTED, Step(Action.CONFIRM, "p")),
        (FAILED, NONE, LEAVE),
        (FAILED, OVERLAPPED, LEAVE),
        (FAILED, ACCEPTED, LEAVE),
        (FAILED, REMOVED, DELETE),
        (Places(), NONE, LEAVE),
        (Places(), OVERLAPPED, LEAVE),
        (Places(), ACCEPTED, DELETE),
        (Places(), REMOVED, DELETE),
    ],
)
def test_what_lies_where_and_why_one_looks_say_what_to_do(
    places: Places, cause: Cause, step: Step
) -> None:
    assert next_step("docs/a.md", places, cause) == step


def test_a_folder_made_in_a_console_is_no_document() -> None:
    folder = Places(incoming=landed(size=0))

    assert next_step("docs/", folder, NONE) == LEAVE
    assert next_step("docs/", Places(), REMOVED) == LEAVE
    assert next_step("docs/empty.md", folder, NONE).action is Action.TAKE
    assert next_step("docs/odd/", Places(incoming=landed(size=1)), NONE).action is Action.TAKE


# --- the adapter ---------------------------------------------------------------------------------


class Moving(S3Landing):
    """A file is copied to processed and then removed from incoming, just before the HEAD of
    incoming is answered; each HEAD takes its time."""

    def __init__(self) -> None:
        super().__init__(S3Bucket("b", timeout_seconds=1))
        self.there = {"incoming/docs/a.md"}

    async def _head(self, key: str) -> LandedObject | None:
        await asyncio.sleep(0)
        if key.startswith("incoming/"):
            await asyncio.sleep(0)
            self.there = {"processed/docs/a.md"}
        return landed() if key in self.there else None


async def test_a_file_under_way_is_never_seen_nowhere() -> None:
    assert await Moving().look("docs/a.md") == Places(processed=landed())


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", Area)
def test_a_key_names_its_object(area: Area) -> None:
    key = key_of("some/prefix/", area, "docs/a b.md")

    assert place_of("some/prefix/", key) == (area, "docs/a b.md")
    assert place_of("", key) is None


@pytest.mark.parametrize(
    "key", ["incoming/", "incoming", "other/docs/a", "failed/docs/a.md.error.json", ""]
)
def test_other_keys_name_nothing(key: str) -> None:
    assert place_of("", key) is None


def test_a_document_may_be_called_like_a_reason() -> None:
    assert place_of("", "incoming/docs/a.error.json") == (Area.INCOMING, "docs/a.error.json")


def test_a_reason_lies_beside_what_failed() -> None:
    assert reason_key("p/", "docs/a.md") == "p/failed/docs/a.md.error.json"


def test_a_reason_has_a_key_of_its_own_however_long_the_name() -> None:
    names = [f"docs/{'ä' * 500}{ending}" for ending in ("aaaa", "bbbb")]

    keys = {reason_key("", name) for name in names}

    assert len(keys) == 2
    assert all(len(key.encode()) <= MAX_KEY_BYTES for key in keys)
    assert all(key.startswith("failed/docs/ää") and key.endswith(".error.json") for key in keys)


def test_the_longest_name_fits_into_processed() -> None:
    name = "d" * longest_name_bytes("p/")

    assert len(key_of("p/", Area.PROCESSED, name)) == MAX_KEY_BYTES


# --- notifications -------------------------------------------------------------------------------


def names(message: str, prefix: str = "") -> list[str]:
    return [notice.name for notice in notices_in(message, "b", prefix)]


def record(key: str, bucket: str = "b", event: str = "ObjectCreated:Put") -> dict[str, object]:
    return {
        "eventSource": "aws:s3",
        "eventName": event,
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 5}},
    }


def test_a_message_may_tell_of_several_objects_and_keys_are_decoded() -> None:
    keys = [
        "incoming/docs/a+b%2Bc.md",
        "processed/docs/%C3%A4+100%25.md",
        "incoming/docs/a+b%2Bc.md",
        "failed/docs/x.md",
        "failed/docs/x.md.error.json",
        "elsewhere/docs/y.md",
    ]
    message = json.dumps({"Records": [record(key) for key in keys]})

    assert names(message) == ["docs/a b+c.md", "docs/ä 100%.md", "docs/x.md"]


def test_another_bucket_or_prefix_is_not_ours() -> None:
    message = json.dumps({"Records": [record("incoming/d/a", "other"), record("p/incoming/d/b")]})

    assert names(message) == []
    assert names(message, "p/") == ["d/b"]


@pytest.mark.parametrize(
    ("event", "area", "removed"),
    [
        ("ObjectRemoved:Delete", "processed", True),
        ("ObjectRemoved:DeleteMarkerCreated", "processed", True),
        ("s3:ObjectRemoved:Delete", "processed", True),
        ("ObjectRemoved:Delete", "incoming", False),
        ("ObjectRemoved:Delete", "failed", False),
        ("LifecycleExpiration:Delete", "processed", False),
        ("LifecycleExpiration:DeleteMarkerCreated", "processed", False),
        ("s3:LifecycleExpiration:Delete", "processed", False),
        ("ObjectCreated:Put", "processed", False),
        ("ObjectTagging:Put", "processed", False),
    ],
)
def test_only_who_removes_a_processed_object_removes(event: str, area: str, removed: bool) -> None:
    message = json.dumps({"Records": [record(f"{area}/d/a", event=event)]})

    assert notices_in(message, "b", "") == [Notice("d/a", removed)]


def test_a_removal_counts_wherever_it_stands_in_a_message() -> None:
    told = [("incoming/d/a", "ObjectCreated:Put"), ("processed/d/a", "ObjectRemoved:Delete")]
    for order in (told, told[::-1]):
        message = json.dumps({"Records": [record(key, event=event) for key, event in order]})
        assert notices_in(message, "b", "") == [Notice("d/a", removed=True)]


@pytest.mark.parametrize(
    ("kind", "reason", "area", "removed"),
    [
        ("Object Deleted", "DeleteObject", "processed", True),
        ("Object Deleted", "Lifecycle Expiration", "processed", False),
        ("Object Deleted", "DeleteObject", "failed", False),
        ("Object Deleted", "DeleteObject", "incoming", False),
        ("Object Created", "PutObject", "processed", False),
    ],
)
def test_eventbridge_tells_why_an_object_was_deleted(
    kind: str, reason: str, area: str, removed: bool
) -> None:
    detail = {"bucket": {"name": "b"}, "object": {"key": f"{area}/d/a"}, "reason": reason}
    message = {"source": "aws.s3", "detail-type": kind, "detail": detail}

    assert notices_in(json.dumps(message), "b", "") == [Notice("d/a", removed)]


def test_the_test_event_names_nothing() -> None:
    message = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}

    assert names(json.dumps(message)) == []


def test_eventbridge_does_not_encode_keys() -> None:
    detail = {"bucket": {"name": "b"}, "object": {"key": "incoming/docs/a+b%20c.md"}}
    message = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}

    assert names(json.dumps(message)) == ["docs/a+b%20c.md"]


@pytest.mark.parametrize(
    "message",
    [
        "", "[]", "7", "{}", '{"Records": 7}', '{"Records": [{"s3": {}}]}', "[" * 100_000,
        json.dumps({"Records": [record("incoming/docs/%FF")]}),
        '{"source": "aws.s3"}',
    ],
)  # fmt: skip
def test_what_s3_did_not_send_is_refused(message: str) -> None:
    with pytest.raises(NotANotificationError):
        notices_in(message, "b", "")


# --- metadata ------------------------------------------------------------------------------------


def test_metadata_that_is_not_ascii_is_decoded() -> None:
    given = {
        "plain": "a=?b",
        "umlaut": "=?UTF-8?B?w7xiZXI=?=",
        "quoted": "=?utf-8?q?stra=C3=9Fe?=",
        "odd": "=?no-such-charset?q?x?=",
    }

    assert decoded_metadata(given) == {
        "plain": "a=?b",
        "umlaut": "über",
        "quoted": "straße",
        "odd": "=?no-such-charset?q?x?=",
    }
