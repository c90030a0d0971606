"""What each format is turned into."""

import logging
import zipfile
from io import BytesIO

import docx
import pytest
from pypdf import PdfReader, PdfWriter

from common.extraction.content_types import charset, guess_content_type, is_text
from common.extraction.extract import ExtractedText, UnreadableDocument, extract
from common.extraction.extracted_text import BlockKind, heading_title

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def blocks_of(extracted: ExtractedText) -> list[tuple[str, str]]:
    return [
        (block.kind.name, extracted.text[block.start : block.end]) for block in extracted.blocks
    ]


def read(source: str, content_type: str) -> list[tuple[str, str]]:
    return blocks_of(extract(source.encode(), content_type))


def pdf_with(*pages: str) -> bytes:
    """A PDF by hand: a page to a text, each drawn with one Tj operator."""
    objects = ["<</Type/Catalog/Pages 2 0 R>>", ""]
    kids = []
    for page in pages:
        number = len(objects) + 1
        kids.append(f"{number} 0 R")
        stream = f"BT /F1 12 Tf 72 700 Td ({page}) Tj ET"
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents {number + 1} 0 R"
            "/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>"
        )
        objects.append(f"<</Length {len(stream)}>>\nstream\n{stream}\nendstream")
    objects[1] = f"<</Type/Pages/Kids[{' '.join(kids)}]/Count {len(kids)}>>"
    body = b"%PDF-1.4\n"
    offsets = []
    for number, source in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{source}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<</Size {size}/Root 1 0 R>>\n"
    return body + trailer.encode() + f"startxref\n{len(body)}\n%%EOF\n".encode()


def encrypted(content: bytes, password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(BytesIO(content)))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    target = BytesIO()
    writer.write(target)
    return target.getvalue()


class TestContentTypes:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("docs/README.MD", "text/markdown"),
            ("a.markdown", "text/markdown"),
            ("a.txt", "text/plain"),
            ("a.rst", "text/x-rst"),
            ("a.htm", "text/html"),
            ("a.pdf", "application/pdf"),
            ("a.docx", DOCX),
            ("a.bin", None),
            ("md", None),
        ],
    )
    def test_a_suffix_names_a_type(self, path: str, expected: str | None) -> None:
        assert guess_content_type(path) == expected

    def test_text_is_told_from_binary(self) -> None:
        assert is_text("Text/HTML; charset=utf-8")
        assert not is_text("application/pdf")

    def test_a_charset_may_be_quoted(self) -> None:
        assert charset('text/html; x=y; Charset="latin-1"') == "latin-1"
        assert charset("text/html") is None

    def test_an_unknown_type_is_refused_by_name(self) -> None:
        with pytest.raises(UnreadableDocument, match=r"'image/png'.*markdown.*/pdf"):
            extract(b"x", "image/png")

    def test_other_text_is_plain(self) -> None:
        assert read("# a\n\nb", "text/x-rst") == [("PARAGRAPH", "# a"), ("PARAGRAPH", "b")]


class TestDecoding:
    @pytest.mark.parametrize(
        ("content", "content_type", "expected"),
        [
            ("été".encode("latin-1"), "text/plain; charset=latin-1", "été"),
            (b"\xef\xbb\xbfa", "text/plain", "a"),
            ("été".encode("utf-16"), "text/plain", "été"),
            (b"a\xffb", "text/plain", "a\ufffdb"),
            (b"abc", "text/plain; charset=nonsense", "abc"),
            (b"abc-", "text/plain; charset=punycode", "abc-"),
            (b"6162", "text/plain; charset=hex", "6162"),
            ("<meta charset=latin-1><p>été".encode("latin-1"), "text/html", "été"),
        ],
    )
    def test_bytes_become_text(self, content: bytes, content_type: str, expected: str) -> None:
        assert extract(content, content_type).text == expected


class TestPlain:
    def test_blank_lines_part_paragraphs(self) -> None:
        assert read("a\r\nb\r\n \t\r\nc\n\n\n\nd\n", "text/plain") == [
            ("PARAGRAPH", "a\r\nb"),
            ("PARAGRAPH", "c"),
            ("PARAGRAPH", "d"),
        ]

    def test_blanks_are_no_document(self) -> None:
        assert read(" \n\t\n\u2003", "text/plain") == []


