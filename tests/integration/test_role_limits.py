"""That the roles keep to the limits that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from common.adapters.embedder.profile import url_of
from common.ports.landing import Area
from common.settings import Settings
from tests.fakes.embedder import HashEmbedder
from tests.fakes.landing import MemoryLanding
from tests.integration.test_access import running, settings_in
from webhook import intake_role
from webhook.intake import Settled
from webhook.intake_role import open_intake


@pytest.mark.parametrize(
    "limits",
    [{"max_namespaces": 1}, {"namespace_quotas": {"two": {"bytes": 0}}}],
)
async def test_the_webhook_keeps_to_them(tmp_path: Path, limits: dict[str, Any]) -> None:
    async with (
        running(settings_in(tmp_path, **limits)) as url,
        aiohttp.ClientSession() as session,
    ):

        async def put(namespace: str) -> int:
            path = f"{url}/v1/namespaces/{namespace}/documents/a.txt"
            async with session.put(path, data="x") as answer:
                return answer.status

        assert [await put(name) for name in ("one", "two", "one")] == [202, 403, 202]


@pytest.mark.parametrize(
    "limits",
    [{"max_namespaces": 1}, {"namespace_quotas": {"two": {"bytes": 0}}}],
)
async def test_the_intake_keeps_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]
) -> None:
    landing = MemoryLanding()
    monkeypatch.setattr(intake_role, "_landing", lambda _settings: landing)
    settings = Settings(
        _env_file=None,
        data_dir=tmp_path / "data",
        embedder_url=url_of(HashEmbedder().profile),
        **limits,
    )
    async with open_intake(settings) as handler:
        for name, settled in (("one/a.md", Settled.ACCEPTED), ("two/a.md", Settled.FAILED)):
            landing.put(Area.INCOMING, name, b"x")
            assert await handler.reconcile(name) == [settled]


def test_the_embedded_index_has_a_thousand_namespaces() -> None:
    assert Settings(_env_file=None).max_namespaces == 1000
    assert Settings(_env_file=None, index_url="pinecone:docs").max_namespaces == 0
    assert Settings(_env_file=None, index_url="pinecone:docs", max_namespaces=7).max_namespaces == 7
