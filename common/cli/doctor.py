"""`bloomweaver doctor`: what is configured, tried out, with a line for each and how to mend it."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

from common.checks import Check, Finding, Verdict, carried_out
from common.cli.configuration import load_settings
from common.cli.output import Output
from common.cli.problems import JSON, ExitCode
from common.diagnosis import checks_of, setting_of
from common.secrets import without_secrets
from common.settings import Settings

MARKS = {
    Verdict.FINE: ("✓", "green"),
    Verdict.NOTE: ("!", "yellow"),
    Verdict.UNREACHABLE: ("✗", "bold red"),
    Verdict.WRONG: ("✗", "bold red"),
}
FAILURES = (Verdict.UNREACHABLE, Verdict.WRONG)


async def doctor_command(data_dir: Path | None, timeout_seconds: float | None, out: Output) -> int:
    """Exit code: 0 if nothing is wrong, else 1. Raises WrongUsageError for unusable settings."""
    settings = load_settings({"data_dir": data_dir, "check_timeout_seconds": timeout_seconds})
    if settings.log_level != "debug":
        _quiet()
    findings = await _examined(settings, out)
    failed = sum(finding.verdict in FAILURES for finding in findings)
    out.json({"ok": not failed, "checks": [_as_json(f, settings) for f in findings]})
    code = ExitCode.FAILED if failed else ExitCode.DONE
    if any(finding.timed_out for finding in findings):
        _leave(code)
    return code


async def _examined(settings: Settings, out: Output) -> list[Finding]:
    """All side by side; each is told as soon as those before it are."""
    running = [asyncio.create_task(_carried_out(check, settings)) for check in checks_of(settings)]
    findings = []
    for task in running:
        finding = await task
        findings.append(finding)
        mark, style = MARKS[finding.verdict]
        out.say(f"{mark} {finding.name}: {finding.line}{_where(finding, settings)}", style)
    return findings


async def _carried_out(check: Check, settings: Settings) -> Finding:
    found = await carried_out(check, settings.check_timeout_seconds)
    return replace(found, line=without_secrets(found.line, settings))


def _where(finding: Finding, settings: Settings) -> str:
    """What a person would change, behind what is wrong with it."""
    setting = setting_of(finding.name, settings)
    if finding.verdict not in FAILURES or not setting or "BLOOMWEAVER_" in finding.line:
        return ""
    return f" ({without_secrets(setting, settings)})"


def _as_json(finding: Finding, settings: Settings) -> JSON:
    setting = without_secrets(setting_of(finding.name, settings), settings)
    return {
        "name": finding.name,
        "verdict": finding.verdict.value,
        "detail": finding.line,
        **({"setting": setting} if setting else {}),
    }


def _quiet() -> None:
    """What adapters log on the way is told by the findings."""
    from common import telemetry

    telemetry.configure_logging("console", "error")


def _leave(code: int) -> None:
    """A thread that hangs in a library would hold the interpreter's end for as long."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
