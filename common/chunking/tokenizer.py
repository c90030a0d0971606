"""The embedding model's tokenizer, for texts of any length."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from common.ports.embedder import TokenIds

_PIECE_CHARACTERS: Final = 1 << 16
_BATCH_CHARACTERS: Final = 1 << 18


class ModelTokenizer:
    """Implements the port's Tokenizer over a tokenizer.json; its truncation and padding are off."""

    def __init__(self, tokenizer_json_path: str | Path) -> None:
        source = Path(tokenizer_json_path).read_text(encoding="utf-8")
        self._tokenizer = Tokenizer.from_str(source)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._separable = _cuts_at_blanks(json.loads(source))

    @property
    def separable(self) -> bool:
        """True for BERT's pre-tokenizer, which begins anew at every blank."""
        return self._separable

    def encode(self, texts: Sequence[str]) -> list[TokenIds[int]]:
        """The ids of each text, special tokens not included.

        A text over 65,536 characters is encoded in pieces, so that memory stays bounded; where
        a piece ends inside a word the ids there may differ a little from those of the whole.
        """
        found: list[TokenIds[int]] = [array("i") for _ in texts]
        for batch in _batches(texts):
            pieces = [piece for _, piece in batch]
            encodings = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
            for (index, _), encoding in zip(batch, encodings, strict=True):
                found[index].extend(encoding.ids)
        return found

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span of every token of text, in order."""
        spans: list[tuple[int, int]] = []
        for start, piece in _pieces(text):
            encoding = self._tokenizer.encode(piece, add_special_tokens=False)
            spans.extend((start + first, start + last) for first, last in encoding.offsets)
        return spans


def _cuts_at_blanks(description: dict[str, Any]) -> bool:
    pre_tokenizer = description.get("pre_tokenizer") or {}
    normalizer = description.get("normalizer") or {"type": "BertNormalizer"}
    kinds = pre_tokenizer.get("type"), normalizer.get("type")
    return kinds == ("BertPreTokenizer", "BertNormalizer")


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Where each piece starts and the piece; cut behind a blank where there is one."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        piece = text[start : start + _PIECE_CHARACTERS]
        words = piece.rsplit(None, 1)
        if not piece[-1].isspace() and len(words) > 1:
            piece = piece[: len(piece) - len(words[1])]
        yield start, piece
        start += len(piece)
    yield start, text[start:]


def _batches(texts: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Pieces with the index of their text, in batches of bounded size."""
    batch: list[tuple[int, str]] = []
    characters = 0
    for index, text in enumerate(texts):
        for _, piece in _pieces(text):
            if batch and characters + len(piece) > _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
            batch.append((index, piece))
            characters += len(piece)
    if batch:
        yield batch
