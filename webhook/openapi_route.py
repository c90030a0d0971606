"""GET /openapi.json."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from common.settings import Settings
from webhook.models.kept import PerSettings
from webhook.services import SERVICES


async def get_openapi(request: web.Request) -> web.Response:
    """Made at the first question, in a thread: it takes the models of all answers, which nothing
    else of the service loads."""
    settings = request.app[SERVICES].settings
    return web.json_response(text=await asyncio.to_thread(_text, settings))


def _described(settings: Settings) -> str:
    from webhook.openapi import document

    return json.dumps(document(settings))


_text = PerSettings(_described)
