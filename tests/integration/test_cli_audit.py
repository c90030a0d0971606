"""`bloomweaver audit` on a real trail, and what other commands tell it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from common.adapters.audit.sqlite import SqliteAuditTrail
from common.cli.main import app
from common.ports.audit import AuditEvent
from common.storage.data_folder import DataFolder

NOW = 1.7e9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    DataFolder(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _no_settings_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def append(folder: Path, *events: AuditEvent, key: bytes | None = None) -> None:
    async def run() -> None:
        trail = SqliteAuditTrail(folder / "audit.sqlite", key=key)
        await trail.append(events)
        await trail.close()

    asyncio.run(run())


def event(number: int, **members: Any) -> AuditEvent:
    given: dict[str, Any] = {"namespace": "docs", "document_id": f"d{number}", "result": "accepted"}
    return AuditEvent(
        at=NOW + number, principal="key:a", action="insert", version=number, **(given | members)
    )


def audit(folder: Path, *words: str, **environment: str) -> Result:
    given = {f"BLOOMWEAVER_{name.upper()}": value for name, value in environment.items()}
    runner = CliRunner(env={"COLUMNS": "200", "BLOOMWEAVER_DATA_DIR": str(folder), **given})
    return runner.invoke(app, ["audit", *words])


def head(folder: Path) -> str:
    return audit(folder, "head").stdout.strip()


def tamper(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "audit.sqlite")) as connection:
        connection.executescript(f"DROP TRIGGER no_update; DROP TRIGGER no_delete; {statement}")


def test_entries_are_listed_the_newest_first(folder: Path) -> None:
    append(folder, *(event(n) for n in range(1, 6)), event(9, namespace="other", count=3))
    listed = json.loads(audit(folder, "list", "-n", "docs", "--limit", "2", "--json").stdout)
    assert [entry["document_id"] for entry in listed["entries"]] == ["d5", "d4"]
    assert listed["more"] is True
    shown = audit(folder, "list", "--document", "d9").stdout
    assert "6  insert other: d9  accepted version 9 ×3" in shown
    assert "2023-11-14 22:13:29 UTC, key:a" in shown
    since = json.loads(audit(folder, "list", "--since", "2023-11-14T22:13:25Z", "--json").stdout)
    assert [entry["sequence"] for entry in since["entries"]] == [6, 5]
    assert "no entries" in audit(folder, "list", "--since", "24h").stdout


def test_more_entries_than_a_page_has(folder: Path) -> None:
    append(folder, *(event(n) for n in range(2300)))
    listed = json.loads(audit(folder, "list", "--limit", "2200", "--json").stdout)
    assert [e["version"] for e in listed["entries"]] == list(range(2299, 99, -1))


def test_a_whole_trail(folder: Path) -> None:
    append(folder, *(event(n) for n in range(5)))
    result = audit(folder, "verify")
    assert result.exit_code == 0
    assert "5 entries verified" in result.stdout
    assert head(folder) in result.stdout
    assert "cut off or written anew passes" in result.stderr
    kept = audit(folder, "verify", "--head", head(folder))
    assert kept.exit_code == 0
    assert not kept.stderr


def test_a_trail_that_was_changed(folder: Path) -> None:
    append(folder, *(event(n) for n in range(5)))
    tamper(folder, "UPDATE entries SET principal = 'key:b' WHERE sequence = 3")
    result = audit(folder, "verify")
    assert result.exit_code == 1
    assert "edited: entry 3 is not what its hash says" in result.stdout
    told = json.loads(audit(folder, "verify", "--json").stdout)
    assert (told["whole"], told["wrong"]["sequence"]) == (False, 3)


def test_a_trail_that_was_cut_off(folder: Path) -> None:
    append(folder, *(event(n) for n in range(5)))
    kept = head(folder)
    tamper(folder, "DELETE FROM entries WHERE sequence > 3")
    assert audit(folder, "verify").exit_code == 0
    result = audit(folder, "verify", "--head", kept)
    assert result.exit_code == 1
    assert "entries 4 to 5 are cut off" in result.stdout


def test_a_trail_with_a_key(folder: Path) -> None:
    append(folder, event(1), event(2))
    append(folder, event(3), key=b"hush-of-the-chain")
    key = {"audit_key": "hush-of-the-chain"}
    assert audit(folder, "verify", "--keyed-from", "3", **key).exit_code == 0
    results = [
        audit(folder, "verify", **key), audit(folder, "verify"),
        audit(folder, "verify", "--keyed-from", "3", audit_key="another"),
    ]  # fmt: skip
    assert [result.exit_code for result in results] == [1, 1, 1]
    assert "entry 1 was made without the key" in results[0].stdout
    assert "hush" not in audit(folder, "list", **key).output


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["verify", "--head", "12"], "no head"), (["list", "--since", "yesterday"], "--since"),
        (["list", "--since", "2026-01-31T09:00:00"], "zone"),
    ],
)  # fmt: skip
def test_what_is_said_wrongly(folder: Path, words: list[str], why: str) -> None:
    result = audit(folder, *words)
    assert result.exit_code == 2
    assert why in result.stderr


def test_nothing_is_made_where_there_is_no_trail(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    result = audit(nowhere, "verify")
    assert result.exit_code == 2
    assert "not a data folder" in result.stderr
    assert not nowhere.exists()


def test_where_none_is_kept(folder: Path) -> None:
    result = audit(folder, "head", audit_url="none:")
    assert result.exit_code == 2
    assert "no audit trail is kept" in result.stderr


@pytest.mark.parametrize(
    ("scheme", "password"),
    [
        ("postgresql", "hush"), ("postgres", "hush@hush"), ("postgresql", "hush/hush"),
        ("mysql", "hush%2F"),
    ],
)  # fmt: skip
def test_no_password_is_shown(folder: Path, scheme: str, password: str) -> None:
    url = f"{scheme}://me:hush/hush@127.0.0.1:9/x"
    for words in (["audit", "head"], ["settings"], ["settings", "--json"]):
        runner = CliRunner(env={"BLOOMWEAVER_DATA_DIR": str(folder), "BLOOMWEAVER_AUDIT_URL": url})
        output = runner.invoke(app, words).output
        assert "hush" not in output or scheme == "mysql"
    safe = f"{scheme}://me:hush%2Fhush@127.0.0.1:9/x"
    assert "hush" not in audit(folder, "head", audit_url=safe).output


def test_making_and_revoking_a_key_is_told_without_the_key(folder: Path) -> None:
    runner = CliRunner(env={"BLOOMWEAVER_DATA_DIR": str(folder)})
    made = json.loads(runner.invoke(app, ["keys", "create", "--name", "me", "--json"]).stdout)
    runner.invoke(app, ["keys", "revoke", made["id"]])
    listed = json.loads(audit(folder, "list", "--json").stdout)["entries"]
    told = [(e["action"], e["subject"], e["principal"].partition(":")[0]) for e in listed]
    assert told == [("key.revoke", made["id"], "operator"), ("key.create", made["id"], "operator")]
    secret = made["key"].rpartition("_")[2]
    assert secret not in json.dumps(listed)


def test_a_key_that_cannot_be_told_of_is_not_shown(folder: Path) -> None:
    runner = CliRunner(
        env={
            "BLOOMWEAVER_DATA_DIR": str(folder),
            "BLOOMWEAVER_AUDIT_URL": "postgresql://me:x@127.0.0.1:9/x",
        }
    )
    result = runner.invoke(app, ["keys", "create", "--name", "me"])
    assert result.exit_code == 3
    assert "bw_" not in result.output
