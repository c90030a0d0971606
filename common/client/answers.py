"""Answers as values: what an error says, what a body holds. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import ValidationError

from common.client.errors import JSON, ApiError, Problem, error_of
from common.client.results import Answer, ChangeRefused, ChangeResult

A = TypeVar("A", bound=Answer)


def json_of(raw: bytes, status: int, url: str) -> JSON:
    """The object in a body. Raises ApiError for anything else."""
    value = _object(raw)
    if value is None:
        raise not_ours(url, status)
    return value


def model_of(kind: type[A], value: Mapping[str, Any], status: int, url: str) -> A:
    """Raises ApiError for what is not of this kind."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise not_ours(url, status) from error


def not_ours(url: str, status: int) -> ApiError:
    title = f"what answers at {url} does not speak BloomWeaver's API"
    return ApiError(Problem(status=status, title=title))


def refusal(raw: bytes, status: int, reason: str, headers: Mapping[str, str]) -> ApiError:
    """The problem+json of an error answer, or what can be said without one."""
    value = _object(raw) or {}
    value.setdefault("title", _title(status, reason, headers))
    value.setdefault("detail", _message(value))
    value.setdefault("retry_after_seconds", headers.get("Retry-After"))
    value.setdefault("request_id", headers.get("X-Request-Id"))
    return error_of(Problem.from_json(value, status))


def answer_lost(status: int) -> ApiError:
    """Of a list that is sent again after its answer was lost, which the service did not keep."""
    title = "accepted before; its results were too large to be kept"
    detail = f"{title}: ask for the documents to see what became of each change"
    return ApiError(Problem(status=status, title=title, detail=detail))


def _message(value: Mapping[str, Any]) -> str:
    """What gateways and proxies say, which do not know of problems."""
    said = (value.get(name) for name in ("message", "Message", "error_description", "error"))
    return next((text for text in said if isinstance(text, str)), "")


def _title(status: int, reason: str, headers: Mapping[str, str]) -> str:
    told = f"{status} {reason}".strip()
    if status < HTTPStatus.BAD_REQUEST and "Location" in headers:
        return f"{told}: set BLOOMWEAVER_URL to where it is, {headers['Location']}"
    return told


def result_of(value: Mapping[str, Any], line: int, url: str) -> ChangeResult | ChangeRefused:
    """Of one change of a list or a feed."""
    if (error := value.get("error")) is not None:
        return ChangeRefused(line=line, problem=problem_in(error))
    return model_of(ChangeResult, {**value, "line": line}, HTTPStatus.ACCEPTED, url)


def problem_in(value: object) -> Problem:
    return Problem.from_json(value if isinstance(value, Mapping) else {"title": str(value)})


def _object(raw: bytes) -> JSON | None:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
