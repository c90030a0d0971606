"""Real answers read by the models that the description declares for them, and by nothing looser:
members that are not declared, and values that would have to be converted, are errors."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter

from common.api import changes, dead_letters, documents, problems, scrubs, search, service
from common.api.base import Answer, Body, Metadata
from common.settings import Settings
from webhook.openapi import document

DESCRIBED = document(Settings(_env_file=None))
SCHEMAS: dict[str, Any] = DESCRIBED["components"]["schemas"]
MODULES = (changes, dead_letters, documents, problems, scrubs, search, service)
NAMED_UNIONS = (Metadata, changes.ListResult, changes.LineResult, scrubs.ScrubLine)


def models() -> dict[str, Any]:
    """Of the API, by name."""
    found: dict[str, Any] = {union.__name__: union for union in NAMED_UNIONS}
    for value in (value for module in MODULES for value in vars(module).values()):
        is_model = isinstance(value, type) and issubclass(value, BaseModel)
        if is_model and value not in (Answer, Body):
            found[value.__name__] = value
    return found


MODELS = models()


def declared(route: str, status: int, media_type: str) -> Any:
    """The schema of an answer of `GET /v1/…/{name}`. Fails where none is declared."""
    method, path = route.split(" ", maxsplit=1)
    responses = DESCRIBED["paths"][path][method.lower()]["responses"]
    response = responses.get(str(status), responses["default"])
    if "$ref" in response:
        response = DESCRIBED["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return response["content"][media_type]["schema"]


def names_in(schema: Any) -> list[str]:
    """Of the models that a schema refers to; no other schema of an answer is allowed."""
    refs = [one["$ref"] for one in schema.get("oneOf", [schema])]
    return [ref.removeprefix("#/components/schemas/") for ref in refs]


def read(route: str, status: int, media_type: str, body: bytes) -> list[BaseModel]:
    """The answer, or each line of it, by its model. Raises if it is not one."""
    schema = declared(route, status, media_type)
    validator = Draft202012Validator({**schema, "components": {"schemas": closed()}})
    adapter = _adapter(tuple(names_in(schema)))
    lines = body.splitlines() if media_type == "application/x-ndjson" else [body]
    for line in lines:
        validator.validate(_json(line))
    return [adapter.validate_json(line, strict=True, extra="forbid") for line in lines]


@functools.cache
def _adapter(names: tuple[str, ...]) -> TypeAdapter[Any]:
    return TypeAdapter(functools.reduce(operator.or_, (MODELS[name] for name in names)))


def _json(line: bytes) -> Any:
    return TypeAdapter(Any).validate_json(line)


@functools.cache
def closed() -> Any:
    """The schemas without room for more members."""
    schemas = copy.deepcopy(SCHEMAS)
    for schema in schemas.values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return schemas


def objects_in(value: Any, path: str = "") -> Iterator[str]:
    """Where schemas of objects with fields of their own stand."""
    if isinstance(value, dict):
        if isinstance(value.get("properties"), dict):
            yield path
        for name, item in value.items():
            yield from objects_in(item, f"{path}/{name}")
    elif isinstance(value, list):
        for item in value:
            yield from objects_in(item, path)
