"""/docs shows the reference without a network: everything it loads comes from the service."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest
from yarl import URL

from common.access import Role
from tests.access import Keys
from tests.integration.test_http_api import Api, is_problem, serving
from tests.pipeline import pipeline


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """It asks everybody for a key: the page is shown before one has one."""
    keys = Keys()
    keys.made(Role.ADMIN, "*")
    async with pipeline(tmp_path) as flow, serving(flow, authenticate=keys.doorman) as made:
        yield made


class Addresses(HTMLParser):
    """All that a page loads or links to, and whether it runs anything of its own."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value for name in ("src", "href") if (value := given.get(name))]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


async def fetched(api: Api, path: str) -> tuple[Mapping[str, str], str]:
    async with api.client.get(path) as response:
        assert response.status == 200, path
        return response.headers, await response.text()


async def test_the_page_loads_nothing_from_outside(api: Api) -> None:
    headers, page = await fetched(api, "/docs")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    addresses = Addresses(page)
    assert len(addresses.found) >= 4
    assert not [a for a in addresses.found if URL(a).is_absolute() and not a.startswith("data:")]
    assert not addresses.inline
    for address in addresses.found:
        if not address.startswith("data:"):
            await fetched(api, str(URL("http://x/docs").join(URL(address)).path))


async def test_a_browser_would_stop_it_if_it_did(api: Api) -> None:
    headers, _ = await fetched(api, "/docs")
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    allowed = {source for sources in policy.values() for source in sources.split()}
    assert allowed == {"'none'", "'self'", "data:"}
    assert policy["script-src"] == "'self'"


async def test_what_it_loads_is_kept_for_ever(api: Api) -> None:
    _, page = await fetched(api, "/docs")
    paths = [f"/{a}" for a in Addresses(page).found if a.startswith("docs/")]
    assert len(paths) == 3
    for path in paths:
        headers, _ = await fetched(api, path)
        assert "immutable" in headers["Cache-Control"]
        assert int(re.findall(r"max-age=(\d+)", headers["Cache-Control"])[0]) >= 31_536_000
        kind = "text/css" if path.endswith(".css") else "text/javascript"
        assert headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert headers.get("Content-Encoding") == "gzip" or path.endswith("page.js")


@pytest.mark.parametrize("name", ["page.js", "LICENSE", "..%2Fpage.js", "../__init__.py"])
async def test_other_files_are_not_served(api: Api, name: str) -> None:
    """Nor is another release's file under a name that browsers keep for ever."""
    async with api.client.get(api.url(f"/docs/0123456789abcdef/{name}")) as response:
        body = await response.json(content_type=None)
        assert is_problem(response.status, body, "not-found")


async def test_the_page_asks_for_the_description_and_nobody_to_validate_it(api: Api) -> None:
    _, page = await fetched(api, "/docs")
    (path,) = (f"/{a}" for a in Addresses(page).found if a.endswith("page.js"))
    _, script = await fetched(api, path)
    assert 'url: "openapi.json"' in script
    assert "validatorUrl: null" in script
    assert "://" not in script


async def test_styles_load_nothing(api: Api) -> None:
    _, page = await fetched(api, "/docs")
    (path,) = (f"/{a}" for a in Addresses(page).found if a.endswith(".css"))
    _, styles = await fetched(api, path)
    loaded = re.findall(r"url\(\s*[\"']?([a-z]+:|//|[^\"')]{1,20})", styles)
    assert set(loaded) == {"data:"}
    assert "@import" not in styles


def test_licences_lie_beside_what_is_served() -> None:
    folder = Path(__file__).parents[2] / "webhook/docs_page/static"
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert "SmartBear" in (folder / "NOTICE").read_text()
    assert (folder / "swagger-ui-bundle.js.LICENSE.txt").exists()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
