"""/docs: the reference as a page, of files that come with the package; it works without a network.

Who may read the page may read /openapi.json, which tells the same; trying a request out needs a key
where the service asks for one. What the page loads has its hash in its address, so that browsers
may keep it for ever and a new release is a new address.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from aiohttp import web

from webhook.problems import NOT_FOUND, Problem

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FOR_EVER = "public, max-age=31536000, immutable"
_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "page.js": "text/javascript",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>BloomWeaver HTTP API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{style}">
</head>
<body>
<div id="reference"></div>
<noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> says the same.
</noscript>
<script src="{bundle}"></script>
<script src="{page}"></script>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    digest: str
    """The beginning of its SHA-256, hex."""


async def get_docs(request: web.Request) -> web.Response:
    """Addresses are relative: the service may be served below a path of another host."""
    del request
    assets = await asyncio.to_thread(_assets)
    style, bundle, page = (
        f"docs/{assets[name].digest}/{name}"
        for name in ("swagger-ui.css", "swagger-ui-bundle.js", "page.js")
    )
    return web.Response(
        text=_PAGE.format(style=style, bundle=bundle, page=page),
        content_type="text/html",
        headers={
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-cache",
            "Referrer-Policy": "no-referrer",
        },
    )


async def get_docs_asset(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    asset = (await asyncio.to_thread(_assets)).get(name)
    if asset is None or asset.digest != request.match_info["digest"]:
        raise Problem(NOT_FOUND, "there is no such file of this release's /docs")
    return web.Response(
        body=asset.body,
        content_type=_TYPES[name],
        charset="utf-8",
        headers={"Cache-Control": FOR_EVER},
    )


@cache
def _assets() -> dict[str, Asset]:
    """Read once; 2 MB."""
    folder = resources.files(__name__) / "static"
    assets = {}
    for name in _TYPES:
        body = (folder / name).read_bytes()
        assets[name] = Asset(body, hashlib.sha256(body).hexdigest()[:16])
    return assets
