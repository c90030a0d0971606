"""What is found on disk and what is made of it: files, plans, feeds, output."""

from __future__ import annotations

import base64
import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.cli.feed import Feed
from common.cli.files import LocalFile, as_prefix, scan
from common.cli.output import counted, plain, shorten
from common.cli.plan import Plan, content_members, parse_metadata
from common.cli.problems import WrongUsageError
from common.client.errors import Problem
from common.client.waiting import shared_prefix


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


# --- files --------------------------------------------------------------------------------------


def test_documents_are_called_as_their_path_in_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b/c.HTML", "a.md", ".hidden.md", ".git/x.md", "b/table.csv", "z.docx")
    found = scan([str(tmp_path)], "hb/")
    assert list(found.files) == ["hb/a.md", "hb/b/c.HTML", "hb/z.docx"]
    assert found.files["hb/b/c.HTML"].content_type == "text/html"
    assert list(found.unsupported.values()) == [tmp_path / "b/table.csv"]


def test_a_file_is_called_by_its_name_and_a_match_from_the_wildcard_on(tmp_path: Path) -> None:
    touch(tmp_path, "docs/b/c.md", "docs/a.md", "docs/x.csv")
    assert list(scan([str(tmp_path / "docs/b/c.md")]).files) == ["c.md"]
    found = scan([str(tmp_path / "docs/**/*.md")])
    assert list(found.files) == ["a.md", "b/c.md"]
    with pytest.raises(WrongUsageError, match="nothing matches"):
        scan([str(tmp_path / "*.rst")])


def test_two_files_never_become_one_document(tmp_path: Path) -> None:
    touch(tmp_path, "a/index.md", "b/index.md")
    paths = [str(tmp_path / name / "index.md") for name in "ab"]
    with pytest.raises(WrongUsageError, match="both be document"):
        scan(paths)
    assert len(scan([paths[0], paths[0]]).files) == 1


def test_a_prefix_is_a_folder() -> None:
    assert [as_prefix(p) for p in ("", "/", "hb", "/hb/x/")] == ["", "", "hb/", "hb/x/"]


# --- plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [b"", b"a\r\nb\r", "é\ufeff\0".encode(), b"\xff\xfe", b"\xed\xa0\x80"]
)
def test_content_arrives_as_the_bytes_of_the_file(raw: bytes) -> None:
    for content_type in ("text/plain", "application/pdf"):
        change = json.loads(json.dumps(content_members(raw, content_type)))
        content = change["content"]
        binary = change.get("content_encoding") == "base64"
        assert (base64.b64decode(content) if binary else content.encode()) == raw


def test_an_unreadable_file_is_noted_and_the_others_are_sent(tmp_path: Path) -> None:
    touch(tmp_path, "a.md", "c.md")
    files = [
        LocalFile(path=tmp_path / name, document_id=name, content_type="text/markdown")
        for name in ("a.md", "b.md", "c.md")
    ]
    plan = Plan("ns", add=files[:2], change=files[2:], delete=["d.md"])
    assert [(line.number, line.document_id) for line in plan.lines()] == [
        (1, "a.md"), (3, "c.md"), (4, "d.md"),
    ]  # fmt: skip
    assert list(plan.unreadable) == ["b.md"]
    kinds = [json.loads(line.payload)["change_type"] for line in plan.lines()]
    assert kinds == ["insert", "update", "delete"]


def test_metadata_pairs() -> None:
    assert parse_metadata(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    assert parse_metadata([]) is None
    with pytest.raises(WrongUsageError, match="key=value"):
        parse_metadata(["team"])


# --- feeds --------------------------------------------------------------------------------------


def changes_of(path: Path, **options: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(line.number, json.loads(line.payload)) for line in Feed(path, **options).lines()]


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text('{"document_id": "a"}\n\n{"document_id": "b"}\r\n{"document_id": "c"}')
    assert [number for number, _ in changes_of(path)] == [1, 3, 4]
    assert [change["document_id"] for _, change in changes_of(path)] == ["a", "b", "c"]
    assert [number for number, _ in changes_of(path, limit=2)] == [1, 3]


@pytest.mark.parametrize(
    ("change", "content_type"),
    [
        ({"document_id": "a.md", "content": "x"}, "text/markdown"),
        ({"document_id": "a.md", "content": "x", "content_type": "text/html"}, "text/html"),
        ({"document_id": "LICENSE", "content": "x"}, None),
        ({"document_id": "a.md", "metadata": {}}, None),
        ({"document_id": 7, "content": "x"}, None),
    ],
)
def test_content_types_come_from_the_suffix_where_there_is_content(
    tmp_path: Path, change: dict[str, Any], content_type: str | None
) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(change))
    [(_, sent)] = changes_of(path)
    assert sent.get("content_type") == content_type


@pytest.mark.parametrize("bad", ["{", "[" * 100_000, '{"content": "\\ud800"}', "1", "\xff"])
def test_what_is_no_change_is_kept_aside(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(bad.encode("latin-1") + b'\n{"document_id": "b"}')
    feed = Feed(path)
    assert [line.number for line in feed.lines()] == [2]
    assert list(feed.bad) == [1]


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_pipe_is_read_as_a_file_is(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines = packed(b'{"document_id": "a"}\n{"document_id": "b"}\n')
    feed = Feed(pipe)
    # Asked before anybody writes: this must not wait.
    assert feed.size_bytes is None
    writer = threading.Thread(target=pipe.write_bytes, args=[lines], daemon=True)
    writer.start()
    assert [line.document_id for line in feed.lines()] == ["a", "b"]
    writer.join(10)


def test_a_folder_is_no_feed(tmp_path: Path) -> None:
    with pytest.raises(WrongUsageError, match="folder"):
        _ = Feed(tmp_path).size_bytes


# --- words --------------------------------------------------------------------------------------


def test_documents_cannot_drive_the_terminal() -> None:
    assert plain("a\x1b[31mb\x07\n") == "a [31mb \n"
    assert shorten("one \n two\tthree", 9) == "one two…"
    assert (counted(1, "line"), counted(1200, "line")) == ("1 line", "1,200 lines")


def test_a_problem_says_field_and_limit() -> None:
    body = {"title": "Large", "status": 413, "detail": "is large", "field": "content", "limit": 9}
    problem = Problem.from_json(body)
    assert str(problem) == "content: is large (limit: 9)"
    assert problem.as_json() == body
    assert str(Problem.from_json({"title": "No"}, 400)) == "No"


def test_shared_prefix() -> None:
    assert shared_prefix([]) == ""
    assert shared_prefix(["a"]) == "a"
    assert shared_prefix(["ab/x", "ab", "ab/y"]) == "ab"
    assert shared_prefix(["a", "b"]) == ""