class TestMarkdown:
    def test_blocks_are_slices_of_the_source(self) -> None:
        source = (
            "---\ntitle: T\n---\n\n# One #\n\ntext\nmore\n\nTwo\n---\n\n"
            "- a\n- b\n  - c\n\n```sh\n# no heading\n\nls\n```\n\n"
            "|x|y|\n|-|-|\n|1|2|\n\n> # quoted\n"
        )
        assert read(source, "text/markdown") == [
            ("FRONT_MATTER", "---\ntitle: T\n---"),
            ("HEADING", "# One #"),
            ("PARAGRAPH", "text\nmore"),
            ("HEADING", "Two\n---"),
            ("LIST_ITEM", "- a"),
            ("LIST_ITEM", "- b"),
            ("LIST_ITEM", "- c"),
            ("CODE", "```sh\n# no heading\n\nls\n```"),
            ("TABLE", "|x|y|\n|-|-|\n|1|2|"),
            ("PARAGRAPH", "> # quoted"),
        ]

    def test_levels_of_headings(self) -> None:
        blocks = extract(b"A\n=\n\n### B\n\n####### no", "text/markdown").blocks
        assert [(block.kind, block.level) for block in blocks] == [
            (BlockKind.HEADING, 1),
            (BlockKind.HEADING, 3),
            (BlockKind.PARAGRAPH, 0),
        ]

    def test_carriage_returns_end_lines(self) -> None:
        assert read("# A\r\n\r\nb\rc", "text/markdown") == [
            ("HEADING", "# A"),
            ("PARAGRAPH", "b\rc"),
        ]

    def test_link_definitions_are_not_lost(self) -> None:
        assert read("[a]: b\n", "text/markdown") == [("PARAGRAPH", "[a]: b")]

    def test_large_sources_have_the_blocks_of_small_ones(self) -> None:
        part = "# H\n\ntext\n\n```\n\n# code\n\n```\n\n- a\n\n  b\n\n"
        small = read(part, "text/markdown")
        times = 1_200_000 // len(part)  # over the size that is parsed in one go
        assert read(part * times, "text/markdown") == small * times

    def test_a_huge_fence_is_one_block(self) -> None:
        fence = "~~~\n" + "# code\n\n" * 200_000 + "~~~"
        assert read(f"# A\n\n{fence}\n\n# B\n", "text/markdown") == [
            ("HEADING", "# A"),
            ("CODE", fence),
            ("HEADING", "# B"),
        ]

    @pytest.mark.parametrize("nested", ["> ", "- ", "  - "])
    def test_deep_nesting_loses_nothing(self, nested: str) -> None:
        source = nested * 10_000 + "deep\n\n# After\n"
        blocks = read(source, "text/markdown")
        assert "".join("".join(text.split()) for _, text in blocks) == "".join(source.split())
        assert blocks[-1] == ("HEADING", "# After")

    @pytest.mark.parametrize(
        ("source", "title"),
        [
            ("## Install `pip` ##", "Install pip"),
            ("# [Docs](http://x) and **more**", "Docs and more"),
            ("Title\nover two\n====", "Title over two"),
            ("# C#", "C#"),
            ("#", ""),
            ("__init__ and a_b_c", "__init__ and a_b_c"),
        ],
    )
    def test_a_title_is_plain_text(self, source: str, title: str) -> None:
        assert heading_title(source) == title


