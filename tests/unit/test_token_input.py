"""Ready ids become what the model's own tokenizer would have made of the text."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer

from common.adapters.embedder.packaged_model import PACKAGED_MODELS, tokenizer_path
from common.adapters.embedder.token_input import TokenTemplate, encoded, template_of

(MODEL,) = PACKAGED_MODELS.values()
LONG = "over the window " * 30
TEXTS = ["cat", "", "Unbelievably short.", LONG, "naïve 日本語 [MASK]"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    """As fastembed sets one up."""
    made = Tokenizer.from_file(str(tokenizer_path(MODEL)))
    made.enable_truncation(40)
    made.enable_padding(pad_id=0, pad_token="[PAD]")
    return made


def bare_ids(text: str) -> array[int]:
    tokenizer = Tokenizer.from_file(str(tokenizer_path(MODEL)))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return array("i", tokenizer.encode(text, add_special_tokens=False).ids)


SETUPS: dict[str, Callable[[Tokenizer], None]] = {
    "plain": lambda tokenizer: None,
    "left": lambda tokenizer: tokenizer.enable_truncation(40, direction="left"),
    "padded left": lambda t: t.enable_padding(direction="left", pad_id=7, pad_token="x"),
    "in steps": lambda t: t.enable_padding(pad_to_multiple_of=16, pad_id=0, pad_token="[PAD]"),
}


@pytest.mark.parametrize("setup", SETUPS)
def test_ids_become_what_the_tokenizer_makes_of_the_text(tokenizer: Tokenizer, setup: str) -> None:
    SETUPS[setup](tokenizer)
    template = template_of(tokenizer)
    assert template
    rows = [template.wrapped(bare_ids(text)) for text in TEXTS]
    assert rows == encoded(tokenizer, TEXTS)
    for ours, theirs in zip(template.padded(rows), tokenizer.encode_batch(TEXTS), strict=True):
        assert ours.ids.tolist() == theirs.ids
        assert ours.attention_mask.tolist() == theirs.attention_mask


def test_special_tokens_are_found(tokenizer: Tokenizer) -> None:
    template = template_of(tokenizer)
    assert isinstance(template, TokenTemplate)
    names = [tokenizer.id_to_token(i) for i in (*template.before, *template.after)]
    assert names == ["[CLS]", "[SEP]"]


def test_a_model_of_fixed_width_gets_texts(tokenizer: Tokenizer) -> None:
    tokenizer.enable_padding(length=64, pad_id=0, pad_token="[PAD]")
    assert template_of(tokenizer) is None


def test_a_tokenizer_that_neither_cuts_nor_pads_gets_texts(tokenizer: Tokenizer) -> None:
    tokenizer.no_padding()
    assert template_of(tokenizer) is None
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.no_truncation()
    assert template_of(tokenizer) is None
