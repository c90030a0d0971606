"""The description is valid OpenAPI 3.1, and what it says of access, headers and fields is so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from common.access import Scope
from common.filters import FilterError
from common.settings import Settings
from tests.access import Keys, bearer
from tests.integration.test_http_api import DOCUMENTS, Api, insert, serving
from tests.pipeline import Pipeline, pipeline
from webhook.openapi import document
from webhook.problems import Problem
from webhook.search_route import search_request_of
from webhook.validation import FIELDS, change_of

SETTINGS = Settings(_env_file=None)
DESCRIBED = document(SETTINGS)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DESCRIBED["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def named(path: str) -> str:
    for part in ("namespace", "document_id", "message_id", "digest", "name"):
        path = path.replace(f"{{{part}}}", "docs" if part == "namespace" else "a")
    return path


def scope_in(operation: dict[str, Any]) -> Scope | None:
    told = operation.get("description", "")
    found = [scope for scope in Scope if f"Needs the scope `{scope}`" in told]
    return found[0] if found else None


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


def test_it_is_openapi() -> None:
    assert DESCRIBED["openapi"] == "3.1.0"
    assert [str(error) for error in OpenAPIV31SpecValidator(DESCRIBED).iter_errors()] == []


async def test_who_may_ask_is_as_it_says(flow: Pipeline) -> None:
    """Without a key 401, with all scopes but the one it names 403, with that one neither."""
    keys = Keys()
    scopes = set(Scope) - {Scope.ADMIN}
    async with serving(flow, authenticate=keys.doorman) as api:
        for method, path, operation in operations():
            if operation.get("security") == []:
                if not path.startswith("/v1/sources"):
                    assert await status_of(api, method, path) not in (401, 403), path
                continue
            needed = scope_in(operation)
            assert needed, path
            assert await status_of(api, method, path) == 401, path
            others = keys.made(scopes - {needed}, "*")
            assert await status_of(api, method, path, others) == 403, path
            assert await status_of(api, method, path, keys.made({needed}, "*")) not in (401, 403)
            assert {"401", "403", "429"} <= operation["responses"].keys()


async def status_of(api: Api, method: str, path: str, key: str | None = None) -> int:
    headers = {"Content-Type": "application/json", **(bearer(key) if key else {})}
    url = api.url(named(path))
    async with api.client.request(method, url, headers=headers, data=b"") as response:
        return response.status


def test_who_is_asked_depends_on_the_settings() -> None:
    def asked(auth: Any) -> Any:
        return document(Settings(_env_file=None, auth=auth))["security"]

    assert asked("required") == [{"bearer": []}, {"key": []}]
    assert {} in asked("auto")
    schemes = DESCRIBED["components"]["securitySchemes"]
    assert (schemes["bearer"]["scheme"], schemes["key"]["name"]) == ("bearer", "X-API-Key")


def parameters_of(method: str, path: str) -> set[str]:
    return {one["name"] for one in DESCRIBED["paths"][path][method]["parameters"]}


def test_conditions_and_keys_are_described() -> None:
    one = "/v1/namespaces/{namespace}/documents/{document_id}"
    for method in ("put", "delete"):
        assert {"If-Match", "If-None-Match", "Idempotency-Key"} <= parameters_of(method, one)
        assert {"202", "409", "412"} <= DESCRIBED["paths"][one][method]["responses"].keys()
    assert "Idempotency-Key" in parameters_of("post", "/v1/changes")
    for path in (one, f"{one}/content"):
        assert "If-None-Match" in parameters_of("get", path)
        assert {"200", "304"} <= DESCRIBED["paths"][path]["get"]["responses"].keys()


async def test_headers_of_answers_are_described(flow: Pipeline) -> None:
    async with serving(flow) as api:
        await api.change(insert())
        async with api.client.get(f"{DOCUMENTS}/a") as response:
            sent = {name.lower() for name in response.headers}
    one = "/v1/namespaces/{namespace}/documents/{document_id}"
    told = DESCRIBED["paths"][one]["get"]["responses"]["200"]["headers"]
    assert {name.lower() for name in told} <= sent


# --- what is validated ---------------------------------------------------------------------------

CHANGE = Draft202012Validator({**DESCRIBED["components"]["schemas"]["Change"], **DESCRIBED})


def test_every_field_is_described() -> None:
    assert set(DESCRIBED["components"]["schemas"]["Change"]["properties"]) == set(FIELDS)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"namespace": "a.b-c_1"},
        {"namespace": "-a"},
        {"namespace": "a" * 129},
        {"namespace": 1},
        {"document_id": ""},
        {"document_id": 1},
        {"content": 1},
        {"change_type": "upsert"},
        {"content_encoding": "latin-1"},
        {"content_type": 1},
        {"metadata": {"a": "b", "n": 1, "f": 1.5, "t": True, "l": ["x"]}},
        {"metadata": {"a": {"b": 1}}},
        {"metadata": {"a": [1]}},
        {"metadata": {"a": None}},
        {"metadata": []},
        {"metadata": {f"{n}": n for n in range(65)}},
        {"source_version": 0},
        {"source_version": -1},
        {"source_version": 2**63},
        {"source_version": 1.5},
        {"source_version": "1"},
        {"if_version": 3},
        {"if_version": -1},
        {"doc_hash": "x"},
        {"colour": 1},
    ],
)
def test_what_the_schema_takes_is_taken(more: dict[str, Any]) -> None:
    """And what it refuses is refused."""
    value = {**insert(), **more}
    try:
        change_of(value, SETTINGS)
        taken = True
    except Problem:
        taken = False
    assert CHANGE.is_valid(value) is taken


_SEARCH = DESCRIBED["paths"]["/v1/namespaces/{namespace}/search"]["post"]
QUESTION = Draft202012Validator(
    {**_SEARCH["requestBody"]["content"]["application/json"]["schema"], **DESCRIBED}
)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"query": ""},
        {"query": None},
        {"top_k": 1},
        {"top_k": 0},
        {"top_k": 1001},
        {"top_k": "5"},
        {"filter": {"lang": {"$eq": "en"}}},
        {"filter": []},
        {"min_version": {"a": 3}},
        {"min_version": {"a": -1}},
        {"min_version": {"a": "3"}},
        {"min_version": [3]},
        {"wait": 2.5},
        {"wait": -1},
        {"wait": 301},
        {"colour": 1},
    ],
)
def test_questions_that_the_schema_takes_are_taken(more: dict[str, Any]) -> None:
    value = {"query": "how?", **more}
    try:
        search_request_of(value, "docs", SETTINGS)
        taken = True
    except (Problem, FilterError):
        taken = False
    assert QUESTION.is_valid(value) is taken
