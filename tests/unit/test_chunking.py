"""Which chunks documents are cut into."""

import hashlib

import pytest

from common.chunking.chunk import Chunk, embedding_text
from common.chunking.chunker import ChunkSizes, chunk_text, size_tokens
from common.extraction.extract import extract
from tests.unit.tokenizers_under_test import WordTokenizer, minilm_tokenizer

SMALL = ChunkSizes(target_tokens=24, max_tokens=64)


def chunked(
    source: str, content_type: str = "text/markdown", sizes: ChunkSizes | None = None
) -> list[Chunk]:
    extracted = extract(source.encode(), content_type)
    return chunk_text(extracted, minilm_tokenizer(), sizes or ChunkSizes())


def outline(chunks: list[Chunk]) -> list[tuple[tuple[str, ...], str]]:
    return [(chunk.heading_path, chunk.text) for chunk in chunks]


class TestChunk:
    def test_the_hash_is_of_what_is_embedded(self) -> None:
        chunk = Chunk('é"', 3, 5, ("A", "B"), 9)
        assert chunk.hash == hashlib.sha256('B\né"'.encode()).hexdigest()
        assert chunk.hash == Chunk('é"', 0, 2, ("A", "B"), 1).hash
        assert chunk.hash == Chunk('é"', 3, 5, ("other", "B"), 9).hash
        assert chunk.hash != Chunk('é"', 3, 5, ("A", "C"), 9).hash

    @pytest.mark.parametrize(
        ("path", "text", "expected"),
        [
            ((), "text", "text"),
            (("A", "B"), "text", "B\ntext"),
            (("A", "B"), "## B\n\ntext", "## B\n\ntext"),
            (("A", "B"), "# A\n\ntext", "B\n# A\n\ntext"),
            (("B",), "B\n===\ntext", "B\n===\ntext"),
            (("A", "B"), "# A\n\n## B\n\ntext", "# A\n\n## B\n\ntext"),
            (("Install",), "Install the package", "Install\nInstall the package"),
            (("Long…",), "Longer\n\ntext", "Longer\n\ntext"),
        ],
    )
    def test_a_heading_is_not_said_twice(
        self, path: tuple[str, ...], text: str, expected: str
    ) -> None:
        assert embedding_text(path, text) == expected

    def test_a_fence_of_comments_is_not_taken_for_headings_to_its_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked_at: list[str] = []

        def title_of(line: str) -> str:
            looked_at.append(line)
            return line

        monkeypatch.setattr("common.chunking.chunk.heading_title", title_of)
        chunk = Chunk("# a\n" * 4000, 0, 16_000, ("A",), 9)
        assert chunk.hash == chunk.hash
        assert len(looked_at) < 100


class TestStructure:
    def test_a_heading_begins_a_chunk(self) -> None:
        source = "intro\n\n# A\n\na\n\n## B\n\nb\n\n## C ##\n\nc\n\nD\n=\n\nd\n"
        assert outline(chunked(source)) == [
            ((), "intro"),
            (("A",), "# A\n\na"),
            (("A", "B"), "## B\n\nb"),
            (("A", "C"), "## C ##\n\nc"),
            (("D",), "D\n=\n\nd"),
        ]

    def test_headings_without_text_travel_with_the_next(self) -> None:
        assert outline(chunked("# A\n\n## B\n\n## C\n\nc\n\n# D")) == [
            (("A", "C"), "# A\n\n## B\n\n## C\n\nc"),
            (("D",), "# D"),
        ]

    def test_front_matter_is_no_heading(self) -> None:
        assert outline(chunked("---\ntitle: x\n---\n\n# A\n\na")) == [
            ((), "---\ntitle: x\n---"),
            (("A",), "# A\n\na"),
        ]

    def test_a_page_title_heads_the_path(self) -> None:
        source = "<title>Site</title><p>a</p><h2>B</h2><p>b"
        assert outline(chunked(source, "text/html")) == [
            (("Site",), "a"),
            (("Site", "B"), "B\n\nb"),
        ]

    @pytest.mark.parametrize("source", ["", " \n\t\u3000\n"])
    def test_blanks_make_no_chunk(self, source: str) -> None:
        assert chunked(source) == []

    def test_a_one_section_edit_leaves_other_chunks_alone(self) -> None:
        source = "# A\n\na\n\n# B\n\nb\n\n# C\n\nc"
        before = {chunk.hash for chunk in chunked(source)}
        after = {chunk.hash for chunk in chunked(source.replace("\n\nb", "\n\nmore b"))}
        assert len(after - before) == 1


