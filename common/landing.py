"""The landing zone's rules: what lies where, what follows from it, and what notifications name.

Pure. A notification only names an object; what is to be done is read from the bucket, so that
duplicates, reorderings and the moves' own notifications need no special case.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.header import decode_header, make_header
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_plus

from common.ports.errors import PermanentError
from common.ports.landing import Area, Places

MAX_KEY_BYTES = 1024
"""Of an S3 key as UTF-8."""
REASON_SUFFIX = ".error.json"
_HASH_CHARACTERS = 16


class NotANotificationError(PermanentError):
    """A message that S3 did not send."""


class Action(StrEnum):
    TAKE = "take"
    """Incoming becomes the document, and moves to processed or to failed."""
    CONFIRM = "confirm"
    """The document is what was processed last."""
    LEAVE = "leave"
    """Only a failed one is there: the document stays as it is until that is mended or removed."""
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Step:
    """`revision` of the object it is about; empty for none. Equal steps need not be done twice."""

    action: Action
    revision: str = ""


def next_step(name: str, places: Places) -> Step:
    if places.incoming is not None and not is_folder(name, places.incoming.size_bytes):
        return Step(Action.TAKE, places.incoming.revision)
    if places.processed is not None:
        return Step(Action.CONFIRM, places.processed.revision)
    if places.failed is not None or name.endswith("/"):
        return Step(Action.LEAVE)
    return Step(Action.DELETE)


def is_folder(name: str, size_bytes: int) -> bool:
    """Consoles show folders by empty objects whose name ends in a slash."""
    return name.endswith("/") and size_bytes == 0


# --- keys ----------------------------------------------------------------------------------------


def key_of(prefix: str, area: Area, name: str) -> str:
    return f"{prefix}{area.value}/{name}"


def reason_key(prefix: str, name: str) -> str:
    """Beside the failed object. A name that leaves no room for the suffix is cut and hashed."""
    key = key_of(prefix, Area.FAILED, name) + REASON_SUFFIX
    if len(key.encode()) <= MAX_KEY_BYTES:
        return key
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARACTERS]
    ending = f"~{digest}{REASON_SUFFIX}"
    room = MAX_KEY_BYTES - len(ending)
    return key.encode()[:room].decode(errors="ignore") + ending


def longest_name_bytes(prefix: str) -> int:
    """Beyond it an object could be put into incoming, and moved nowhere."""
    return MAX_KEY_BYTES - len(key_of(prefix, Area.PROCESSED, "").encode())


def name_of(prefix: str, key: str) -> str | None:
    """The name within an area; None for keys that stand for no document."""
    for area in Area:
        start = key_of(prefix, area, "")
        if key.startswith(start):
            reason = area is Area.FAILED and key.endswith(REASON_SUFFIX)
            return None if reason else key.removeprefix(start) or None
    return None


# --- notifications -------------------------------------------------------------------------------


def names_in(message: str, bucket: str, prefix: str) -> list[str]:
    """From S3's own notifications and from EventBridge's, each name once, in order.

    Raises NotANotificationError. S3's test event, and objects elsewhere, name nothing.
    """
    names = (name_of(prefix, key) for found, key in _keys_in(_parsed(message)) if found == bucket)
    return list(dict.fromkeys(name for name in names if name))


def _parsed(message: str) -> dict[str, Any]:
    try:
        value = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise NotANotificationError(f"the message is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise NotANotificationError("the message is no JSON object")
    return value


def _keys_in(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Buckets and keys."""
    try:
        if value.get("Event") == "s3:TestEvent":
            return
        if value.get("source") == "aws.s3":  # EventBridge, which does not encode keys
            yield value["detail"]["bucket"]["name"], value["detail"]["object"]["key"]
            return
        for record in value["Records"]:
            found = record["s3"]
            yield found["bucket"]["name"], unquote_plus(found["object"]["key"], errors="strict")
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        kind = f"{type(error).__name__}: {error}"
        raise NotANotificationError(f"the message is no notification of S3: {kind}") from None


# --- metadata ------------------------------------------------------------------------------------


def decoded_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """S3 encodes what is not ASCII as mail headers do (RFC 2047)."""
    return {name: _decoded(value) for name, value in metadata.items()}


def _decoded(value: str) -> str:
    if "=?" not in value:
        return value
    try:
        return str(make_header(decode_header(value)))
    except (ValueError, LookupError):  # it only looks like one
        return value
