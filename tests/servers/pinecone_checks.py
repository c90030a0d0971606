"""What Pinecone requires of a request, and its limits. Strict: what is not known is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from tests.servers.pinecone_errors import RefusedError
from tests.servers.pinecone_filters import check_filter
from tests.servers.pinecone_store import Stored

MAX_REQUEST_BYTES = 2_000_000
MAX_UPSERT_RECORDS = 1000
MAX_METADATA_BYTES = 40_000
"""Of a record, as compact JSON. Where a limit can be read in two ways it is the smaller one."""
MAX_ID_CHARACTERS = 512
MAX_IDS = 1000
MAX_TOP_K = 10_000
MAX_PAGE = 100


def parsed(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_REQUEST_BYTES:
        raise RefusedError(413, f"Request size {len(data)} exceeds {MAX_REQUEST_BYTES} bytes")
    try:
        body = json.loads(data, parse_constant=_refuse_constant)
    except ValueError as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "the body must be an object")
    return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def members(body: Mapping[str, Any], required: Collection[str], optional: Collection[str]) -> None:
    for name in required:
        if name not in body:
            raise RefusedError(400, f"{name} is required")
    for name in body:
        if name not in required and name not in optional:
            raise RefusedError(400, f"unknown member {name}")


def namespace_of(body: Mapping[str, Any]) -> str:
    """The default namespace has two names."""
    name = body.get("namespace", "")
    if not isinstance(name, str) or not name.isascii() or "\0" in name:
        raise RefusedError(400, f"namespace must be an ASCII string, not {name!r}")
    return "" if name == "__default__" else name


def record_id(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_CHARACTERS:
        raise RefusedError(400, f"an id is a string of 1 to {MAX_ID_CHARACTERS} characters")
    if not value.isascii() or "\0" in value:
        raise RefusedError(400, f"an id must be ASCII, not {value!r}")
    return value


def record_ids(value: Any) -> list[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_IDS:
        raise RefusedError(400, f"1 to {MAX_IDS} ids are required")
    return [record_id(item) for item in value]


def vector(value: Any, dimension: int) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(_finite(item) for item in value):
        raise RefusedError(400, "a vector is a list of finite numbers")
    if len(value) != dimension:
        raise RefusedError(
            400,
            f"Vector dimension {len(value)} does not match the dimension of the index {dimension}",
        )
    if not any(value):
        raise RefusedError(400, "Dense vectors must contain at least one non-zero value")
    return tuple(map(float, value))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def upserted(body: Mapping[str, Any], dimension: int) -> list[tuple[str, Stored]]:
    members(body, ["vectors"], ["namespace"])
    vectors = body["vectors"]
    if not isinstance(vectors, list) or not 1 <= len(vectors) <= MAX_UPSERT_RECORDS:
        raise RefusedError(400, f"1 to {MAX_UPSERT_RECORDS} vectors are required")
    found = [_record(item, dimension) for item in vectors]
    if len({name for name, _ in found}) < len(found):
        raise RefusedError(400, "an id is given twice")
    return found


def _record(item: Any, dimension: int) -> tuple[str, Stored]:
    if not isinstance(item, dict):
        raise RefusedError(400, "a record must be an object")
    members(item, ["id", "values"], ["metadata"])
    held = metadata(item["metadata"]) if "metadata" in item else None
    return record_id(item["id"]), Stored(vector(item["values"], dimension), held)


def metadata(value: Any) -> dict[str, Any]:
    """Numbers become 64-bit floats, as they do at Pinecone."""
    if not isinstance(value, dict):
        raise RefusedError(400, "metadata must be an object")
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_METADATA_BYTES:
        raise RefusedError(
            400, f"Metadata size is {size} bytes, which exceeds the limit of {MAX_METADATA_BYTES}"
        )
    return {_field(name): _value(name, item) for name, item in value.items()}


def _field(name: str) -> str:
    if not name or name.startswith("$"):
        raise RefusedError(400, f"a metadata field cannot be named {name!r}")
    return name


def _value(name: str, item: Any) -> Any:
    if isinstance(item, str | bool):
        return item
    if _finite(item):
        return float(item)
    if isinstance(item, list) and item and all(isinstance(one, str) for one in item):
        return item
    raise RefusedError(
        400, f"metadata {name}: a string, a number, a boolean or a list of strings, not {item!r}"
    )


def queried(body: Mapping[str, Any], dimension: int) -> tuple[tuple[float, ...], int]:
    members(body, ["topK", "vector"], ["namespace", "filter", "includeValues", "includeMetadata"])
    top_k = body["topK"]
    if not isinstance(top_k, int) or not 1 <= top_k <= MAX_TOP_K:
        raise RefusedError(400, f"topK must be between 1 and {MAX_TOP_K}")
    if "filter" in body:
        check_filter(body["filter"])
    return vector(body["vector"], dimension), top_k


def page_size(value: str | None) -> int:
    limit = int(value) if value is not None and value.isdecimal() else MAX_PAGE
    if not 1 <= limit <= MAX_PAGE:
        raise RefusedError(400, f"limit must be between 1 and {MAX_PAGE}")
    return limit