class TestPacking:
    def test_equal_blocks_fill_chunks_up_to_the_target(self) -> None:
        paragraph = "one two three four five six seven eight nine ten"
        chunks = chunked("\n\n".join([paragraph] * 5), sizes=SMALL)
        two = f"{paragraph}\n\n{paragraph}"
        three = f"{two}\n\n{paragraph}"
        assert [chunk.text for chunk in chunks] == [two, three]
        assert [chunk.token_count for chunk in chunks] == [22, 32]

    def test_a_section_up_to_the_target_is_one_chunk(self) -> None:
        paragraphs = [f"{word} two three four five six seven" for word in ("one", "uno", "ein")]
        (chunk,) = chunked("\n\n".join(paragraphs), sizes=SMALL)
        assert chunk.token_count == 23

    def test_blocks_are_cut_before_sentences(self) -> None:
        words = [f"word{number}" for number in range(14)]
        blocks = [" ".join(f"{w} has {n} of them." for w in words[n : n + 5]) for n in range(10)]
        sizes = ChunkSizes(target_tokens=64, max_tokens=256)
        chunks = chunked("\n\n".join(blocks), "text/plain", sizes)
        assert len(chunks) > 3
        assert all(chunk.text.split("\n\n")[0] in blocks for chunk in chunks)

    def test_a_code_fence_that_fits_stays_whole(self) -> None:
        fence = "```\none two three.\n\nfour five six\n```"
        text = "a b c d e f g h i j k l"
        assert [chunk.text for chunk in chunked(f"{text}\n\n{fence}", sizes=SMALL)] == [text, fence]

    def test_a_table_that_fits_stays_whole(self) -> None:
        table = "|a|b|\n|-|-|\n|1|2|"
        text = "a b c d e f g h i j k l"
        assert [chunk.text for chunk in chunked(f"{text}\n\n{table}", sizes=SMALL)] == [text, table]

    def test_a_heading_is_not_left_alone_before_a_block_that_fits(self) -> None:
        text = "one two three four five six seven eight nine ten " * 2
        chunks = chunked(f"# A heading of some words\n\n{text}", sizes=SMALL)
        assert [chunk.heading_path for chunk in chunks] == [("A heading of some words",)]

    def test_a_large_paragraph_is_cut_behind_sentences(self) -> None:
        sentence = "One two three four five six seven eight, e.g. nine ten."
        chunks = chunked(" ".join([sentence] * 4), sizes=SMALL)
        assert [chunk.text for chunk in chunks] == [sentence] * 4

    def test_chinese_sentences_need_no_space(self) -> None:
        sentence = "数据库保存所有文档的向量索引。"
        chunks = chunked(sentence * 3, sizes=SMALL)
        assert [chunk.text for chunk in chunks] == [sentence] * 3

    def test_a_large_sentence_is_cut_at_blanks(self) -> None:
        chunks = chunked("word " * 46, sizes=SMALL)
        assert [len(chunk.text.split()) for chunk in chunks] == [19, 27]
        assert max(chunk.token_count for chunk in chunks) <= 2 + SMALL.fill_tokens * 8 // 5

    def test_a_large_word_is_cut_hard(self) -> None:
        chunks = chunked("数" * 100, sizes=SMALL)
        assert "".join(chunk.text for chunk in chunks) == "数" * 100
        assert [chunk.token_count - 2 for chunk in chunks] == [len(chunk.text) for chunk in chunks]
        assert max(chunk.token_count for chunk in chunks) <= 2 + SMALL.fill_tokens * 8 // 5

    def test_a_long_word_does_not_pass_as_one_token(self) -> None:
        assert size_tokens("x" * 401, 1) == 101
        assert size_tokens("x" * 100, 1) == 1
        assert [len(chunk.text) for chunk in chunked("x" * 2500)] == [1024, 1476]

    def test_long_heading_paths_lose_their_outermost_headings(self) -> None:
        source = "\n\n".join(f"{'#' * level} {f'h{level} ' * 20}" for level in (1, 2, 3))
        chunks = chunked(source + "\n\n" + "text. " * 300)
        assert all(chunk.heading_path == (("h3 " * 20).strip(),) for chunk in chunks)

    def test_a_heading_that_fills_the_window_is_cut(self) -> None:
        chunks = chunked("# " + "数" * 500 + "\n\n" + "text. " * 300)
        heading = chunks[-1].heading_path[0]
        assert heading == "数" * (len(heading) - 1) + "…"
        assert 50 <= len(heading) <= 64

    @pytest.mark.parametrize(
        "arguments",
        [{"max_tokens": 20}, {"target_tokens": 0}, {"max_characters": 0}, {"special_tokens": -1}],
    )
    def test_sizes_without_room_are_refused(self, arguments: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=r"positive|window"):
            ChunkSizes(**arguments)


