"""How far the vectors of two graphs agree, and what is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from common.model import Vector

__all__ = ["FUSED_BAR", "INT8_BAR", "Agreement", "agreement"]

INT8_BAR: Final = 0.99
"""The least mean cosine of an int8 graph. Nothing lowers it: quantised without care (a scale for a
whole matrix) a model falls to 0.95, and its results are then no longer those of the model."""

FUSED_BAR: Final = 0.9999
"""Of a fused graph, which computes the same in another order."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cosine similarities between the vectors of the same texts."""

    texts: int
    mean: float
    fifth_percentile: float
    least: float

    def __str__(self) -> str:
        return (
            f"mean cosine {self.mean:.4f} (5% of the texts below {self.fifth_percentile:.4f}, "
            f"the least {self.least:.4f})"
        )


def agreement(originals: Sequence[Vector[float]], others: Sequence[Vector[float]]) -> Agreement:
    """Of vectors in the same order. Raises ValueError for none, or for other numbers of them."""
    if not originals or len(originals) != len(others):
        raise ValueError(f"{len(originals)} vectors cannot be compared with {len(others)}")
    one, other = np.array(originals, dtype=np.float64), np.array(others, dtype=np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    # A vector of zeros, or one with a NaN, agrees with nothing.
    cosines = np.nan_to_num((one * other).sum(axis=1) / np.maximum(lengths, 1e-12), nan=0.0)
    return Agreement(
        texts=len(cosines),
        mean=float(cosines.mean()),
        fifth_percentile=float(np.percentile(cosines, 5)),
        least=float(cosines.min()),
    )
