"""The client commands against a real server that speaks the API: what people see on stdout, the
exit code, and what the server was sent."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.cli.main import app
from common.cli.service_process import ServiceProcess, child_environment
from tests.fakes.service import FakeService, serving

WITHIN_SECONDS = 30.0


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    async with serving(FakeService()) as fake:
        yield fake


async def run(service: FakeService, *arguments: str | Path) -> Ended:
    """The command in a thread: it owns an event loop, and the server needs this one."""
    words = [*map(str, arguments), "--url", service.url]
    runner = CliRunner(env={"COLUMNS": "200"})
    result = await asyncio.to_thread(runner.invoke, app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


def write(folder: Path, **files: str | bytes) -> Path:
    """Files under names in which __ is a slash and _ is a dot."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def feed(path: Path, *lines: dict[str, Any] | str) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    data = "\n".join(texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def insert(document_id: str, content: str = "text", **members: Any) -> dict[str, Any]:
    return {"change_type": "insert", "document_id": document_id, "content": content, **members}


# --- push ---------------------------------------------------------------------------------------


async def test_push_sends_only_what_changed(service: FakeService, tmp_path: Path) -> None:
    folder = write(
        tmp_path, same_md="same", edited_md="new text", guides__added_md="é",
        _hidden_md="x", _git__config_md="x", failed_txt="again",
    )  # fmt: skip
    service.put("same.md", b"same")
    service.put("edited.md", b"old text")
    service.put("failed.txt", b"again", status="FAILED", error="was broken")
    ended = await run(service, "push", folder)
    assert ended.code == 0, ended.err
    assert service.sent == [
        ("insert", "guides/added.md"), ("update", "edited.md"), ("update", "failed.txt"),
    ]  # fmt: skip
    assert service.changes[0] == {
        "change_type": "insert", "namespace": "default", "document_id": "guides/added.md",
        "content_type": "text/markdown", "content": "é",
    }  # fmt: skip
    assert "1 new, 2 changed, 0 deleted; 1 unchanged" in ended.out
    assert "3 documents applied" in ended.out
    assert (await run(service, "push", folder, "--json")).json["sent"] == 0
    assert len(service.changes) == 3


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
async def test_a_name_that_is_no_utf8_holds_up_no_other_file(
    service: FakeService, tmp_path: Path
) -> None:
    folder = write(tmp_path, a_md="a")
    for name in (b"caf\xe9.md", b"caf\xe9.csv"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("x")
    ended = await run(service, "push", folder, "--delete-missing", "--json")
    assert ended.code == 1
    assert service.sent == [("insert", "a.md")]
    assert ended.json["unreadable"] == {"caf\\xe9.md": "its name is no UTF-8"}
    assert ended.json["unsupported"] == [f"{folder}/caf\\xe9.csv"]
    assert "cannot read caf\\xe9.md: its name is no UTF-8" in ended.err


async def test_push_sends_binary_bytes_unaltered(service: FakeService, tmp_path: Path) -> None:
    raw = bytes(range(256))
    ended = await run(service, "push", write(tmp_path, a_pdf=raw) / "a.pdf")
    assert ended.code == 0
    [change] = service.changes
    assert (change["document_id"], change["content_encoding"]) == ("a.pdf", "base64")
    assert base64.b64decode(change["content"]) == raw


async def test_push_deletes_what_is_missing_under_the_prefix(
    service: FakeService, tmp_path: Path
) -> None:
    folder = write(tmp_path, a_md="a", table_csv="1,2")
    for name in ("hb/a.md", "hb/gone.md", "hb/table.csv", "hbx/other.md", "elsewhere.md"):
        service.put(name, b"a")
    service.put("hb/deleted.md", b"", status="DELETED", content_hash="")
    ended = await run(service, "push", folder, "--prefix", "hb", "--delete-missing")
    assert ended.code == 0, ended.err
    assert service.sent == [("delete", "hb/gone.md")]
    assert "1 deleted" in ended.out


async def test_push_refuses_to_delete_everything(service: FakeService, tmp_path: Path) -> None:
    service.put("a.md", b"a")
    ended = await run(service, "push", tmp_path, "--delete-missing")
    assert ended.code == 2
    assert "--force" in ended.err
    assert service.changes == []
    assert (await run(service, "push", tmp_path, "--delete-missing", "--force")).code == 0
    assert service.sent == [("delete", "a.md")]
    one_file = write(tmp_path, a_md="a") / "a.md"
    assert (await run(service, "push", one_file, "--delete-missing")).code == 2


async def test_dry_run_says_what_it_would_do_and_sends_nothing(
    service: FakeService, tmp_path: Path
) -> None:
    folder = write(tmp_path, new_md="new", edited_md="edited")
    service.put("edited.md", b"old")
    service.put("gone.md", b"gone")
    ended = await run(service, "push", folder, "--dry-run", "--delete-missing")
    assert ended.code == 0
    assert {"+ new.md", "~ edited.md", "- gone.md"} <= set(ended.out.splitlines())
    assert not [line for line in service.requests if line.startswith("POST")]


async def test_unsupported_files_are_named_in_a_folder_and_refused_by_name(
    service: FakeService, tmp_path: Path
) -> None:
    write(tmp_path, a_md="a", table_csv="1,2")
    in_folder = await run(service, "push", tmp_path)
    assert in_folder.code == 0
    assert "table.csv" in in_folder.err
    assert service.sent == [("insert", "a.md")]
    by_name = await run(service, "push", tmp_path / "table.csv")
    assert by_name.code == 2
    assert "no known type" in by_name.err
    assert (await run(service, "push", tmp_path / "nothing.md")).code == 2


async def test_push_reports_what_was_refused_and_what_failed(
    service: FakeService, tmp_path: Path
) -> None:
    service.refuses, service.fails = {"bad.md"}, {"broken.pdf"}
    folder = write(tmp_path, bad_md="b", broken_pdf="p", good_md="g")
    ended = await run(service, "push", folder, "--json")
    assert ended.code == 1
    assert ended.json["applied"] == 1
    assert [r["document_id"] for r in ended.json["refused"]] == ["bad.md"]
    assert [(f["document_id"], f["error"]) for f in ended.json["failed"]] == [
        ("broken.pdf", "broken PDF")
    ]
    assert "FAILED: broken.pdf (version 1): broken PDF" in ended.err
    assert "document_id: is not good" in ended.err


async def test_push_waits_for_many_documents_through_the_listing(
    service: FakeService, tmp_path: Path
) -> None:
    for number in range(60):
        write(tmp_path, **{f"{number}_md": "x"})
    service.page_size = 25
    ended = await run(service, "push", tmp_path, "--json")
    assert ended.json["applied"] == 60
    assert not [line for line in service.requests if "/documents/" in line]


async def test_push_keeps_metadata_and_sends_it_when_it_differs(
    service: FakeService, tmp_path: Path
) -> None:
    folder = write(tmp_path, a_md="a")
    service.put("a.md", b"a", metadata={"team": "one"})
    await run(service, "push", folder)
    await run(service, "push", folder, "--metadata", "team=one")
    assert service.changes == []
    await run(service, "push", folder, "--metadata", "team=two", "--no-wait")
    assert service.changes[0]["metadata"] == {"team": "two"}


# --- replay -------------------------------------------------------------------------------------


async def test_replay_sends_known_fields_in_order(service: FakeService, tmp_path: Path) -> None:
    lines = feed(
        tmp_path / "feed.jsonl.gz",
        insert("a.md", revision="1", time=2), "", insert("b.md", namespace="other"),
        {"change_type": "delete", "document_id": "a.md", "content": None},
    )  # fmt: skip
    ended = await run(service, "replay", lines, "--namespace", "ns")
    assert ended.code == 0, ended.err
    assert service.changes == [
        insert("a.md", namespace="ns", content_type="text/markdown"),
        insert("b.md", namespace="other", content_type="text/markdown"),
        {"change_type": "delete", "document_id": "a.md", "content": None, "namespace": "ns"},
    ]
    assert "3 lines: 3 accepted" in ended.out


async def test_replay_goes_on_where_the_connection_was_lost(
    service: FakeService, tmp_path: Path
) -> None:
    service.drops_after = [3, 2]
    names = [f"{number}.md" for number in range(8)]
    ended = await run(service, "replay", feed(tmp_path / "f.jsonl", *map(insert, names)), "--json")
    assert ended.code == 0, ended.err
    assert ended.json["outcomes"] == {"accepted": 8}
    assert ended.json["applied"] == 8
    # A result may be lost with its connection, so a line may come twice, but none is skipped.
    assert {name for _, name in service.sent} == set(names)
    assert service.requests.count("POST /v1/changes") == 3
    assert service.sent[-1] == ("insert", "7.md")
    assert len(service.sent) < 2 * len(names)


async def test_replay_repeats_from_a_line_that_found_the_service_unavailable(
    service: FakeService, tmp_path: Path
) -> None:
    service.unavailable_once = {"b.md"}
    lines = feed(tmp_path / "f.jsonl", insert("a.md"), insert("b.md", "1"), insert("b.md", "2"))
    ended = await run(service, "replay", lines, "--json")
    assert ended.json["outcomes"] == {"accepted": 3}
    assert service.sent[0] == ("insert", "a.md")
    assert [c["content"] for c in service.changes][-2:] == ["1", "2"]
    assert service.sent.count(("insert", "a.md")) == 1


async def test_replay_gives_up_in_the_end(service: FakeService, tmp_path: Path) -> None:
    service.drops_after = [1] + [0] * 100
    lines = feed(tmp_path / "f.jsonl", insert("a.md"), insert("b.md"))
    ended = await run(service, "replay", lines, "--retry-seconds", "0.3")
    assert ended.code == 3
    assert "had been answered" in ended.err


async def test_bad_lines_cost_only_themselves(service: FakeService, tmp_path: Path) -> None:
    lines = feed(
        tmp_path / "f.jsonl", insert("a.md"), "{not json", "", "[]", {"change_type": "delete"},
        insert("b.md"),
    )  # fmt: skip
    ended = await run(service, "replay", lines, "--json")
    assert ended.code == 1
    assert [refusal["line"] for refusal in ended.json["refused"]] == [2, 4, 5]
    assert ended.json["outcomes"] == {"accepted": 2}
    assert "refused: line 2:" in ended.err


async def test_a_damaged_feed_is_sent_up_to_the_damage(
    service: FakeService, tmp_path: Path
) -> None:
    changes = [insert(f"{n}.md", os.urandom(999).hex()) for n in range(99)]
    path = feed(tmp_path / "f.jsonl.gz", *changes)
    path.write_bytes(path.read_bytes()[:-2000])
    ended = await run(service, "replay", path)
    assert ended.code == 1
    assert "cut off or damaged" in ended.err
    assert 0 < len(service.sent) < 99


async def test_replay_stops_at_its_limit(service: FakeService, tmp_path: Path) -> None:
    lines = feed(tmp_path / "f.jsonl", insert("a.md"), insert("b.md"))
    assert (await run(service, "replay", lines, "--limit", "1")).code == 0
    assert service.sent == [("insert", "a.md")]


# --- reading ------------------------------------------------------------------------------------


async def test_search_shows_rank_score_source_path_and_text(service: FakeService) -> None:
    options = ["--top-k", "3", "--filter", '{"team": "a"}', "--wait", "2"]
    ended = await run(service, "search", "why", *options)
    assert ended.code == 0
    for part in ("1", "0.812", "guides/a.md", "Guide › Deletes", "Deletes stay deleted."):
        assert part in ended.out
    assert service.searches == [
        {"namespace": "default", "query": "why", "top_k": 3, "filter": {"team": "a"}, "wait": 2.0}
    ]
    assert (await run(service, "search", "why", "--json")).json["hits"][0]["score"] == 0.8125


async def test_a_refusal_names_the_field_and_bad_filters_are_usage(service: FakeService) -> None:
    refused = await run(service, "search", "")
    assert (refused.code, "query: must not be empty" in refused.err) == (1, True)
    assert (await run(service, "search", "why", "--filter", "[1]")).code == 2


async def test_status_of_the_service_and_of_a_document(service: FakeService) -> None:
    service.put("guides/a b?.md", b"x", status="FAILED", error="broken PDF")
    whole = await run(service, "status")
    for part in ("default", "FAILED", "1 running, at most 4", "waiting 3", "dead letters: 0"):
        assert part in whole.out
    one = await run(service, "status", "guides/a b?.md")
    assert one.code == 0
    assert "broken PDF" in one.out
    assert "applied version" in one.out
    assert (await run(service, "status", "--json")).json["workers"]["peak"] == 2
    assert (await run(service, "status", "unknown")).code == 1


async def test_dead_letters(service: FakeService) -> None:
    service.dead_letters = [
        {
            "message_id": f"m{n}", "source": "change", "namespace": "default", "version": n,
            "document_id": f"{n}.pdf", "reason": "broken PDF", "receive_count": 3,
            "sent_at": None, "died_at": "2026-01-31T09:05:00+00:00",
        }
        for n in range(3)
    ]  # fmt: skip
    listed = await run(service, "dlq", "list")
    assert all(f"{n}.pdf" in listed.out for n in range(3))
    first = await run(service, "dlq", "list", "--limit", "2", "--json")
    assert (len(first.json["dead_letters"]), first.json["more"]) == (2, True)
    shown = (await run(service, "dlq", "show", "m1")).out
    for part in ("received: 3", "first: an unknown time", "last: 2026-01-31 09:05:00 UTC"):
        assert part in shown
    assert (await run(service, "dlq", "show", "m9")).code == 1
    assert (await run(service, "dlq", "redrive")).code == 2
    assert (await run(service, "dlq", "redrive", "m0", "m9")).code == 1
    assert (await run(service, "dlq", "redrive", "--all", "--json")).json == {"redriven": 3}
    assert service.redriven == [{"message_ids": ["m0", "m9"]}, {"all": True}]


async def test_an_unreachable_service_is_exit_code_3(tmp_path: Path) -> None:
    gone = FakeService()
    async with serving(gone):
        pass
    lines = feed(tmp_path / "f.jsonl", insert("a.md"))
    folder = write(tmp_path, a_md="a")
    commands = (["status"], ["search", "x"], ["push", folder], ["replay", lines], ["dlq", "list"])
    for command in commands:
        ended = await run(gone, *command)
        assert ended.code == 3, command
        assert "bloomweaver up" in ended.err
        assert ended.out == ""


# --- watch --------------------------------------------------------------------------------------


def hears_interrupts() -> None:
    """Whoever started the tests in the background made their children deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


async def test_watch_follows_edits_and_deletions_until_ctrl_c(
    service: FakeService, tmp_path: Path
) -> None:
    folder = write(tmp_path, a_md="one", b_md="b")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "common.cli.main", "watch", str(folder), "--url", service.url,
        "--json", "--debounce", "50",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=hears_interrupts,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WITHIN_SECONDS):
            assert json.loads(await process.stdout.readline())["applied"] == 2
            if sys.platform == "linux":
                Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.md")).write_text("x")
            write(tmp_path, a_md="two!")
            assert json.loads(await process.stdout.readline())["applied"] == 1
            (folder / "b.md").unlink()
            assert json.loads(await process.stdout.readline())["deleted"] == 1
            process.send_signal(signal.SIGINT)
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert service.sent[2:] == [("update", "a.md"), ("delete", "b.md")]
    assert service.changes[2]["content"] == "two!"


# --- ends ---------------------------------------------------------------------------------------


async def test_ctrl_c_in_the_middle_of_a_replay_is_exit_code_130(
    service: FakeService, tmp_path: Path
) -> None:
    service.hangs_on = {"b.md"}
    path = feed(tmp_path / "f.jsonl", insert("a.md"), insert("b.md"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "common.cli.main", "replay", str(path), "--url", service.url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=hears_interrupts,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WITHIN_SECONDS):
            await service.hanging.wait()
            process.send_signal(signal.SIGINT)
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_a_demo_whose_service_breaks_shows_its_log_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    breaks = [sys.executable, "-c", "print('the disk is full'); raise SystemExit(4)"]
    monkeypatch.setattr(ServiceProcess, "_command", lambda _self: breaks)
    result = CliRunner().invoke(app, ["demo", "--data-dir", str(tmp_path / "data")])
    assert result.exit_code == 1
    assert "the disk is full" in result.stderr
    assert "ended with 4" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_demo_never_writes_to_services_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOOMWEAVER_INDEX_URL", "pinecone://production")
    monkeypatch.setenv("BLOOMWEAVER_WORKERS_MAX", "1")
    environment = child_environment()
    assert environment["BLOOMWEAVER_INDEX_URL"] == "qdrant-edge:"
    assert environment["BLOOMWEAVER_QUEUE_URL"] == "sqlite:"
    assert environment["BLOOMWEAVER_WORKERS_MAX"] == "1"
