"""Packs survive the round trip, and a torn one is recognised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.pack import CorruptPackError, decode, encode
from tests.builders import pack


@given(st.lists(st.text(), max_size=5), st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_round_trip(texts: list[str], metadata: dict[str, str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    before = pack(texts, metadata=metadata)
    assert decode(encode(before)) == before


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_pack_is_recognised(cut: int) -> None:
    data = encode(pack(["some text", "some more text"]))
    with pytest.raises(CorruptPackError):
        decode(data[:-cut])


def test_a_flipped_bit_is_recognised() -> None:
    data = bytearray(encode(pack(["some text"])))
    data[-40] ^= 1
    with pytest.raises(CorruptPackError):
        decode(bytes(data))


@pytest.mark.parametrize("data", [b"", b"x", b"BWPACK1\n"])
def test_something_else_is_no_pack(data: bytes) -> None:
    with pytest.raises(CorruptPackError):
        decode(data)
