"""An edit changes the chunks it touches and few beside them, however long the document is."""

import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from common.chunking.chunk import Chunk
from common.chunking.chunker import ChunkSizes, chunk_text
from common.extraction.extract import extract
from tests.unit.tokenizers_under_test import minilm_tokenizer

SIZES = ChunkSizes(target_tokens=48, max_tokens=128)
NEW_CHUNKS_AT_MOST = 6
WORDS = (
    "index",
    "vector",
    "shard",
    "queue",
    "worker",
    "lease",
    "pack",
    "chunk",
    "query",
    "filter",
    "metric",
    "alert",
    "rule",
    "label",
    "scrape",
    "target",
    "remote",
    "write",
    "storage",
    "block",
    "series",
    "sample",
    "rate",
    "window",
    "node",
    "cluster",
    "tenant",
    "token",
    "retry",
)

Blocks = list[list[str]]
"""A document as blocks of sentences."""


def sentence(drawn: random.Random) -> str:
    words = " ".join(drawn.choice(WORDS) for _ in range(drawn.randrange(4, 22)))
    return f"{words.capitalize()} {drawn.randrange(10_000)}."


def block(drawn: random.Random) -> list[str]:
    return [sentence(drawn) for _ in range(drawn.choice((1, 1, 2, 3, 5, 14)))]


def document(drawn: random.Random, blocks: int, headings: float) -> Blocks:
    made: Blocks = []
    for number in range(blocks):
        if drawn.random() < headings:
            made.append([f"## Section {number} {sentence(drawn)}"])
        made.append(block(drawn))
    return made


def source_of(blocks: Blocks) -> str:
    return "\n\n".join(" ".join(sentences) for sentences in blocks)


def chunks_of(blocks: Blocks) -> list[Chunk]:
    extracted = extract(source_of(blocks).encode(), "text/markdown")
    return chunk_text(extracted, minilm_tokenizer(), SIZES)


def body_places(blocks: Blocks) -> list[int]:
    """Headings are left out: the chunks of a section are embedded with its heading."""
    return [i for i, sentences in enumerate(blocks) if not sentences[0].startswith("#")]


def edit_sentence(drawn: random.Random, blocks: Blocks) -> Blocks:
    place = drawn.choice(body_places(blocks))
    sentences = list(blocks[place])
    at = drawn.randrange(len(sentences))
    kind = drawn.choice(("insert", "replace", "delete"))
    sentences[at : at + (kind != "insert")] = [] if kind == "delete" else [sentence(drawn)]
    return [*blocks[:place], *([sentences] if sentences else []), *blocks[place + 1 :]]


def edit_block(drawn: random.Random, blocks: Blocks) -> Blocks:
    place = drawn.choice(body_places(blocks))
    kind = drawn.choice(("insert", "replace", "delete"))
    new = [] if kind == "delete" else [block(drawn)]
    return [*blocks[:place], *new, *blocks[place + (kind != "insert") :]]


EDITS: tuple[Callable[[random.Random, Blocks], Blocks], ...] = (edit_sentence, edit_block)


@settings(max_examples=70, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.sampled_from((5, 30, 120)),
    st.sampled_from((0.0, 0.1, 0.4)),
    st.sampled_from(EDITS),
)
def test_an_edit_embeds_few_chunks_whatever_the_length(
    seed: int, blocks: int, headings: float, edit: Callable[[random.Random, Blocks], Blocks]
) -> None:
    drawn = random.Random(seed)
    before = document(drawn, blocks, headings)
    known = {chunk.hash for chunk in chunks_of(before)}
    new = {chunk.hash for chunk in chunks_of(edit(drawn, before))} - known
    # A block of 14 sentences is some five chunks of its own.
    assert len(new) <= NEW_CHUNKS_AT_MOST + (5 if edit is edit_block else 0)


def test_of_many_sentence_edits_nearly_all_embed_three_chunks_at_most() -> None:
    drawn = random.Random(20)
    counts = []
    for _ in range(15):
        before = document(drawn, 40, 0.05)
        known = {chunk.hash for chunk in chunks_of(before)}
        for _ in range(10):
            after = chunks_of(edit_sentence(drawn, before))
            counts.append(len({chunk.hash for chunk in after} - known))
    assert sum(count <= 3 for count in counts) >= 0.99 * len(counts)


def test_an_edit_at_the_top_leaves_the_chunks_at_the_end_as_they_are() -> None:
    drawn = random.Random(5)
    before = document(drawn, 150, 0.0)
    after = [[sentence(drawn)], *before]
    texts = [chunk.text for chunk in chunks_of(before)]
    assert len(texts) > 100
    assert [chunk.text for chunk in chunks_of(after)][-len(texts) + 5 :] == texts[5:]


def test_text_without_sentences_or_paragraphs_is_cut_by_content_too() -> None:
    drawn = random.Random(6)
    words = [f"{drawn.choice(WORDS)}{drawn.randrange(100)}" for _ in range(6000)]
    known = {c.hash for c in chunks_of([[" ".join(words)]])}
    words.insert(50, "inserted")
    new = {c.hash for c in chunks_of([[" ".join(words)]])} - known
    assert len(known) > 100
    assert len(new) <= 3


def test_chunks_of_a_long_text_are_about_as_large_as_asked_for() -> None:
    drawn = random.Random(7)
    sizes = sorted(chunk.token_count for chunk in chunks_of(document(drawn, 600, 0.0)))
    mean = sum(sizes) / len(sizes)
    assert 0.8 * SIZES.target_tokens <= mean <= 1.1 * SIZES.target_tokens
    assert sizes[len(sizes) // 20] >= SIZES.target_tokens // 3
    assert sizes[-1] <= 1.6 * SIZES.target_tokens + 2


def test_a_title_that_changes_embeds_what_it_stands_in() -> None:
    body = document(random.Random(8), 60, 0.3)
    known = {chunk.hash for chunk in chunks_of([["# Old title"], *body])}
    new = {chunk.hash for chunk in chunks_of([["# New title"], *body])} - known
    assert len(new) <= 2