class TestTokenizer:
    def test_texts_of_any_length_are_counted_in_full(self) -> None:
        found = minilm_tokenizer().encode(["word " * 100_000, "", "two words"])
        assert [len(ids) for ids in found] == [100_000, 0, 2]
        assert len(set(found[0])) == 1

    def test_offsets_are_those_of_the_whole_text(self) -> None:
        text = "é 数 word " * 20_000
        offsets = minilm_tokenizer().offsets(text)
        assert [text[start:end] for start, end in offsets] == ["é", "数", "word"] * 20_000


class TestMonsters:
    """Texts that take quadratic time, or all memory, where any step is careless."""

    @pytest.mark.parametrize("content_type", ["text/plain", "text/markdown"])
    def test_thirty_megabytes_without_a_space(self, content_type: str) -> None:
        counter = WordTokenizer()
        size = 30_000_000
        extracted = extract(b"x" * size, content_type)
        chunks = chunk_text(extracted, counter, ChunkSizes())
        assert sum(len(chunk.text) for chunk in chunks) == size
        assert max(len(chunk.text) for chunk in chunks) <= 1640
        assert counter.largest_characters < 1 << 20

    def test_four_megabytes_without_a_space_in_the_true_tokenizer(self) -> None:
        chunks = chunked("x" * (4 << 20))
        assert {(len(chunk.text), chunk.token_count) for chunk in chunks} == {(1024, 3)}

    def test_chinese_without_a_space(self) -> None:
        chunks = chunked("数" * 300_000)
        assert sum(chunk.token_count - 2 for chunk in chunks) == 300_000
        assert max(chunk.token_count for chunk in chunks) == 258

    def test_hundreds_of_thousands_of_short_lines(self) -> None:
        counter = WordTokenizer()
        extracted = extract(b"ab\n" * 300_000, "text/plain")
        chunks = chunk_text(extracted, counter, ChunkSizes())
        sizes = [len(chunk.text.split()) for chunk in chunks]
        assert sum(sizes) == 300_000
        assert set(sizes[:-2]) <= {256, 320}
        assert counter.largest_characters < 1 << 20

    def test_many_short_lines_of_markdown_in_the_true_tokenizer(self) -> None:
        chunks = chunked("ab\n" * 100_000 + "\n# H\n\ntext")
        assert sum(len(chunk.text.split()) for chunk in chunks[:-1]) == 100_000
        assert chunks[-1].text == "# H\n\ntext"

    def test_many_headings(self) -> None:
        chunks = chunked("# ab\n" * 20_000)
        assert sum(chunk.text.count("#") for chunk in chunks) == 20_000

    @pytest.mark.parametrize("piece", [".", "。", "! ", ".'", "\n", " ", "[a]: b\n", "a\r", "x)."])
    def test_runs_of_separators(self, piece: str) -> None:
        source = "a" + piece * 150_000 + "b"
        chunks = chunk_text(extract(source.encode(), "text/plain"), WordTokenizer(), ChunkSizes())
        assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(source.split())
