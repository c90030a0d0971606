"""How texts are put into batches for the model: a pure decision over their lengths."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], max_padded_tokens: int, max_batch: int) -> list[list[int]]:
    """Places of `lengths` (tokens), sorted by length and cut into batches.

    A batch is padded to its longest text, so its cost is count × longest: that product stays
    within `max_padded_tokens`, unless a single text is longer than that. Longest first, so that
    memory peaks at once and not at the end.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda p: (-lengths[p], p)):
        batch = batches[-1] if batches else None
        if batch is None or len(batch) >= max_batch or not _fits(lengths, batch, max_padded_tokens):
            batches.append([place])
        else:
            batch.append(place)
    return batches


def _fits(lengths: Sequence[int], batch: list[int], max_padded_tokens: int) -> bool:
    longest = max(lengths[batch[0]], 1)
    return (len(batch) + 1) * longest <= max_padded_tokens
