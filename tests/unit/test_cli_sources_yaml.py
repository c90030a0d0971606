"""`bloomweaver sources`: what people see of their sources before any delivery comes."""

from __future__ import annotations

import asyncio
import json
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from common.adapters.receipts.sqlite import SqliteReceipts
from common.cli import sources
from common.cli.main import app
from common.ports.receipts import Receipt
from common.storage.data_folder import DataFolder
from tests.source_files import DELIVERIES, SECRET, VARIABLE

FILE = f"""\
sources:
  wiki:
    description: Our wiki
    namespace: docs
    verify: {{kind: hmac, header: X-Sum, secret: "${{{VARIABLE}}}"}}
    ignore: payload.type == 'ping'
    items: payload.pages
    changes:
      - document_id: "wiki/{{item.id}}"
        namespace: "{{not_null(item.ns, 'docs')}}"
        content: item.text
        metadata: {{event: headers."x-event"}}
  cms:
    preset: contentful
    namespaces: [docs, team-*]
    verify: {{secret: "${{{VARIABLE}}}"}}
    stopped: true
    changes:
      - document_id: "{{item.sys.id}}"
        namespace: "team-{{item.team}}"
        content: item.text
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with the entry points that are declared now, in a folder with sources."""
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    group = declared["project"]["entry-points"][sources.GROUP]

    def entry_points(*, group: str, name: str) -> list[EntryPoint]:
        return [EntryPoint(name, found[name], group)]

    found: dict[str, str] = group
    monkeypatch.setattr(sources, "entry_points", entry_points)
    monkeypatch.setenv(VARIABLE, SECRET)
    monkeypatch.chdir(tmp_path)
    Path("sources.yaml").write_text(FILE)


def invoke(*words: str) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["sources", *words])
    assert SECRET not in result.output
    return result


def tried(payload: Any, *words: str) -> tuple[int, Any]:
    Path("payload.json").write_text(json.dumps(payload))
    result = invoke("test", "wiki", "payload.json", "--json", *words)
    return result.exit_code, json.loads(result.stdout)


def test_the_sources_are_listed() -> None:
    result = invoke("list")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "cms: POST /v1/sources/cms, verified by basic, into docs, team-*, preset contentful, "
        "stopped",
        "wiki: POST /v1/sources/wiki, verified by hmac, into docs",
    ]
    assert "debezium: Debezium change events" in invoke("list", "--presets").stdout


def test_no_file_is_no_source() -> None:
    Path("sources.yaml").unlink()
    assert "No sources" in invoke("list").stdout
    assert invoke("check").stdout == "Nothing is wrong.\n"


def test_mistakes_are_told_with_their_lines() -> None:
    assert invoke("check").exit_code == 0
    Path("other.yaml").write_text(FILE.replace("stopped", "stoped").replace("items", "itms"))
    result = invoke("check", "--file", "other.yaml")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "other.yaml:7: source wiki: itms: there is no such field",
        "other.yaml:17: source cms: stoped: there is no such field",
    ]
    result = invoke("list", "--file", "other.yaml")
    assert result.exit_code == 1
    assert "other.yaml:7:" in result.stderr


def test_a_payload_is_shown_as_the_changes_it_would_make() -> None:
    payload = {"pages": [{"id": 1, "text": "One"}]}
    code, told = tried(payload, "--header", "X-Event: saved")
    assert code == 0
    assert told == {
        "source": "wiki", "verified": None, "delivery_id": None, "ignored": False, "items": 1,
        "unmatched": 0,
        "changes": [
            {
                "change_type": "insert", "namespace": "docs", "document_id": "wiki/1",
                "content": "One", "metadata": {"event": "saved"},
            }
        ],
        "refused": [], "warnings": [], "to_be_fetched": [],
    }  # fmt: skip
    text = invoke("test", "wiki", "payload.json").stdout
    assert "Signature: not looked at" in text
    assert "1 change of 1 item" in text
    assert '"document_id": "wiki/1"' in text


def test_what_is_ignored_is_said_to_be() -> None:
    code, told = tried({"type": "ping"})
    assert (code, told["ignored"], told["changes"]) == (0, True, [])
    assert "Ignored" in invoke("test", "wiki", "payload.json").stdout


