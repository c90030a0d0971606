"""Preparing a model: what goes wrong there stops nobody, and a stop does not wait for it."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from structlog.testing import capture_logs

from common.ports.embedder import Embedder, ModelUnavailableError
from workers.preparation import prepare, prepare_unless


class Preparing:
    def __init__(self, error: Exception | None = None, endless: bool = False) -> None:
        self.error = error
        self.endless = endless
        self.begun = asyncio.Event()
        self.left = False

    async def prepare(self) -> None:
        self.begun.set()
        if self.error:
            raise self.error
        try:
            await asyncio.Event().wait() if self.endless else None
        finally:
            self.left = True


def embedder(preparing: object) -> Embedder:
    return cast("Embedder", preparing)


@pytest.mark.parametrize("error", [ModelUnavailableError("no such model"), KeyError("unforeseen")])
async def test_a_failure_is_told_and_stops_nobody(error: Exception) -> None:
    with capture_logs() as logs:
        await prepare(embedder(Preparing(error)))
    assert len(logs) == 1


async def test_an_embedder_with_nothing_to_prepare_needs_none() -> None:
    await prepare(embedder(object()))


async def test_a_stop_ends_it() -> None:
    preparing, stop = Preparing(endless=True), asyncio.Event()
    waiting = asyncio.create_task(prepare_unless(stop, embedder(preparing)))
    await preparing.begun.wait()
    assert not waiting.done()
    stop.set()
    async with asyncio.timeout(10):
        await waiting
    assert preparing.left


async def test_without_a_stop_it_runs_to_its_end() -> None:
    preparing = Preparing()
    await prepare_unless(asyncio.Event(), embedder(preparing))
    assert preparing.left
