"""Ready token ids as the model's input: special tokens, the window, padding.

fastembed tokenises what it is given. Its models get their tokens from one public method,
`tokenize`, and use nothing of the answer but `ids` and `attention_mask`: where a passage comes
with its ids, that method answers with those. Pooling and normalising stay fastembed's.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from common.ports.embedder import TokenIds

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Encoding, Tokenizer

_PROBE: Final = "The quick brown fox doesn't jump."


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One row of a padded batch: what fastembed reads of an encoding."""

    ids: np.ndarray[Any, Any]
    attention_mask: np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTemplate:
    """How a model's tokenizer turns the ids of a text into those of an input."""

    before: TokenIds[int]
    """Special tokens, [CLS] say."""
    after: TokenIds[int]
    window: int
    keeps_end: bool
    """What is too long loses its beginning and not its end."""
    pad_id: int
    pad_left: bool
    pad_to_multiple_of: int

    def wrapped(self, ids: TokenIds[int]) -> TokenIds[int]:
        """With special tokens, cut to the window."""
        room = self.window - len(self.before) - len(self.after)
        if len(ids) > room:
            ids = ids[len(ids) - room :] if self.keeps_end else ids[:room]
        return self.before + ids + self.after

    def padded(self, rows: Sequence[TokenIds[int]]) -> list[ModelInput]:
        """All as long as the longest, which must not be empty."""
        import numpy as np

        step = self.pad_to_multiple_of
        width = -(-max(map(len, rows)) // step) * step
        ids = np.full((len(rows), width), self.pad_id, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for number, row in enumerate(rows):
            place = slice(width - len(row), width) if self.pad_left else slice(0, len(row))
            ids[number, place] = row
            mask[number, place] = 1
        return [ModelInput(*pair) for pair in zip(ids, mask, strict=True)]


def template_of(tokenizer: Tokenizer) -> TokenTemplate | None:
    """None where a model wants its input in another way, at a fixed width for instance."""
    padding, truncation = tokenizer.padding, tokenizer.truncation
    if padding is None or truncation is None or padding.get("length") is not None:
        return None
    bare = _real_ids(tokenizer.encode(_PROBE, add_special_tokens=False))
    ids = _real_ids(tokenizer.encode(_PROBE))
    starts = (n for n in range(len(ids) - len(bare) + 1) if ids[n : n + len(bare)] == bare)
    start = next(starts, None)
    if not bare or start is None:
        return None
    return TokenTemplate(
        before=array("i", ids[:start]),
        after=array("i", ids[start + len(bare) :]),
        window=truncation["max_length"],
        keeps_end=truncation.get("direction", "right").lower() == "left",
        pad_id=padding["pad_id"],
        pad_left=padding["direction"].lower() == "left",
        pad_to_multiple_of=padding.get("pad_to_multiple_of") or 1,
    )


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[TokenIds[int]]:
    """Ids as the model reads them, special tokens included, cut to the window, not padded."""
    return [array("i", _real_ids(encoding)) for encoding in tokenizer.encode_batch(list(texts))]


def _real_ids(encoding: Encoding) -> list[int]:
    """Without padding."""
    return [i for i, real in zip(encoding.ids, encoding.attention_mask, strict=True) if real]


def feed_ids(model: Any, template: TokenTemplate) -> None:
    """From now on `model`, one of fastembed's, takes wrapped ids wherever it takes texts."""
    tokenize_texts: Callable[..., Any] = model.tokenize

    def tokenize(documents: Sequence[str | TokenIds[int]], **options: Any) -> Any:
        rows = [document for document in documents if isinstance(document, array)]
        return template.padded(rows) if rows else tokenize_texts(documents, **options)

    model.tokenize = tokenize
