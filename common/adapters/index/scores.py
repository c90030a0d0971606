"""A match's score is the cosine of the query's vector and the record's."""

from __future__ import annotations


def cosine(score: float) -> float:
    """Rounding takes a server's a little out of [-1, 1]."""
    return max(-1.0, min(1.0, score))
