"""Requests for embeddings in OpenAI's shape, and its shape of errors. Pure."""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.model import Vector

__all__ = ["EmbeddingRequest", "RefusedError", "answer", "parse"]

FIELDS = frozenset({"model", "input", "encoding_format", "dimensions", "user", "input_type"})
INPUT_TYPES = {"document": False, "passage": False, "query": True}
"""Whether it is a query, by what other services call it."""

INVALID, BUSY, SERVER = "invalid_request_error", "rate_limit_error", "server_error"


class RefusedError(Exception):
    """Ends a request with OpenAI's error object. `param`: the field that is wrong."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int = 0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self._said = {"message": message, "type": kind, "param": param, "code": code}

    def body(self) -> bytes:
        return json.dumps({"error": self._said}).encode()


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    texts: Sequence[str]
    is_query: bool
    in_base64: bool


def parse(body: bytes, *, model: str, dimension: int, max_inputs: int) -> EmbeddingRequest:
    """The request, if the model named `model` can answer it. Raises RefusedError."""
    given = _object(body)
    for name in given:
        if name not in FIELDS:
            raise RefusedError(f"there is no field {name[:80]!r}", param=name[:80])
    _require_model(given.get("model"), model)
    _require_dimension(given.get("dimensions"), dimension)
    return EmbeddingRequest(
        texts=_texts(given.get("input"), max_inputs),
        is_query=INPUT_TYPES[_one_of(given, "input_type", "document", INPUT_TYPES)],
        in_base64=_one_of(given, "encoding_format", "float", ("float", "base64")) == "base64",
    )


def answer(
    request: EmbeddingRequest, vectors: Sequence[Vector[float]], *, model: str, tokens: int
) -> bytes:
    """The vectors in the order of the inputs, as JSON."""
    written = _base64 if request.in_base64 else list
    data = [
        {"object": "embedding", "index": index, "embedding": written(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": data, "model": model, "usage": usage}).encode()


def _base64(vector: Vector[float]) -> str:
    """float32, little-endian, as OpenAI's clients read it."""
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode("ascii")


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError("the body is not JSON") from None
    if not isinstance(given, dict):
        raise RefusedError("the body must be a JSON object")
    return given


def _require_model(given: object, model: str) -> None:
    if not isinstance(given, str):
        raise RefusedError(f"model must be a string: {model!r}", param="model")
    if given != model:
        raise RefusedError(
            f"the model {given[:200]!r} is not served here: {model!r} is",
            status=404, param="model", code="model_not_found",
        )  # fmt: skip


def _require_dimension(given: object, dimension: int) -> None:
    if given is not None and given != dimension:
        raise RefusedError(
            f"this model's vectors have {dimension} dimensions, and are not shortened",
            param="dimensions",
        )


def _one_of(given: Mapping[str, Any], name: str, default: str, known: Any) -> str:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or value not in known:
        raise RefusedError(f"{name} must be one of {', '.join(known)}", param=name)
    return value


def _texts(given: object, max_inputs: int) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise RefusedError("input must be a string or a list of strings", param="input")
    if any(isinstance(text, int | list) for text in texts):
        raise RefusedError(
            "input must be text: ids of tokens are not taken, since those of another model's "
            "tokenizer would mean other words here",
            param="input",
        )
    if len(texts) > max_inputs:
        raise RefusedError(f"input has {len(texts)} texts: {max_inputs} at most", param="input")
    for number, text in enumerate(texts):
        if fault := _fault_of(text):
            raise RefusedError(f"input[{number}] {fault}", param="input")
    return texts


def _fault_of(text: object) -> str:
    """Empty for a text that can be embedded."""
    if not isinstance(text, str):
        return "is not a string"
    if not text:
        return "is empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character"
    return ""
