"""Two models side by side, as the product runs them: vectors, and time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from common.model import Vector
from common.ports.embedder import Embedder, Passage

__all__ = ["speed_ratio", "vectors"]

_TOGETHER: Final = 16

OnCount = Callable[[int], None]


async def vectors(
    embedder: Embedder, passages: Sequence[Passage], on_count: OnCount
) -> list[Vector[float]]:
    """Of all passages, some at a time, in whatever batches the embedder makes of them.

    That is on purpose: an int8 graph scales activations by batch, so that a text's vector
    depends on what shares its batch (mean cosine 0.9925 between alone and among four, where each
    agrees with the original by 0.994), and the agreement has to count that.
    """
    found: list[Vector[float]] = []
    for first in range(0, len(passages), _TOGETHER):
        found += await embedder.embed_documents(passages[first : first + _TOGETHER])
        on_count(len(found))
    return found


async def speed_ratio(
    original: Embedder,
    other: Embedder,
    texts: Sequence[str],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """How many times as fast the other is, text by text in turn: the median of the ratios.

    In turn, since a machine's own speed changes meanwhile; the first of a pair changes too.
    """
    ratios = []
    for place, text in enumerate(texts):
        pair = [original, other] if place % 2 else [other, original]
        seconds = {id(e): await _seconds(e, text, clock) for e in pair}
        ratios.append(seconds[id(original)] / max(seconds[id(other)], 1e-9))
    return statistics.median(ratios)


async def _seconds(embedder: Embedder, text: str, clock: Callable[[], float]) -> float:
    await asyncio.sleep(0)
    began = clock()
    await embedder.embed_documents([Passage(text)])
    return clock() - began