def test_a_signature_is_made_or_looked_at() -> None:
    payload: dict[str, Any] = {"pages": []}
    assert tried(payload, "--sign")[1]["verified"] is True
    code, told = tried(payload, "--verify", "--header", "X-Sum: 00")
    assert (code, told["verified"], told["problem"]["status"]) == (1, False, 401)
    assert "Refused with 401" in invoke("test", "wiki", "payload.json", "--verify").stdout


def test_what_would_be_refused_is_told_change_by_change() -> None:
    code, told = tried(
        {"pages": [{"id": 1, "text": "x"}, {"id": 2}, {"id": 3, "text": "x", "ns": "b"}]}
    )
    assert code == 1
    assert [change.get("problem", {}).get("status") for change in told["changes"]] == [
        None,
        422,
        403,
    ]
    code, told = tried({"pages": [{"text": "x"}]})
    assert (code, told["problem"]["field"]) == (1, "items[0].rules[0].document_id")
    code, told = tried({"pages": [{"text": "x"}, {"id": 1, "text": "x"}]})
    assert (code, len(told["changes"])) == (1, 1)
    assert [problem["field"] for problem in told["refused"]] == ["items[0].rules[0].document_id"]
    assert "No change: " in invoke("test", "wiki", "payload.json").stdout


def test_files_that_would_be_fetched_are_named() -> None:
    Path("sources.yaml").write_text(
        "sources:\n  gh:\n    preset: github-push\n    namespace: docs\n"
        f"    github_token: ${{{VARIABLE}}}\n    repositories: [example-org/*]\n"
        f"    verify: {{secret: '${{{VARIABLE}}}'}}\n"
    )
    file = str(DELIVERIES / "github-push.json")
    result = invoke("test", "gh", file, "--header", "X-GitHub-Event: push", "--sign", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert "README.md" in {one["path"] for one in told["to_be_fetched"]}
    assert len(told["changes"]) == 4
    text = invoke("test", "gh", file, "--header", "X-GitHub-Event: push").stdout
    assert "To be fetched: README.md of example-org/handbook at main" in text
    push = json.loads(Path(file).read_text()) | {"forced": True}
    Path("payload.json").write_text(json.dumps(push))
    text = invoke("test", "gh", "payload.json", "--header", "X-GitHub-Event: push").stdout
    assert "Warning: a force push" in text


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("nobody", "payload.json"), 1, "there is no source 'nobody'; there are: cms, wiki"),
        (("wiki", "missing.json"), 2, "missing.json cannot be read"),
        (("wiki", "payload.json", "--header", "none"), 2, "a header is given as `Name: value`"),
    ],
)
def test_mistakes_of_the_command_line(words: tuple[str, ...], code: int, told: str) -> None:
    Path("payload.json").write_text("{}")
    result = invoke("test", *words)
    assert (result.exit_code, told in result.stderr) == (code, True)


def test_a_payload_may_come_from_stdin() -> None:
    words = ["sources", "test", "wiki", "-", "--json"]
    result = CliRunner().invoke(app, words, input='{"type": "ping"}')
    assert json.loads(result.stdout)["ignored"] is True


def test_tokens_that_wait_for_their_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = "\n  notes: {preset: notion, namespace: docs, verify: {kind: notion-handshake}}\n"
    Path("sources.yaml").write_text(FILE + waiting)
    monkeypatch.setenv("BLOOMWEAVER_DATA_DIR", "data")
    assert invoke("tokens", "notes").stdout == "None came in the last day.\n"
    receipt = Receipt(
        fingerprint="", status=200, body=b"token-of-notion", expires_at=time.time() + 60
    )

    async def keep() -> None:
        receipts = SqliteReceipts(DataFolder(Path("data")).receipts_path)
        await receipts.keep("token-of-source:notes", "0", receipt)
        await receipts.close()

    asyncio.run(keep())
    assert invoke("tokens", "notes").stdout == "token-of-notion\n"
    assert json.loads(invoke("tokens", "notes", "--json").stdout)["tokens"] == ["token-of-notion"]
    unknown = invoke("tokens", "other")
    assert (unknown.exit_code, "there are: cms, notes, wiki" in unknown.stderr) == (1, True)
