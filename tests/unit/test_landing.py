"""What lies where, what follows from it, and what notifications name."""

from __future__ import annotations

import json

import pytest

from common.landing import (
    MAX_KEY_BYTES,
    Action,
    NotANotificationError,
    Step,
    decoded_metadata,
    key_of,
    longest_name_bytes,
    name_of,
    names_in,
    next_step,
    reason_key,
)
from common.ports.landing import Area, LandedObject, Places


def landed(etag: str = "e1", version_id: str | None = None, size: int = 5) -> LandedObject:
    return LandedObject(etag=etag, version_id=version_id, size_bytes=size, metadata={})


@pytest.mark.parametrize(
    ("places", "step"),
    [
        (Places(incoming=landed("i", "v7")), Step(Action.TAKE, "v7")),
        (Places(incoming=landed("i"), processed=landed("p")), Step(Action.TAKE, "i")),
        (Places(incoming=landed("i"), failed=landed("f")), Step(Action.TAKE, "i")),
        (Places(processed=landed("p")), Step(Action.CONFIRM, "p")),
        (Places(processed=landed("p"), failed=landed("f")), Step(Action.CONFIRM, "p")),
        (Places(failed=landed("f")), Step(Action.LEAVE)),
        (Places(), Step(Action.DELETE)),
    ],
)
def test_what_lies_where_says_what_to_do(places: Places, step: Step) -> None:
    assert next_step("docs/a.md", places) == step


def test_a_folder_made_in_a_console_is_no_document() -> None:
    folder = Places(incoming=landed(size=0))

    assert next_step("docs/", folder) == Step(Action.LEAVE)
    assert next_step("docs/", Places()) == Step(Action.LEAVE)
    assert next_step("docs/empty.md", folder).action is Action.TAKE
    assert next_step("docs/odd/", Places(incoming=landed(size=1))).action is Action.TAKE


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", Area)
def test_a_key_names_its_object(area: Area) -> None:
    key = key_of("some/prefix/", area, "docs/a b.md")

    assert name_of("some/prefix/", key) == "docs/a b.md"
    assert name_of("", key) is None


@pytest.mark.parametrize(
    "key", ["incoming/", "incoming", "other/docs/a", "failed/docs/a.md.error.json", ""]
)
def test_other_keys_name_nothing(key: str) -> None:
    assert name_of("", key) is None


def test_a_document_may_be_called_like_a_reason() -> None:
    assert name_of("", "incoming/docs/a.error.json") == "docs/a.error.json"


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


def record(key: str, bucket: str = "b") -> dict[str, object]:
    return {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
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

    assert names_in(message, "b", "") == ["docs/a b+c.md", "docs/ä 100%.md", "docs/x.md"]


def test_another_bucket_or_prefix_is_not_ours() -> None:
    message = json.dumps({"Records": [record("incoming/d/a", "other"), record("p/incoming/d/b")]})

    assert names_in(message, "b", "") == []
    assert names_in(message, "b", "p/") == ["d/b"]


def test_the_test_event_names_nothing() -> None:
    message = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}

    assert names_in(json.dumps(message), "b", "") == []


def test_eventbridge_does_not_encode_keys() -> None:
    detail = {"bucket": {"name": "b"}, "object": {"key": "incoming/docs/a+b%20c.md"}}
    message = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}

    assert names_in(json.dumps(message), "b", "") == ["docs/a+b%20c.md"]


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
        names_in(message, "b", "")


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
