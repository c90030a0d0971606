"""Answers are compressed for who reads that; what is compressed on its way in is bounded."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.test_http_api import (
    DOCUMENTS,
    NDJSON,
    Api,
    insert,
    is_problem,
    lines,
    serving,
)
from tests.pipeline import pipeline


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with pipeline(tmp_path) as flow, serving(flow) as made:
        yield made


async def raw(
    api: Api, path: str, accepts: str | None = "gzip", method: str = "GET", **more: Any
) -> tuple[Mapping[str, str], bytes]:
    """The bytes as they were sent."""
    headers = {**more.pop("headers", {}), **({"Accept-Encoding": accepts} if accepts else {})}
    skip = () if accepts else ("Accept-Encoding",)
    async with (
        aiohttp.ClientSession(auto_decompress=False) as client,
        client.request(
            method, api.url(path), headers=headers, skip_auto_headers=skip, **more
        ) as response,
    ):
        return response.headers, await response.read()


async def test_json_is_compressed(api: Api) -> None:
    plain_headers, plain = await raw(api, "/openapi.json", None)
    headers, sent = await raw(api, "/openapi.json")
    assert (headers["Content-Encoding"], int(headers["Content-Length"])) == ("gzip", len(sent))
    assert len(sent) < len(plain) / 4
    assert gzip.decompress(sent) == plain
    assert "Content-Encoding" not in plain_headers
    assert headers["Vary"] == plain_headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("accepts", "compressed"),
    [
        ("gzip, deflate, br", True),
        ("GZIP;q=0.5", True),
        ("*", True),
        ("br, *;q=0.1", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("br", False),
        ("identity", False),
        ("", False),
    ],
)
async def test_who_reads_gzip(api: Api, accepts: str, compressed: bool) -> None:
    headers, _ = await raw(api, "/openapi.json", accepts or "identity")
    assert ("Content-Encoding" in headers) is compressed


@pytest.mark.parametrize("path", ["/metrics", f"{DOCUMENTS}?limit=5"])
async def test_so_is_all_else_that_is_large(api: Api, path: str) -> None:
    for n in range(3):
        await api.change(insert(f"{n}" * 300))
    headers, sent = await raw(api, path)
    assert headers["Content-Encoding"] == "gzip"
    _, plain = await raw(api, path, None)
    if path != "/metrics":
        assert gzip.decompress(sent) == plain


async def test_small_answers_streams_and_documents_are_sent_as_they_are(api: Api) -> None:
    assert "Content-Encoding" not in (await raw(api, "/healthz"))[0]
    feed = lines(*(insert(f"{n}", "x" * 2000) for n in range(40)))
    headers, told = await raw(api, "/v1/changes", method="POST", headers=NDJSON, data=feed)
    assert "Content-Encoding" not in headers
    assert len(told.splitlines()) == 40
    headers, content = await raw(api, f"{DOCUMENTS}/1/content")
    assert "Content-Encoding" not in headers
    assert content == b"x" * 2000


async def test_problems_are_compressed_too(api: Api) -> None:
    headers, sent = await raw(api, f"{DOCUMENTS}/{'x' * 1000}")
    assert headers["Content-Type"].startswith("application/problem+json")
    assert headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(sent))["status"] == 404


async def test_head_tells_what_get_would(api: Api) -> None:
    _, sent = await raw(api, "/openapi.json")
    of_head, nothing = await raw(api, "/openapi.json", method="HEAD")
    assert nothing == b""
    assert of_head["Content-Length"] == str(len(sent))


@pytest.mark.parametrize("path", ["/v1/changes", f"{DOCUMENTS}/a", "/v1/namespaces/docs/search"])
async def test_a_small_body_that_becomes_a_large_one_is_refused(tmp_path: Path, path: str) -> None:
    limits: Any = {"max_body_bytes": 1_000_000, "max_document_bytes": 1_000_000}
    bomb = gzip.compress(b" " * 50_000_000, 9)
    assert len(bomb) < 300_000
    kind = "text/plain" if path.startswith(DOCUMENTS) else "application/json"
    headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
    method = "PUT" if path.startswith(DOCUMENTS) else "POST"
    async with pipeline(tmp_path) as flow, serving(flow, **limits) as api:
        for more in ({}, {"Idempotency-Key": "k"}):
            async with api.client.request(
                method, path, data=bomb, headers={**headers, **more}
            ) as response:
                body = await response.json(content_type=None)
                assert is_problem(response.status, body, "too-large")
