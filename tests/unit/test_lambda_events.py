"""The shapes of tests/events mean what their README says."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from common.adapters.queue.sqs_messages import opened
from common.lambda_sqs import message_of, records_of
from common.landing import notices_in
from common.model import QueueName
from common.ports.landing import Notice
from tests.lambda_events import SHAPES, shape
from webhook.lambda_http import request_of

BUCKET = "bloomweaver-landing"
BATCHES = ["sqs_wake_ups", "sqs_s3_notification"]


@pytest.mark.parametrize(
    ("name", "method", "target"),
    [
        ("http_api_no_body", "GET", "/v1/stats"),
        (
            "http_api_query_cookies_jwt", "GET",
            "/v1/namespaces/docs/documents?limit=5&limit=2&prefix=guide%2Fa%20b",
        ),
        ("http_api_text_body_iam", "POST", "/v1/changes"),
        (
            "http_api_base64_body_lambda", "PUT",
            "/v1/namespaces/docs/documents/scan%207/%C3%BCbersicht.pdf"
            "?metadata=%7B%22team%22%3A%22a%20b%22%7D&source_version=3",
        ),
        (
            "function_url", "PUT",
            "/v1/namespaces/docs/documents/100%25%20plain/a%2Fb.txt"
            "?metadata=%7B%22x%22%3A%22a+b%2Bc%22%7D",
        ),
    ],
)  # fmt: skip
def test_requests_are_what_their_clients_sent(name: str, method: str, target: str) -> None:
    event = shape(name)
    request = request_of(event)
    assert (request.method, request.target) == (method, target)
    length = int(event["headers"]["content-length"])
    assert len(request.body or b"") == length
    assert request.headers["host"] == event["requestContext"]["domainName"]


def test_cookies_become_a_header() -> None:
    headers = request_of(shape("http_api_query_cookies_jwt")).headers
    assert headers["cookie"] == "session=4f2c; theme=dark"


def test_messages_carry_what_their_senders_gave_them() -> None:
    first, again, redriven, by_hand = (
        opened(message_of(record), QueueName.CREATE) for record in records_of(shape("sqs_wake_ups"))
    )
    assert [m.wake_up().document_id for m in (first, again, redriven, by_hand)] == [
        "a.md", "guide/b c.md", "c.md", "d.md",
    ]  # fmt: skip
    assert [m.receive_count for m in (first, again, redriven, by_hand)] == [2, 2, 1, 1]
    assert first.traceparent == first.wake_up().traceparent
    assert (first.sent_at, by_hand.sent_at) == (1795277038.59, 1795277039.29)
    assert by_hand.message_id == shape("sqs_wake_ups")["Records"][3]["messageId"]


def test_a_null_is_no_text() -> None:
    """Lambda writes one for what an attribute has not, where it writes it at all."""
    redriven = shape("sqs_wake_ups")["Records"][2]
    assert redriven["messageAttributes"]["_agent"]["stringValue"] is None
    assert message_of(redriven)["MessageAttributes"]["_agent"]["StringValue"] == ""


@pytest.mark.parametrize("name", BATCHES)
def test_digests_are_those_of_the_bodies(name: str) -> None:
    for record in shape(name)["Records"]:
        digest = hashlib.md5(record["body"].encode(), usedforsecurity=False).hexdigest()
        assert record["md5OfBody"] == digest


@pytest.mark.parametrize(
    ("name", "notices"),
    [
        ("s3_object_created_put", [Notice("docs/a file @home.md", removed=False)]),
        ("s3_object_created_multipart", [Notice("docs/größe 100%.md", removed=False)]),
        ("s3_object_removed", [Notice("docs/old.md", removed=True)]),
        ("s3_delete_marker_created", [Notice("docs/older.md", removed=True)]),
        ("s3_lifecycle_expiration", [Notice("docs/expired.md", removed=False)]),
        ("s3_object_tagging", [Notice("docs/kept.md", removed=False)]),
        ("s3_test_event", []),
        ("eventbridge_s3_created", [Notice("docs/a+b %20c.md", removed=False)]),
        ("eventbridge_s3_deleted", [Notice("docs/old b.md", removed=True)]),
        ("eventbridge_s3_expired", [Notice("docs/expired b.md", removed=False)]),
    ],
)
def test_notifications_name_their_objects(name: str, notices: list[Notice]) -> None:
    assert notices_in(json.dumps(shape(name)), BUCKET, "") == notices


def test_the_notification_in_a_batch_is_that_of_the_object() -> None:
    (record,) = records_of(shape("sqs_s3_notification"))
    told: dict[str, Any] = json.loads(record["body"])
    assert told == shape("s3_object_created_put")


def test_every_shape_is_described() -> None:
    described = (SHAPES / "README.md").read_text()
    assert [path.name for path in SHAPES.glob("*.json") if path.name not in described] == []
