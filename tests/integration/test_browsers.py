"""What a page of another site may do: nothing, unless the settings name it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.access import Role
from common.settings import Settings
from tests.access import Keys, bearer
from tests.integration.test_http_api import DOCUMENTS, NDJSON, Api, insert, lines, serving
from tests.pipeline import Pipeline, pipeline

APP = "https://app.example"
ONE = f"{DOCUMENTS}/a"
ASKS = {"Access-Control-Request-Method": "PUT"}


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@asynccontextmanager
async def asking_for_keys(flow: Pipeline, *origins: str) -> AsyncIterator[tuple[Api, str]]:
    keys = Keys()
    key = keys.made(Role.EDITOR, "docs")
    limits: Any = {"cors_origins": list(origins)}
    async with serving(flow, authenticate=keys.doorman, **limits) as api:
        yield api, key


async def answer(
    api: Api, method: str, path: str, origin: str | None = APP, **more: Any
) -> tuple[int, Mapping[str, str]]:
    headers = {**({"Origin": origin} if origin else {}), **more.pop("headers", {})}
    async with api.client.request(method, path, headers=headers, **more) as response:
        await response.read()
        return response.status, response.headers


def listed(value: str) -> set[str]:
    return {item.strip().lower() for item in value.split(",")}


@pytest.mark.parametrize("path", ["/v1/changes", ONE, f"{ONE}/content", "/v1/stats", "/nowhere"])
async def test_a_preflight_is_answered_before_anybody_is_asked(flow: Pipeline, path: str) -> None:
    async with asking_for_keys(flow, APP, "http://localhost:3000") as (api, _):
        status, headers = await answer(api, "OPTIONS", path, headers=ASKS)
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, APP)
        assert {"put", "post", "delete", "get"} <= listed(headers["Access-Control-Allow-Methods"])
        assert {
            "authorization", "x-api-key", "content-type", "if-match", "if-none-match",
            "idempotency-key",
        } <= listed(headers["Access-Control-Allow-Headers"])  # fmt: skip
        assert "Access-Control-Allow-Credentials" not in headers
        assert "Origin" in headers["Vary"]


async def test_a_page_reads_answers_problems_and_streams(flow: Pipeline) -> None:
    async with asking_for_keys(flow, APP) as (api, key):
        assert (await answer(api, "GET", ONE))[0] == 401
        for status, path, more in (
            (401, ONE, {}),
            (404, ONE, bearer(key)),
            (404, "/nowhere", bearer(key)),
        ):
            got, headers = await answer(api, "GET", path, headers=more)
            assert (got, headers["Access-Control-Allow-Origin"]) == (status, APP)
            assert {"etag", "x-request-id", "retry-after", "idempotency-replayed"} <= listed(
                headers["Access-Control-Expose-Headers"]
            )
        feed: Any = {"headers": {**NDJSON, **bearer(key)}, "data": lines(insert())}
        status, headers = await answer(api, "POST", "/v1/changes", **feed)
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, APP)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example", f"{APP}.evil.example", "null", "*", ""]
)
async def test_pages_that_are_not_named_are_told_nothing(flow: Pipeline, origin: str) -> None:
    async with asking_for_keys(flow, APP) as (api, key):
        status, headers = await answer(api, "OPTIONS", ONE, origin, headers=ASKS)
        assert status == 405
        assert "Access-Control-Allow-Origin" not in headers
        headers = (await answer(api, "GET", ONE, origin, headers=bearer(key)))[1]
        assert "Access-Control-Allow-Origin" not in headers
        assert "Origin" in headers["Vary"]


async def test_by_default_no_page_is_named(flow: Pipeline) -> None:
    async with asking_for_keys(flow) as (api, key):
        assert (await answer(api, "OPTIONS", ONE, headers=ASKS))[0] == 405
        headers = (await answer(api, "GET", ONE, headers=bearer(key)))[1]
        assert not {"Access-Control-Allow-Origin", "Vary"} & set(headers)


async def test_all_pages(flow: Pipeline) -> None:
    async with asking_for_keys(flow, "*") as (api, _):
        status, headers = await answer(api, "OPTIONS", ONE, "https://any.example", headers=ASKS)
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, "*")
        assert "Access-Control-Allow-Credentials" not in headers


async def test_an_open_service_lets_in_the_pages_that_are_named(flow: Pipeline) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    async with serving(flow, cors_origins=[APP]) as api:
        assert (await answer(api, "GET", ONE, headers=foreign))[0] == 404
        assert (await answer(api, "GET", ONE, "https://evil.example", headers=foreign))[0] == 403


async def test_all_pages_may_read_and_none_is_let_in_without_a_key(flow: Pipeline) -> None:
    """Or every page that a browser on this machine shows could read what is kept here."""
    async with serving(flow, cors_origins=["*"]) as api:
        assert (await answer(api, "GET", ONE))[0] == 403
        assert (await answer(api, "GET", ONE, "*"))[0] == 403


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("HTTPS://App.Example", APP),
        ("https://app.example:443", APP),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("*", "*"),
    ],
)
def test_origins_as_browsers_write_them(given: str, meant: str) -> None:
    settings = Settings(_env_file=None, cors_origins=[given])
    assert settings.cors_origins == [meant]


@pytest.mark.parametrize(
    "given",
    ["app.example", f"{APP}/", f"{APP}/path", "https://*.example", "null", "", "ftp://a.example",
     "https://", "https://me@app.example", "https://app.example:x"],
)  # fmt: skip
def test_origins_that_are_none(given: str) -> None:
    with pytest.raises(ValidationError, match=r"origin|host|port"):
        Settings(_env_file=None, cors_origins=[given])
