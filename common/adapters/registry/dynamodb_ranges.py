"""Ranges of record ids in few bytes: differences as varints, compressed.

A manifest of 200,000 ranges is some hundred kilobytes this way, and 10 MB as JSON. The format is
stored: a change of it needs another `FORMAT` in `dynamodb_item`.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

from common.model import Garbage, GarbageState, IdRange

_LEVEL = 6
_STATES = (GarbageState.OPEN, GarbageState.DOOMED)


def pack_ranges(ranges: Sequence[IdRange]) -> bytes:
    """b"" for none."""
    return zlib.compress(_varints(_differences(ranges)), _LEVEL) if ranges else b""


def unpack_ranges(data: bytes) -> tuple[IdRange, ...]:
    """Raises ValueError, IndexError or zlib.error for what `pack_ranges` did not make."""
    return tuple(_ranges(_integers(zlib.decompress(data)))) if data else ()


def pack_garbage(garbage: Sequence[Garbage]) -> bytes:
    """b"" for none. Raises ValueError for a time that is no number."""
    if not garbage:
        return b""
    if not all(math.isfinite(entry.not_before) for entry in garbage):
        raise ValueError("NaN and infinity cannot be stored")
    ranges = _varints(_differences([entry.ids for entry in garbage]))
    states = bytes(_STATES.index(entry.state) for entry in garbage)
    times = struct.pack(f"<{len(garbage)}d", *(entry.not_before for entry in garbage))
    header = struct.pack("<I", len(garbage))
    return zlib.compress(header + states + times + ranges, _LEVEL)


def unpack_garbage(data: bytes) -> tuple[Garbage, ...]:
    """Raises ValueError, IndexError, struct.error or zlib.error as `unpack_ranges` does."""
    if not data:
        return ()
    raw = zlib.decompress(data)
    (count,) = struct.unpack_from("<I", raw)
    states = raw[4 : 4 + count]
    times = struct.unpack_from(f"<{count}d", raw, 4 + count)
    ranges = _ranges(_integers(raw[4 + count + 8 * count :]))
    entries = zip(ranges, states, times, strict=True)
    return tuple(Garbage(ids, _STATES[state], at) for ids, state, at in entries)


def _differences(ranges: Iterable[IdRange]) -> Iterator[int]:
    """Three numbers a range, small where ranges follow each other; order and overlaps are kept."""
    generation, following = 0, 0
    for ids in ranges:
        yield _unsigned(ids.generation - generation)
        yield _unsigned(ids.first - following)
        yield _unsigned(ids.last - ids.first)
        generation, following = ids.generation, ids.last + 1


def _ranges(numbers: Iterator[int]) -> Iterator[IdRange]:
    generation, following = 0, 0
    for number in numbers:
        generation += _signed(number)
        first = following + _signed(next(numbers, -1))
        last = first + _signed(next(numbers, -1))
        following = last + 1
        yield IdRange(generation, first, last)


def _unsigned(number: int) -> int:
    """Zigzag: 0, -1, 1, -2 … as 0, 1, 2, 3 …"""
    return number << 1 if number >= 0 else (-number << 1) - 1


def _signed(number: int) -> int:
    if number < 0:
        raise ValueError("ranges end in the middle of one")
    return -((number + 1) >> 1) if number & 1 else number >> 1


def _varints(numbers: Iterable[int]) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    out = bytearray()
    for number in numbers:
        rest = number
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def _integers(data: bytes) -> Iterator[int]:
    number, shift = 0, 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
        else:
            yield number
            number, shift = 0, 0
    if shift:
        raise ValueError("a number has no end")
