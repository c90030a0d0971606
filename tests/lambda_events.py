"""Events as AWS sends them: recorded shapes from tests/data/lambda, filled in for a test."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHAPES = Path(__file__).parent / "data" / "lambda"
Event = dict[str, Any]


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
    a function URL does not. A body that is no text comes as base64."""
    event = shape("http_api_v2")
    path, _, query = target.partition("?")
    raw_path = gateway_path(path) if decoded else path
    event["rawPath"] = raw_path if stage == "$default" else f"/{stage}{raw_path}"
    event["rawQueryString"] = query
    event["headers"] |= {k.lower(): v for k, v in (headers or {}).items()}
    event["requestContext"] |= {"stage": stage}
    event["requestContext"]["http"] |= {"method": method, "path": event["rawPath"]}
    if body is not None:
        event["headers"]["content-length"] = str(len(body))
        event |= _body(body)
    return event


def _body(body: bytes) -> Event:
    try:
        return {"body": body.decode(), "isBase64Encoded": False}
    except UnicodeDecodeError:
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
    """A message that nobody of this project sent needs no attributes of its own."""
    record: Event = copy.deepcopy(shape("sqs_batch")["Records"][0])
    record["messageId"] = f"059f36b4-87a3-44ab-83d2-{number:012d}"
    record["receiptHandle"] = f"AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a{number}"
    record["messageAttributes"]["message_id"]["stringValue"] = f"{number:030x}"
    record["attributes"]["ApproximateReceiveCount"] = str(receive_count)
    return {**record, "body": body}


def failed(answer: Event) -> list[str]:
    """The ids of the records that a function named as failed."""
    return [item["itemIdentifier"] for item in answer["batchItemFailures"]]
