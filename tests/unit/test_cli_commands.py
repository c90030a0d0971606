"""Commands that need no service: help, settings, roles; and what a start costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from common.cli import roles
from common.cli.main import app
from common.settings import Settings
from common.storage.data_folder import DataFolder

COMMANDS = (
    "up", "webhook", "worker", "push", "watch", "replay", "search", "status", "dlq", "settings",
    "demo", "scrub", "optimize", "profile", "keys", "sources",
    "audit", "canary", "doctor",
)  # fmt: skip
KEYS_COMMANDS = ("keys create", "keys list", "keys revoke")
AUDIT_COMMANDS = ("audit list", "audit verify", "audit head")
SOURCES_COMMANDS = ("sources list", "sources check", "sources test")
HEAVY = {"onnxruntime", "fastembed", "prometheus_client", "qdrant_edge", "numpy", "pypdf"}


def invoke(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))


def test_help_lists_all_commands_and_the_exit_codes() -> None:
    text = invoke("--help").stdout
    assert all(f" {command} " in text for command in COMMANDS)
    assert "3 the service could not be reached" in text


@pytest.mark.parametrize(
    "command",
    [
        *COMMANDS, "dlq list", "dlq show", "dlq redrive", "dlq discard", *KEYS_COMMANDS,
        *SOURCES_COMMANDS, *AUDIT_COMMANDS,
    ],
)  # fmt: skip
def test_each_command_teaches_with_an_example(command: str) -> None:
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    if command not in ("audit", "dlq", "keys", "sources"):
        assert "Example:" in result.stdout
        assert f"bloomweaver {command}" in result.stdout or command == "settings"


@pytest.mark.parametrize(
    "words", [["--help"], ["search", "x", "--url", "http://127.0.0.1:9"], ["push", "."]]
)
def test_client_commands_load_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, json\nfrom common.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    environment = {
        **os.environ, "PYTHONPATH": str(Path.cwd()), "BLOOMWEAVER_URL": "http://127.0.0.1:9",
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True,
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    loaded = json.loads(ended.stderr.splitlines()[-1])
    assert "common.cli.main" in loaded
    assert not HEAVY & set(loaded)


def test_settings_lists_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOOMWEAVER_PORT", "8181")
    listed = {item["name"]: item for item in json.loads(invoke("settings", "--json").stdout)}
    assert listed.keys() == Settings.model_fields.keys()
    assert (listed["port"]["value"], listed["port"]["default"]) == (8181, 8080)
    assert listed["port"]["variable"] == "BLOOMWEAVER_PORT"
    assert "BLOOMWEAVER_PORT=8181  (default: 8080)" in invoke("settings").stdout


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOOMWEAVER_PORT", "many")
    result = invoke("status")
    assert result.exit_code == 2
    assert "BLOOMWEAVER_PORT" in result.stderr


def test_one_wrong_setting_is_one_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults that are made of other settings cannot be made then."""
    monkeypatch.setenv("BLOOMWEAVER_PORT", "abc")
    said = invoke("status").stderr
    assert said.count("BLOOMWEAVER_") == 1, said


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "http://", "http://[::"])
def test_a_wrong_address_is_usage(url: str) -> None:
    result = invoke("status", "--url", url)
    assert result.exit_code == 2, result.output


@pytest.mark.parametrize("words", [["demo", "--data-dir", "."], ["push"], ["nonsense"]])
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    assert invoke(*words).exit_code == 2


# --- roles --------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Settings, str]]:
    """What was started: the role, its settings, and where its metrics go."""
    calls: list[tuple[str, Settings, str]] = []

    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def load(self) -> Callable[[Settings], int]:
            # At loading, prometheus_client is imported: the variable has to be there by now.
            metrics = os.environ["PROMETHEUS_MULTIPROC_DIR"]

            def role(settings: Settings) -> int:
                calls.append((self.name, settings, metrics))
                return 7

            return role

    def find(*, group: str, name: str) -> list[Any]:
        assert group == "bloomweaver.roles"
        return [] if name == "delete" else [Entry(name)]

    monkeypatch.setattr(roles, "entry_points", find)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "elsewhere")
    return calls


def test_up_runs_with_its_options_and_ends_with_its_code(
    started: list[tuple[str, Settings, str]], tmp_path: Path
) -> None:
    metrics = DataFolder(tmp_path).run_path / "metrics"
    metrics.mkdir()
    (metrics / "counter_999999999.db").touch()
    (metrics / f"counter_{os.getpid()}.db").touch()
    result = invoke(
        "up", "--data-dir", str(tmp_path), "--port", "0", "--host", "::1", "--log-format", "json"
    )
    assert result.exit_code == 7, result.output
    [(name, settings, folder)] = started
    assert (name, settings.data_dir, settings.port, settings.host) == ("up", tmp_path, 0, "::1")
    assert settings.log_format == "json"
    assert Path(folder) == metrics
    assert {file.name for file in metrics.iterdir()} == {
        f"{kind}_{os.getpid()}.db" for kind in ("counter", "histogram")
    }
    # Not sparse: a full disk must not end the process when a counter's page is first written.
    reserved = (metrics / f"histogram_{os.getpid()}.db").stat()
    assert reserved.st_blocks * 512 >= reserved.st_size > 65536


def test_a_worker_leaves_the_metrics_of_others(
    started: list[tuple[str, Settings, str]], tmp_path: Path
) -> None:
    metrics = DataFolder(tmp_path).run_path / "metrics"
    metrics.mkdir()
    (metrics / "counter_999999999.db").touch()
    assert invoke("worker", "embed", "--data-dir", str(tmp_path)).exit_code == 7
    assert started[0][0] == "embed"
    assert (metrics / "counter_999999999.db").exists()


def test_only_the_embedding_worker_is_given_a_device(
    started: list[tuple[str, Settings, str]], tmp_path: Path
) -> None:
    given = ("--device", "cuda", "--data-dir", str(tmp_path))
    assert invoke("worker", "embed", *given).exit_code == 7
    assert started[0][1].device == "cuda"
    result = invoke("worker", "create", *given)
    assert result.exit_code == 2
    assert "worker embed" in result.stderr
    assert len(started) == 1


def test_a_folder_of_something_else_is_refused(
    started: list[tuple[str, Settings, str]], tmp_path: Path
) -> None:
    (tmp_path / "holiday.jpg").touch()
    result = invoke("up", "--data-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "not a BloomWeaver data folder" in result.stderr
    assert started == []


@pytest.mark.parametrize("kind", ["create", "update", "delete"])
def test_apply_workers_say_where_the_embedded_index_lives(
    kind: str, started: list[tuple[str, Settings, str]]
) -> None:
    result = invoke("worker", kind)
    assert result.exit_code == 2
    assert "bloomweaver up" in result.stderr
    assert f"{kind} consumer" in result.stderr
    assert started == []


def test_apply_workers_start_with_an_index_server(
    started: list[tuple[str, Settings, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BLOOMWEAVER_INDEX_URL", "qdrant://somewhere")
    assert invoke("worker", "update", "--data-dir", str(tmp_path)).exit_code == 7
    assert started[0][0] == "update"


def test_a_role_that_is_not_installed_is_named(
    started: list[tuple[str, Settings, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BLOOMWEAVER_INDEX_URL", "qdrant://somewhere")
    result = invoke("worker", "delete", "--data-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "no role 'delete'" in result.stderr
    assert started == []