class TestHtml:
    def test_a_page(self) -> None:
        source = """<html><head><title>Site</title><style>p{}</style></head><body>
            <h2>Fish &amp; chips</h2><p>One   <b>bold</b>\n word&nbsp;<br>line</p>loose
            <script>no()</script><noscript>no</noscript><template>no</template><!-- no -->
            <ul><li>a<li><p>b</ul><pre>\n  x\n    y </pre>
            <table><tr><th>k</th><th>v</th></tr><tr><td><p>1</p></td><td></td></tr></table>"""
        extracted = extract(source.encode(), "text/html; charset=utf-8")
        assert extracted.title == "Site"
        assert blocks_of(extracted) == [
            ("HEADING", "Fish & chips"),
            ("PARAGRAPH", "One bold word\nline"),
            ("PARAGRAPH", "loose"),
            ("LIST_ITEM", "a"),
            ("LIST_ITEM", "b"),
            ("CODE", "x\n    y"),
            ("TABLE", "k | v\n1 |"),
        ]
        assert extracted.text.startswith("Fish & chips\n\nOne bold word\nline\n\nloose\n\na\nb\n\n")

    def test_a_main_heading_makes_the_title_needless(self) -> None:
        extracted = extract(b"<title>Site</title><h1>A</h1><p>b", "text/html")
        assert extracted.title is None
        assert [block.level for block in extracted.blocks] == [1, 0]

    def test_a_table_for_layout_is_taken_apart(self) -> None:
        source = "<table><tr><td>menu</td><td><h2>A</h2><pre>b</pre></td></tr></table>c"
        assert read(source, "text/html") == [
            ("TABLE", "menu"),
            ("HEADING", "A"),
            ("CODE", "b"),
            ("PARAGRAPH", "c"),
        ]

    @pytest.mark.parametrize("tag", ["div", "b", "ul", "table", "blockquote"])
    def test_deep_nesting_does_no_harm(self, tag: str) -> None:
        source = "a" + f"<{tag}>" * 100_000 + "deep" + f"</{tag}>" * 100_000 + "<h1>z</h1>"
        extracted = extract(source.encode(), "text/html")
        assert extracted.text == ("adeep\n\nz" if tag == "b" else "a\n\ndeep\n\nz")
        assert extracted.blocks[len(extracted.blocks) - 1].kind is BlockKind.HEADING

    def test_formatting_left_open_is_not_opened_anew_in_each_block(self) -> None:
        source = "".join(f"<b id={number}><p>x" for number in range(20_000))
        assert len(extract(source.encode(), "text/html").blocks) == 20_000


class TestPdf:
    def test_pages_are_blocks(self) -> None:
        extracted = extract(pdf_with("Hello page one", "", "And three"), "application/pdf")
        assert extracted.text == "Hello page one\n\nAnd three"
        assert blocks_of(extracted) == [("PAGE", "Hello page one"), ("PAGE", "And three")]

    def test_an_encrypted_file_is_refused(self) -> None:
        with pytest.raises(UnreadableDocument, match=r"^the PDF is encrypted$"):
            extract(encrypted(pdf_with("secret"), "password"), "application/pdf")

    def test_an_empty_password_opens_a_file(self) -> None:
        assert extract(encrypted(pdf_with("open"), ""), "application/pdf").text == "open"

    @pytest.mark.parametrize("content", [b"", b"no pdf", b"%PDF-1.4\n%%EOF", pdf_with("x")[:200]])
    def test_a_broken_file_is_refused(
        self, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        with (
            caplog.at_level(logging.DEBUG),
            pytest.raises(UnreadableDocument, match=r"the PDF cannot be read: ."),
        ):
            extract(content, "application/pdf")
        assert not caplog.records


class TestDocx:
    def test_a_document(self) -> None:
        document = docx.Document()
        document.add_heading("Report", level=0)
        document.add_heading("Part", level=1)
        document.add_paragraph("Some\ttext")
        document.add_paragraph("item", style="List Bullet")
        table = document.add_table(rows=2, cols=2)
        for cell, text in zip(table._cells, ["a", "b", "1", "two\nlines"], strict=True):
            cell.text = text
        document.add_heading("End", level=2)
        target = BytesIO()
        document.save(target)
        extracted = extract(target.getvalue(), DOCX)
        assert extracted.text == (
            "Report\n\nPart\n\nSome\ttext\n\nitem\n\na | b\n1 | two lines\n\nEnd"
        )
        assert [(block.kind.name, block.level) for block in extracted.blocks] == [
            ("HEADING", 1),
            ("HEADING", 2),
            ("PARAGRAPH", 0),
            ("PARAGRAPH", 0),
            ("TABLE", 0),
            ("HEADING", 3),
        ]

    def test_a_zip_bomb_is_refused(self) -> None:
        target = BytesIO()
        with (
            zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("word/document.xml", "w") as member,
        ):
            for _ in range(257):
                member.write(bytes(1 << 20))
        with pytest.raises(UnreadableDocument, match="would unpack to 257 MiB"):
            extract(target.getvalue(), DOCX)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip"])
    def test_a_broken_file_is_refused(self, content: bytes) -> None:
        with pytest.raises(UnreadableDocument, match=r"the DOCX file cannot be read: ."):
            extract(content, DOCX)

    def test_a_zip_without_a_document_is_refused(self) -> None:
        target = BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("a.txt", "x")
        with pytest.raises(UnreadableDocument, match=r"the DOCX file cannot be read: ."):
            extract(target.getvalue(), DOCX)
