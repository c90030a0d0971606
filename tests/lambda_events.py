"""Events as AWS sends them: the shapes of tests/events, filled in for a test."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

SHAPES = Path(__file__).parent / "events"
REQUEST_ID = "EctK47acrF_ze2I"
"""Of `http_event`, less its padding."""
Event = dict[str, Any]

_KNOWN_TEXT = re.compile(r"text/|application/(?:json|xml|javascript)\b")


@dataclass
class FunctionContext:
    """The part of Lambda's context object that is used."""

    remaining_seconds: float = 30.0

    def get_remaining_time_in_millis(self) -> int:
        return int(self.remaining_seconds * 1000)


def shape(name: str) -> Event:
    event: Event = json.loads((SHAPES / f"{name}.json").read_text())
    return event


def http_event(
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    stage: str = "$default",
    decoded: bool = True,
) -> Event:
    """A request for `target`, as the client wrote it. An HTTP API decodes the path (`decoded`),
    a function URL does not."""
    event = shape("http_api_no_body")
    path, _, query = target.partition("?")
    raw_path = gateway_path(path) if decoded else path
    event["rawPath"] = raw_path if stage == "$default" else f"/{stage}{raw_path}"
    event["rawQueryString"] = query
    event["headers"] |= {k.lower(): v for k, v in (headers or {}).items()}
    event["requestContext"] |= {"stage": stage}
    event["requestContext"]["http"] |= {"method": method, "path": event["rawPath"]}
    if query:
        event["queryStringParameters"] = _joined(query)
    if body:
        event["headers"]["content-length"] = str(len(body))
        event |= _body(body, event["headers"].get("content-type", ""))
    return event


def _joined(query: str) -> dict[str, str]:
    """Decoded; the values of one name with commas between them."""
    joined: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _body(body: bytes, content_type: str) -> Event:
    """As it is where the type says that it is text; otherwise, and without a type, as base64."""
    if _KNOWN_TEXT.match(content_type):
        with contextlib.suppress(UnicodeDecodeError):
            return {"body": body.decode(), "isBase64Encoded": False}
    return {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}


def gateway_path(path: str) -> str:
    """An HTTP API decodes every percent-escape of a path but %25."""
    runs = re.compile(r"(?:%(?!25)[0-9A-Fa-f]{2})+")
    return runs.sub(lambda run: bytes.fromhex(run[0].replace("%", "")).decode(), path)


def body_of(answer: Event) -> bytes:
    """What API Gateway would send to the client."""
    body: str = answer["body"]
    return base64.b64decode(body) if answer["isBase64Encoded"] else body.encode()


def sqs_event(*records: Event) -> Event:
    return {"Records": list(records)}


def sqs_record(body: str, number: int = 0, *, receive_count: int = 1) -> Event:
    """A message that a consumer sent."""
    record: Event = _with_body(shape("sqs_wake_ups")["Records"][0], body, number)
    record["messageAttributes"]["message_id"]["stringValue"] = f"{number:030x}"
    record["attributes"]["ApproximateReceiveCount"] = str(receive_count)
    return record


def told_by_s3(notification: Event, number: int = 0) -> Event:
    """A message that S3, or EventBridge, sent: without attributes of its own."""
    return _with_body(shape("sqs_s3_notification")["Records"][0], json.dumps(notification), number)


def _with_body(record: Event, body: str, number: int) -> Event:
    return record | {
        "messageId": f"{record['messageId'][:-12]}{number:012d}",
        "receiptHandle": f"{record['receiptHandle']}{number}",
        "body": body,
        "md5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
    }


def record_of(message: Any) -> Event:
    """What ReceiveMessage answered, in the form of the event."""
    record: Event = shape("sqs_wake_ups")["Records"][0]
    return record | {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "md5OfBody": message["MD5OfBody"],
        "md5OfMessageAttributes": message.get("MD5OfMessageAttributes"),
        "attributes": message["Attributes"],
        "messageAttributes": {
            name: {"stringValue": value["StringValue"], "stringListValues": [],
                   "binaryListValues": [], "dataType": value["DataType"]}
            for name, value in message.get("MessageAttributes", {}).items()
        },
    }  # fmt: skip


def failed(answer: Event) -> list[str]:
    """The ids of the records that a function named as failed."""
    return [item["itemIdentifier"] for item in answer["batchItemFailures"]]
