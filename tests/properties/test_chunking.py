"""What holds for the chunks of every document."""

from hypothesis import given, settings
from hypothesis import strategies as st

from common.chunking.chunk import Chunk, embedding_text
from common.chunking.chunker import ChunkSizes, chunk_text
from common.extraction.extract import extract
from common.extraction.extracted_text import ExtractedText
from tests.unit.tokenizers_under_test import minilm_tokenizer

SIZES = (
    ChunkSizes(),
    ChunkSizes(target_tokens=24, max_tokens=40),
    ChunkSizes(target_tokens=300, max_tokens=64, max_characters=50),
)

words = st.sampled_from(
    [
        "vector",
        "index",
        "e.g.",
        "Ends.",
        "Why?",
        "数据库。",
        "«été»",
        "x" * 130,
        "snake_case",
        "🙂🙂",
    ]
) | st.text(min_size=1, max_size=8)
sentence = st.lists(words, min_size=1, max_size=30).map(" ".join)
blanks = st.sampled_from([" ", "\n", "\n\n", "\r\n\r\n", "\t", "\u2028", "   \n \n"])
plain_documents = st.lists(sentence | blanks | st.text(max_size=40), max_size=12).map("".join)

markdown_blocks = st.one_of(
    st.tuples(st.integers(1, 7), sentence).map(lambda pair: "#" * pair[0] + " " + pair[1]),
    sentence.map(lambda text: f"{text}\n==="),
    sentence.map(lambda text: f"```\n{text}\n# no heading\n```"),
    st.lists(sentence, max_size=4).map(lambda items: "\n".join(f"- {item}" for item in items)),
    st.lists(sentence, max_size=4).map(lambda rows: "\n".join(["|a|", "|-|", *rows])),
    sentence.map(lambda text: f"> {text}"),
    sentence.map(lambda text: f"---\n{text}\n---"),
    st.sampled_from(["```", "~~~~", "<!--", "- - - # x", "[a]: b", "    code", "* * *"]),
    sentence,
)
line_ends = st.sampled_from(["\n", "\n\n", "\r\n", "\r"])
markdown_documents = st.lists(st.tuples(markdown_blocks, line_ends), max_size=10).map(
    lambda pairs: "".join(block + end for block, end in pairs)
)

tags = st.sampled_from(
    ["p", "div", "h1", "h3", "ul", "li", "table", "tr", "td", "pre", "b", "br", "script", "title"]
)
html_pieces = st.one_of(
    tags.map(lambda tag: f"<{tag}>"),
    tags.map(lambda tag: f"</{tag}>"),
    sentence,
    st.sampled_from(["&amp;", "&nbsp;", "&#0;", "&#xD800;", "<!-- c -->", "<", "\n"]),
)
html_documents = st.lists(html_pieces, max_size=30).map("".join)

documents = st.one_of(
    st.tuples(st.just("text/plain"), plain_documents),
    st.tuples(st.just("text/markdown"), markdown_documents),
    st.tuples(st.just("text/html"), html_documents),
)


def chunks_of(document: tuple[str, str], sizes: ChunkSizes) -> tuple[ExtractedText, list[Chunk]]:
    content_type, source = document
    extracted = extract(source.encode("utf-8", errors="replace"), content_type)
    return extracted, chunk_text(extracted, minilm_tokenizer(), sizes)


def without_blanks(text: str) -> str:
    return "".join(text.split())


@settings(max_examples=150, deadline=None)
@given(documents, st.sampled_from(SIZES))
def test_every_character_is_in_exactly_one_chunk(
    document: tuple[str, str], sizes: ChunkSizes
) -> None:
    extracted, chunks = chunks_of(document, sizes)
    end = 0
    for chunk in chunks:
        assert not extracted.text[end : chunk.start].strip()
        assert chunk.start >= end
        end = chunk.end
    assert not extracted.text[end:].strip()
    assert without_blanks("".join(chunk.text for chunk in chunks)) == without_blanks(extracted.text)


@settings(max_examples=150, deadline=None)
@given(documents, st.sampled_from(SIZES))
def test_every_chunk_fits_the_window(document: tuple[str, str], sizes: ChunkSizes) -> None:
    _, chunks = chunks_of(document, sizes)
    for chunk in chunks:
        (ids,) = minilm_tokenizer().encode([embedding_text(chunk.heading_path, chunk.text)])
        assert chunk.token_ids == ids
        assert chunk.token_count == len(ids) + sizes.special_tokens
        assert chunk.token_count <= sizes.max_tokens
        assert len(chunk.text) <= sizes.max_characters


@settings(max_examples=100, deadline=None)
@given(documents, st.sampled_from(SIZES))
def test_chunks_are_trimmed_slices_and_the_same_each_time(
    document: tuple[str, str], sizes: ChunkSizes
) -> None:
    extracted, chunks = chunks_of(document, sizes)
    for chunk in chunks:
        assert chunk.text == extracted.text[chunk.start : chunk.end]
        assert chunk.text
        assert chunk.text == chunk.text.strip()
    _, again = chunks_of(document, sizes)
    assert again == chunks
    assert [chunk.hash for chunk in again] == [chunk.hash for chunk in chunks]


@settings(max_examples=100, deadline=None)
@given(documents)
def test_every_character_is_in_exactly_one_block(document: tuple[str, str]) -> None:
    content_type, source = document
    extracted = extract(source.encode("utf-8", errors="replace"), content_type)
    end = 0
    for block in extracted.blocks:
        assert end <= block.start < block.end <= len(extracted.text)
        assert not extracted.text[end : block.start].strip()
        end = block.end
    assert not extracted.text[end:].strip()
