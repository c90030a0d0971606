"""What the service answers is what the models of `common.api` say, on every route; and what they
refuse, it refuses."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from common import model, scrubbing, transitions
from common.api import changes as api_changes
from common.api import service as api_service
from common.api.changes import Change, ChangeList, ChangeRefused, LineAccepted, LineRefused
from common.api.dead_letters import DeadLetterSelection
from common.api.problems import Problem as ProblemAnswer
from common.api.search import SearchRequest
from common.filters import FilterError
from common.settings import Settings
from tests import answers
from tests.access import bearer
from tests.integration.test_access_matrix import (
    DOCUMENT,
    LETTERS,
    ROUTES,
    STRANGER,
    Matrix,
    matrix,
)
from tests.integration.test_http_api import DOCUMENTS, NDJSON, Api, insert, is_problem, lines
from tests.integration.test_http_api import api as api  # noqa: PLC0414 - fixtures
from tests.integration.test_http_api import flow as flow  # noqa: PLC0414
from tests.integration.test_http_sources import sending
from tests.pipeline import Pipeline
from tests.properties.test_hostile_input import CHANGES, VALUES
from tests.source_files import SECRET, VARIABLE
from webhook.admission import REASONS, Refusal
from webhook.feed import STOPPING_SIGNAL
from webhook.models.limited import bodies_of
from webhook.openapi import ProblemType
from webhook.problems import Problem
from webhook.search_route import search_request_of
from webhook.validation import change_of, changes_of

LIMITS = Settings(_env_file=None)
JSON = "application/json"
ENUMS: tuple[type[StrEnum], ...] = (
    model.ChangeType, model.EventKind, model.QueueName, model.Status, transitions.Outcome,
    scrubbing.FindingKind, api_changes.ContentEncoding, api_service.RefusalReason, ProblemType,
)  # fmt: skip
NO_JSON = {
    "GET /metrics", "GET /docs", "GET /docs/{digest}/{name}", "GET /openapi.json",
    "GET /v1/namespaces/{namespace}/documents/{document_id}/content",
}  # fmt: skip


# --- the description -----------------------------------------------------------------------------


def test_each_schema_is_that_of_a_model_or_an_enum() -> None:
    enums = {enum.__name__: enum for enum in ENUMS}
    assert set(answers.SCHEMAS) == set(answers.MODELS) | set(enums)
    for name, enum in enums.items():
        assert answers.SCHEMAS[name]["enum"] == [member.value for member in enum]
    for name, found in answers.MODELS.items():
        properties = answers.SCHEMAS[name].get("properties", {})
        assert list(properties) == list(getattr(found, "model_fields", {})), name


def test_no_object_is_described_beside_them() -> None:
    described = {**answers.DESCRIBED, "components": {**answers.DESCRIBED["components"]}}
    del described["components"]["schemas"]
    assert list(answers.objects_in(described)) == []
    assert list(answers.objects_in({"/properties": {"properties": {}}})) == ["//properties"]


def test_operations_have_names_of_their_own() -> None:
    operations = [one for path in answers.DESCRIBED["paths"].values() for one in path.values()]
    names = [one["operationId"] for one in operations]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name[0].islower() for name in names)


def test_words_are_those_of_the_code() -> None:
    assert tuple(api_service.RefusalReason) == REASONS
    assert list(api_service.QueueDepths.model_fields) == list(model.QueueName)
    assert set(transitions.Outcome) < set(api_changes.Delivered.model_fields)


def test_limits_are_those_of_the_settings() -> None:
    def refusal(value: Any, **limits: Any) -> Problem:
        with pytest.raises(Problem) as caught:
            change_of(value, Settings(_env_file=None, **limits))
        return caught.value

    namespace = insert(namespace="n" * 9)
    assert refusal(namespace, max_namespace_bytes=8).limit == 8
    assert change_of(namespace, Settings(_env_file=None, max_namespace_bytes=9)).key.namespace
    metadata = insert(metadata={"a": 1, "b": 2})
    assert refusal(metadata, max_metadata_keys=1).limit == 1
    assert change_of(metadata, LIMITS).metadata == {"a": 1, "b": 2}


# --- answers -------------------------------------------------------------------------------------


async def test_every_route_answers_as_its_model_says(tmp_path: Path) -> None:
    read: dict[str, dict[int, Any]] = {route: {} for route in ROUTES}
    async with matrix(tmp_path) as made:
        for route in sorted(ROUTES, key=turn):
            for who in ("admin of docs", "admin", STRANGER):
                status, media_type, body = await ask(made, route, who)
                if media_type.endswith("json") and route != "GET /openapi.json":
                    for told in answers.read(route, status, media_type, body):
                        read[route][status] = told
    answered = {route: by for route, by in read.items() if by.keys() & {200, 202}}
    assert set(answered) == set(ROUTES) - NO_JSON
    assert isinstance(read["GET /metrics"][401], ProblemAnswer)
    assert answered[FOUND][200].hits
    assert answered["GET /v1/stats"][200].queues
    assert answered[f"GET {DOCUMENT}/chunks"][200].chunks
    assert answered[AUDIT][200].entries[0].sequence


FOUND, AUDIT = "POST /v1/namespaces/{namespace}/search", "GET /v1/audit"


def turn(route: str) -> int:
    """First those that change nothing, last what tells of those that do; and one letter is removed
    before all are."""
    if route == AUDIT:
        return 3
    if route.startswith("GET") or route == FOUND:
        return 0
    return 1 if "{message_id}" in route else 2


async def ask(made: Matrix, route: str, who: str) -> tuple[int, str, bytes]:
    asked = ROUTES[route]
    data = asked.body if isinstance(asked.body, str) else json.dumps(asked.body)
    async with made.api.client.request(
        route.split(" ", maxsplit=1)[0],
        asked.path.replace("LETTER", made.letter),
        data=None if asked.body is None else data,
        headers={**dict(asked.headers), **bearer(made.keys[who])},
    ) as response:
        return response.status, response.content_type, await response.read()


async def changes(api: Api, data: bytes, media_type: str) -> list[Any]:
    headers = {"Content-Type": media_type}
    async with api.client.post("/v1/changes", data=data, headers=headers) as response:
        body, kind = await response.read(), response.content_type
        return list(answers.read("POST /v1/changes", response.status, kind, body))


async def test_results_of_lists_and_feeds(api: Api) -> None:
    nothing = {"change_type": "update", "namespace": "docs", "document_id": "b", "content": "x"}
    ghost = {"change_type": "update", "namespace": "docs", "document_id": "c", "metadata": {}}
    listed = json.dumps({"changes": [insert(), nothing, ghost]}).encode()
    ((accepted, _, refused),) = [one.results for one in await changes(api, listed, JSON)]
    assert (accepted.outcome, accepted.version) == ("accepted", 1)
    assert isinstance(refused, ChangeRefused)
    assert refused.error.status == 404
    feed = await changes(api, lines(insert("d"), b"{", ghost), NDJSON["Content-Type"])
    assert [type(line) for line in feed] == [LineAccepted, LineRefused, LineRefused]
    assert [line.line for line in feed] == [1, 2, 3]
    api.runner.app[STOPPING_SIGNAL].set()
    (ended,) = await changes(api, lines(insert("e")), NDJSON["Content-Type"])
    assert (ended.feed_ended, ended.error.status) == (True, 503)


async def test_members_of_some_kinds_of_problems(api: Api) -> None:
    api.missing.append("the model")
    async with api.client.get("/readyz") as response:
        kind, body = response.content_type, await response.read()
    (problem,) = answers.read("GET /readyz", 503, kind, body)
    assert isinstance(problem, ProblemAnswer)
    assert problem.missing == ["the model"]
    headers = {"If-Match": '"v7"', "Content-Type": "text/plain"}
    route = "PUT /v1/namespaces/{namespace}/documents/{document_id}"
    async with api.client.put(f"{DOCUMENTS}/a", data=b"x", headers=headers) as response:
        kind, body = response.content_type, await response.read()
    (problem,) = answers.read(route, 412, kind, body)
    assert isinstance(problem, ProblemAnswer)
    assert problem.version == 0
    refusal = Refusal(reason="disk", detail="no room", limit=1, retry_after_seconds=30)
    text = json.dumps(refusal.problem().body())
    full = ProblemAnswer.model_validate_json(text, strict=True, extra="forbid")
    assert (full.reason, full.retry_after_seconds) == ("disk", 30)


async def test_a_delivery(flow: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    async with (
        sending(flow, tmp_path / "sources.yaml", None) as sender,
        sender.api.client.post("/v1/sources/local", json={"id": "a", "text": "x"}) as response,
    ):
        body = await response.read()
        (told,) = answers.read("POST /v1/sources/{name}", response.status, JSON, body)
    assert isinstance(told, api_changes.Delivered)
    assert (told.source, told.changes, told.accepted) == ("local", 1, 1)


# --- bodies --------------------------------------------------------------------------------------


def refuses(found: Any, value: Any) -> bool:
    try:
        TypeAdapter(found).validate_python(value)
    except ValidationError:
        return True
    return False


METADATA = st.dictionaries(st.sampled_from(["a", "b", "text"]), VALUES, max_size=2)


@given(CHANGES | VALUES | METADATA.map(lambda metadata: insert(metadata=metadata)))
def test_what_the_model_of_changes_refuses_is_refused(value: Any) -> None:
    """Metadata, too, which the service looks through by hand."""
    if refuses(Change, value):
        with pytest.raises(Problem):
            change_of(value, LIMITS)
    if refuses(ChangeList, {"changes": [value]}):
        with pytest.raises(Problem):
            changes_of({"changes": [value]}, LIMITS)


QUESTIONS = st.fixed_dictionaries(
    {"query": st.just("x") | VALUES},
    optional=dict.fromkeys(("top_k", "filter", "min_version", "wait", "other"), VALUES),
)


@given(QUESTIONS | VALUES)
def test_what_the_model_of_searches_refuses_is_refused(value: Any) -> None:
    if refuses(SearchRequest, value):
        with pytest.raises((Problem, FilterError)):
            search_request_of(value, "docs", LIMITS)


LETTERS_WANTED: list[tuple[Any, str, str]] = [
    ({}, "message_ids", "must be a list of strings"),
    ({"all": 1}, "all", "must be true"),
    ({"all": "true"}, "all", "must be true"),
    ({"all": True, "message_ids": []}, "all", "must be true"),
    ({"all": True, "namespace": 5}, "namespace", "must be a string"),
    ({"all": True, "document_id": []}, "document_id", "must be a string"),
    ({"namespace": "docs", "message_ids": []}, "namespace", 'goes with "all": true only'),
    ({"namespace": 5}, "namespace", 'goes with "all": true only'),
    ({"message_ids": ["a", 1]}, "message_ids", "must be a list of strings"),
    ({"message_ids": ["a"] * 10_001}, "message_ids", "has 10001 ids, the limit is 10000"),
    ({"all": True, "status": "x"}, "status", "there is no field"),
]


@pytest.mark.parametrize(("value", "field", "words"), LETTERS_WANTED)
async def test_selections_of_letters_that_are_none(
    api: Api, value: Any, field: str, words: str
) -> None:
    status, body = await api.post(f"{LETTERS}/redrive", value)
    slug = "unknown-field" if "there is no" in words else "invalid-field"
    assert is_problem(status, body, slug, field)
    assert words in body["detail"]


async def test_selections_of_letters(api: Api) -> None:
    taken: list[Any] = [{"all": True}, {"all": None, "message_ids": []}, {"message_ids": ["a"]}]
    for value in taken:
        assert not refuses(DeadLetterSelection, value)
        assert await api.post(f"{LETTERS}/redrive", value) == (200, {"redriven": 0})


async def test_scrubs_that_are_none(tmp_path: Path) -> None:
    refused: list[tuple[Any, str]] = [
        ({"repair": 1, "namespace": 5}, "repair"),
        ({"repair": True, "namespace": "-a"}, "namespace"),
        ({"namespace": 5}, "namespace"),
        ({"dry": True}, "dry"),
    ]
    async with matrix(tmp_path) as made:
        for value, field in refused:
            headers = bearer(made.keys["admin"])
            async with made.api.client.post("/v1/scrub", json=value, headers=headers) as response:
                status, body = response.status, await response.json(content_type=None)
            slug = "unknown-field" if field == "dry" else "invalid-field"
            assert is_problem(status, body, slug, field)


def test_models_are_made_once() -> None:
    """Also for other settings with the same limits."""
    other = Settings(_env_file=None)
    assert bodies_of(LIMITS) is bodies_of(other)
    assert bodies_of(Settings(_env_file=None, max_top_k=7)) is not bodies_of(LIMITS)
