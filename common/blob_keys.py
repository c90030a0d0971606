"""What a blob's key may be, the same for every store: it is also a path and an object's name."""

from __future__ import annotations

MAX_SEGMENT_BYTES = 255


def segments_of(key: str) -> list[str]:
    """Raises ValueError unless the key is segments of printable ASCII joined by '/'."""
    segments = key.split("/")
    if not all(map(_is_plain, segments)):
        raise ValueError(f"{key!r} is not a blob key: segments of printable ASCII joined by /")
    return segments


def _is_plain(segment: str) -> bool:
    return (
        0 < len(segment) <= MAX_SEGMENT_BYTES
        and segment not in (".", "..")
        and segment.isascii()
        and segment.isprintable()
        and "\\" not in segment
    )
