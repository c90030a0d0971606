"""A file of a repository, from a server that answers as GitHub does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from common.github_contents import (
    ALLOWED_HOSTS,
    Compared,
    compare_on_github,
    fetch_github_file,
    fetch_github_head,
)
from common.outbound_rules import RefusedError
from common.ports.errors import TransientError
from tests.servers.strangers import Asked, Internet, answer, redirect

RAW = "Content-Type: application/vnd.github.raw+json; charset=utf-8"
REF = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "github_pat_word"


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    async with AsyncExitStack() as stack:
        yield Internet(stack)


async def fetched(internet: Internet, path: str = "guide/a b.md", token: str = TOKEN) -> bytes:
    client = internet.client(list(ALLOWED_HOSTS))
    return await fetch_github_file(client, "acme/docs", path, REF, token)


async def test_the_bytes_of_a_file(internet: Internet) -> None:
    server = await internet.with_tls("api.github.com", answer(b"# Start\n", RAW))
    assert await fetched(internet) == b"# Start\n"
    (asked,) = server.asked
    assert asked.path == f"/repos/acme/docs/contents/guide/a%20b.md?ref={REF}"
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["accept"] == "application/vnd.github.raw+json"
    assert asked.headers["x-github-api-version"] == "2022-11-28"


async def test_a_repository_that_was_renamed(internet: Internet) -> None:
    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        moved = asked.path.startswith("/repositories/")
        there = "https://api.github.com/repositories/1/contents/x"
        writer.write(answer(b"moved", RAW) if moved else redirect(there))

    server = await internet.with_tls("api.github.com", say)
    assert await fetched(internet) == b"moved"
    assert server.asked[1].headers["authorization"] == f"Bearer {TOKEN}"


async def test_the_token_goes_to_github_only(internet: Internet) -> None:
    there = "https://raw.example/acme/docs"
    await internet.with_tls("api.github.com", redirect(there))
    raw = await internet.with_tls("raw.example", answer(b"x", RAW))
    with pytest.raises(RefusedError, match=r"raw\.example is not allowed"):
        await fetched(internet)
    assert raw.connections == 0


async def test_a_folder_is_no_file(internet: Internet) -> None:
    listing = answer(b"[]", "Content-Type: application/json; charset=utf-8")
    await internet.with_tls("api.github.com", listing)
    with pytest.raises(RefusedError, match="is no file"):
        await fetched(internet)


async def test_what_is_not_there_and_what_may_be_later(internet: Internet) -> None:
    await internet.with_tls("api.github.com", answer(status="404 Not Found"))
    with pytest.raises(RefusedError) as missing:
        await fetched(internet)
    assert missing.value.status == 404
    spent = answer(b"", "X-RateLimit-Remaining: 0", "Retry-After: 60", status="403 Forbidden")
    await internet.with_tls("api.github.com", spent)
    with pytest.raises(TransientError) as limited:
        await fetched(internet)
    assert limited.value.retry_after_seconds == 60.0


@pytest.mark.parametrize("token", ["", "word\r\nX: y", "wörd", "a b"])
async def test_a_token_that_is_none_is_not_sent_and_not_told(
    internet: Internet, token: str
) -> None:
    server = await internet.with_tls("api.github.com", answer(b"x", RAW))
    with pytest.raises(RefusedError, match="token") as caught:
        await fetched(internet, token=token)
    assert server.connections == 0
    assert not token or token not in str(caught.value)


async def test_the_last_commit_of_a_branch(internet: Internet) -> None:
    server = await internet.with_tls("api.github.com", answer(REF.encode()))
    client = internet.client(list(ALLOWED_HOSTS))
    assert await fetch_github_head(client, "acme/docs", "release/1 #x", TOKEN) == REF
    (asked,) = server.asked
    assert asked.path == "/repos/acme/docs/commits/heads/release/1%20%23x"
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["accept"] == "application/vnd.github.sha"
    for branch in ("", "../../user", "a//b", "a\nb"):
        with pytest.raises(RefusedError):
            await fetch_github_head(client, "acme/docs", branch, TOKEN)
    assert len(server.asked) == 1


async def test_what_is_no_commit_is_none(internet: Internet) -> None:
    await internet.with_tls("api.github.com", answer(b'{"sha": "0"}'))
    client = internet.client(list(ALLOWED_HOSTS))
    with pytest.raises(RefusedError, match="names no commit"):
        await fetch_github_head(client, "acme/docs", "main", TOKEN)


async def test_what_one_commit_has_that_another_has_not(internet: Internet) -> None:
    body = b"""{"status": "diverged", "total_commits": 1, "commits": [{"sha": "0"}], "files": [
        {"filename": "a.md", "status": "added", "patch": "@@ -0,0 +1 @@"},
        {"filename": "c.md", "previous_filename": "b.md", "status": "renamed"}
    ]}"""
    server = await internet.with_tls("api.github.com", answer(body))
    client = internet.client(list(ALLOWED_HOSTS))
    base = "f" * 40
    found = await compare_on_github(client, "acme/docs", base, REF, TOKEN)
    assert found == Compared(("a.md", "b.md", "c.md"), cut=False)
    (asked,) = server.asked
    assert asked.path == f"/repos/acme/docs/compare/{base}...{REF}?per_page=1"
    assert asked.headers["accept"] == "application/vnd.github+json"
    for other in ("main", "../user", base[:39]):
        with pytest.raises(RefusedError):
            await compare_on_github(client, "acme/docs", other, REF, TOKEN)
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"files": null}', b'{"files": ["a"]}'])
async def test_what_is_no_comparison_is_none(internet: Internet, body: bytes) -> None:
    await internet.with_tls("api.github.com", answer(body))
    client = internet.client(list(ALLOWED_HOSTS))
    with pytest.raises(RefusedError, match="cannot be read"):
        await compare_on_github(client, "acme/docs", REF, REF, TOKEN)
