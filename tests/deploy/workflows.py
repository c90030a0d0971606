"""The workflows as data, and which of them a change of a file starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
ACTIONS = ROOT / ".github" / "actions"


@dataclass(frozen=True)
class Workflow:
    name: str
    """Of the file, without its ending."""
    text: str
    content: dict[Any, Any]

    @property
    def triggers(self) -> dict[str, Any]:
        """YAML 1.1 reads the key `on` as a truth."""
        told = self.content[True]
        return dict(told) if isinstance(told, dict) else {told: None}

    @property
    def reusable(self) -> bool:
        return "workflow_call" in self.triggers

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        return dict(self.content["jobs"])

    def steps(self) -> Iterator[dict[str, Any]]:
        for job in self.jobs.values():
            yield from job.get("steps", ())

    def inputs(self) -> dict[str, Any]:
        """What its one call of a reusable workflow is given."""
        [job] = self.jobs.values()
        return dict(job.get("with", {}))

    def paths(self, event: str) -> list[str] | None:
        """None: the event starts it whatever was changed, or does not start it."""
        told = self.triggers.get(event) or {}
        return told.get("paths")

    def started_by(self, event: str, file: str) -> bool:
        if event not in self.triggers:
            return False
        paths = self.paths(event)
        return paths is None or any(pattern(path).fullmatch(file) for path in paths)


def workflows() -> dict[str, Workflow]:
    found = {}
    for path in sorted(FOLDER.glob("*.yml")):
        text = path.read_text()
        found[path.stem] = Workflow(path.stem, text, yaml.safe_load(text))
    return found


def composite_actions() -> dict[str, dict[str, Any]]:
    return {path.parent.name: yaml.safe_load(path.read_text()) for path in ACTIONS.glob("*/*.yml")}


def pattern(path: str) -> re.Pattern[str]:
    """A filter of `paths:`: `*` is anything within a name, `**` anything. Raises ValueError for
    what is not read here, so that no filter is taken for another."""
    if re.search(r"[?+\[\]!]", path):
        raise ValueError(f"this test does not read the filter {path}")
    parts = re.split(r"(\*\*|\*)", path)
    kinds = {"**": ".*", "*": "[^/]*"}
    return re.compile("".join(kinds.get(part) or re.escape(part) for part in parts))


def expanded(text: str, context: Mapping[str, str]) -> str:
    """With its `${{ … }}` put in as GitHub does: names such as `inputs.environment`, literals, `&&`
    and `||`. A name that is not in the context is empty. Raises ValueError for all else."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: _value(found[1], context), text)


def _value(expression: str, context: Mapping[str, str]) -> str:
    value = ""
    for alternative in expression.split("||"):
        for term in alternative.split("&&"):
            value = _term(term.strip(), context)
            if not value:
                break
        if value:
            return value
    return value


def _term(term: str, context: Mapping[str, str]) -> str:
    if literal := re.fullmatch(r"'([^']*)'", term):
        return literal[1]
    if not re.fullmatch(r"[a-z_]+(\.\w+)+", term):
        raise ValueError(f"this test does not read the expression {term}")
    return context.get(term, "")
