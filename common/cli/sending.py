"""Changes of a file or a plan, sent as one feed: what became of each line."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, field

from common.cli.problems import JSON
from common.client.async_client import AsyncClient
from common.client.errors import Problem
from common.client.patience import Patience
from common.client.results import ChangeRefused, ChangeResult
from common.client.waiting import Key


@dataclass(frozen=True, slots=True)
class Line:
    """One change. Numbers rise from line to line, and may have gaps."""

    number: int
    document_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """A change that was not accepted, and why."""

    line: int
    document_id: str
    problem: Problem

    def as_json(self) -> JSON:
        return {"line": self.line, "document_id": self.document_id, "error": self.problem.as_json()}


@dataclass(slots=True)
class Delivery:
    """What became of the changes so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refused: list[Refusal] = field(default_factory=list)
    versions: dict[Key, int] = field(default_factory=dict)
    """The newest version of each document that the changes led to."""

    @property
    def answered(self) -> int:
        return sum(self.outcomes.values()) + len(self.refused)

    def take(self, line: Line, result: ChangeResult | ChangeRefused) -> None:
        if isinstance(result, ChangeRefused):
            self.refused.append(Refusal(line.number, line.document_id, result.problem))
            return
        self.outcomes[result.outcome] += 1
        key = (result.namespace, result.document_id)
        self.versions[key] = max(self.versions.get(key, 0), result.version)


Source = Callable[[], Generator[Line, None, None]]
"""Gives the lines, once."""


class Sender:
    """Sends a source to its end, line by line, through restarts of the service."""

    def __init__(
        self,
        client: AsyncClient,
        source: Source,
        patience: Patience,
        on_result: Callable[[Line], None] = lambda _line: None,
    ) -> None:
        self.delivery = Delivery()
        self._client = client
        self._source = source
        self._patience = patience
        self._on_result = on_result
        self._unanswered: deque[Line] = deque()

    async def send(self) -> Delivery:
        """Raises UnreachableError or ApiError when patience ends, or when the request as a
        whole is refused, and what the source raises; `delivery` then says how far it came."""
        with closing(self._source()) as lines:
            feed = self._client.feed(self._payloads(lines), patience=self._patience)
            async with aclosing(feed) as results:
                async for result in results:
                    line = self._unanswered.popleft()
                    self.delivery.take(line, result)
                    self._on_result(line)
        return self.delivery

    def _payloads(self, lines: Iterator[Line]) -> Iterator[bytes]:
        for line in lines:
            # The feed keeps the payload for as long as it may have to be sent again.
            self._unanswered.append(Line(line.number, line.document_id, b""))
            yield line.payload
