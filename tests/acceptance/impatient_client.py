"""A client that gives up on answers too early and sends again, over several connections."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from common.extraction.content_types import guess_content_type

CONNECTIONS = 8
PATIENCES_SECONDS = (0.003, 0.01, 0.03, 0.1, 1.0, 3.0)
"""The shorter ones end while the change is being accepted."""


@dataclass(slots=True)
class ImpatientClient:
    """Sends each document's changes in order, the documents side by side.

    A change is sent until it is answered with 202, and only then the document's next one. An
    attempt that was given up may still be on its way when its repetition is answered, and would
    arrive after the next change: `source_version`, the place in the feed, lets the service tell.
    """

    url: str
    drawn: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)
    """What became of the attempts: the outcome of a 202, another status, or the error's name."""
    repeated: Counter[str] = field(default_factory=Counter)
    """The outcomes of changes whose attempt before ended without an answer."""

    async def send(self, changes: Sequence[dict[str, Any]], seconds: float) -> None:
        """Spread over `seconds` if everything is answered; as long as it takes if not."""
        documents: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        began = asyncio.get_running_loop().time()
        for place, change in enumerate(changes):
            at = began + seconds * place / len(changes)
            body = _body(change, source_version=place)
            documents.setdefault(change["document_id"], []).append((at, body))
        turns = asyncio.Semaphore(CONNECTIONS)
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for chain in documents.values():
                group.create_task(self._send_in_order(session, turns, chain))

    async def _send_in_order(
        self,
        session: aiohttp.ClientSession,
        turns: asyncio.Semaphore,
        chain: list[tuple[float, dict[str, Any]]],
    ) -> None:
        for at, body in chain:
            await asyncio.sleep(at - asyncio.get_running_loop().time())
            unanswered = False
            while (outcome := await self._attempt(session, turns, body)) not in _ACCEPTED:
                self.outcomes[outcome] += 1
                unanswered = not outcome.isdecimal()
                await asyncio.sleep(self.drawn.uniform(0.1, 1.0))
            self.outcomes[outcome] += 1
            if unanswered:
                self.repeated[outcome] += 1

    async def _attempt(
        self, session: aiohttp.ClientSession, turns: asyncio.Semaphore, body: dict[str, Any]
    ) -> str:
        patience = aiohttp.ClientTimeout(total=self.drawn.choice(PATIENCES_SECONDS))
        try:
            async with turns, session.post(self.url, json=body, timeout=patience) as answer:
                if answer.status == 202:
                    return str((await answer.json())["outcome"])
                text = await answer.text()
                assert answer.status >= 500, text  # the feed is valid: nobody may refuse it
                return str(answer.status)
        except (TimeoutError, aiohttp.ClientError) as error:
            return type(error).__name__


_ACCEPTED = frozenset({"accepted", "unchanged", "superseded"})


def _body(change: dict[str, Any], source_version: int) -> dict[str, Any]:
    kept = {name: change[name] for name in ("change_type", "document_id")}
    if change["change_type"] != "delete":
        kept["content"] = change["content"]
        kept["content_type"] = guess_content_type(change["document_id"]) or "text/plain"
    return {**kept, "source_version": source_version}
