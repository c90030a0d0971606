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
from common.ports.landing import Area, Notice, Places

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
    """The document stays as it is."""
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Step:
    """`revision` of the object it is about; empty for none. Equal steps need not be done twice."""

    action: Action
    revision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a name is looked at. Of itself, what lies where says nothing about a document that also
    the API may change: an event may be late, or repeated."""

    removed: bool = False
    """The event tells that someone removed the processed object."""
    overlapped: bool = False
    """Who looks has changed the document in this very run, or met an object that moved on: the
    document may have got older bytes after the newer ones."""
    accepted: bool = False
    """Who looks has made the document from an object in this very run."""


def next_step(name: str, places: Places, cause: Cause) -> Step:
    if places.incoming is not None and not is_folder(name, places.incoming.size_bytes):
        return Step(Action.TAKE, places.incoming.revision)
    if places.processed is not None:
        confirm = Step(Action.CONFIRM, places.processed.revision)
        return confirm if cause.overlapped else Step(Action.LEAVE)
    if name.endswith("/"):
        return Step(Action.LEAVE)
    # What this run accepted and is nowhere any more was removed while it was being accepted.
    withdrawn = cause.accepted and places.failed is None
    return Step(Action.DELETE) if cause.removed or withdrawn else Step(Action.LEAVE)


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


def place_of(prefix: str, key: str) -> tuple[Area, str] | None:
    """The area and the name within it; None for keys that stand for no document."""
    for area in Area:
        start = key_of(prefix, area, "")
        if key.startswith(start):
            name = key.removeprefix(start)
            reason = area is Area.FAILED and key.endswith(REASON_SUFFIX)
            return (area, name) if name and not reason else None
    return None


def waiting_name(prefix: str, key: str, size_bytes: int) -> str | None:
    """Of an object that a listing of incoming found; None for one that stands for no document."""
    place = place_of(prefix, key)
    if place is None or place[0] is not Area.INCOMING or is_folder(place[1], size_bytes):
        return None
    return place[1]


# --- notifications -------------------------------------------------------------------------------


def notices_in(message: str, bucket: str, prefix: str) -> list[Notice]:
    """From S3's own notifications and from EventBridge's, each name once, in order.

    Raises NotANotificationError. S3's test event, and objects elsewhere, name nothing.
    """
    removed: dict[str, bool] = {}
    for event in _events_in(_parsed(message)):
        place = place_of(prefix, event.key) if event.bucket == bucket else None
        if place is not None:
            area, name = place
            gone = event.is_removal and area is Area.PROCESSED
            removed[name] = removed.get(name, False) or gone
    return [Notice(name, gone) for name, gone in removed.items()]


@dataclass(frozen=True, slots=True)
class _Event:
    """`is_removal`: by someone, not by a lifecycle rule."""

    bucket: str
    key: str
    is_removal: bool


def _parsed(message: str) -> dict[str, Any]:
    try:
        value = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise NotANotificationError(f"the message is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise NotANotificationError("the message is no JSON object")
    return value


def _events_in(value: dict[str, Any]) -> Iterator[_Event]:
    try:
        if value.get("Event") == "s3:TestEvent":
            return
        if value.get("source") == "aws.s3":  # EventBridge, which does not encode keys
            found = value["detail"]
            yield _Event(found["bucket"]["name"], found["object"]["key"], _bridged_removal(value))
            return
        for record in value["Records"]:
            found = record["s3"]
            key = unquote_plus(found["object"]["key"], errors="strict")
            yield _Event(found["bucket"]["name"], key, _is_removal(record))
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        kind = f"{type(error).__name__}: {error}"
        raise NotANotificationError(f"the message is no notification of S3: {kind}") from None


def _is_removal(record: Mapping[str, Any]) -> bool:
    """A lifecycle rule's are called LifecycleExpiration:…"""
    return str(record.get("eventName", "")).removeprefix("s3:").startswith("ObjectRemoved:")


def _bridged_removal(value: Mapping[str, Any]) -> bool:
    """EventBridge calls both the same, and tells the reason beside."""
    by_someone = value["detail"].get("reason") != "Lifecycle Expiration"
    return value.get("detail-type") == "Object Deleted" and by_someone


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
