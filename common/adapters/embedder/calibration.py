"""How many padded tokens one inference should take: measured once on a machine, then remembered.

Long texts gain nothing from batches on a CPU, short ones some; how much is the machine's to say.
Candidates are measured in turn, so that what else goes on meets all alike, and only while nothing
waits. A larger batch must earn its memory and the wait of those who come while it runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from common.adapters.embedder.device import Device

DEFAULT_BUDGETS: Final[Mapping[Device, int]] = {"cpu": 128, "cuda": 16384}
"""Padded tokens until a machine was measured. On one thread of a server CPU a batch of texts of
128 tokens or more is no faster than the same texts one by one; 30 tokens gain 40 % in fours."""
CANDIDATES: Final[Mapping[Device, tuple[int, ...]]] = {
    "cpu": (128, 256, 512, 1024),
    "cuda": (4096, 16384, 65536),
}
TEXT_TOKENS: Final = (64, 256)
ROUNDS: Final = 5
NEEDED_GAIN: Final = 1.05
LONGEST_RUN_SECONDS: Final = 0.15
"""What takes longer is not tried: so long would a text that comes meanwhile have to wait."""
PAUSE_SECONDS: Final = 0.05
IDLE_POLL_SECONDS: Final = 0.5

Measure = Callable[[int, int], Awaitable[float | None]]
"""(texts, tokens of each) → seconds of one inference, or None if the machine was not idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a measurement holds for."""

    model: str
    device: Device
    lanes: int
    processor: str
    onnxruntime: str


def choose_budget(rounds: Sequence[Mapping[int, float]], default: int) -> int:
    """`rounds`: tokens a second by budget, one entry a round.

    The smallest, unless a larger one is faster by more than 5 % in the median round.
    """
    tried = sorted(set.intersection(*(set(each) for each in rounds))) if rounds else [default]
    chosen = tried[0]
    for budget in tried[1:]:
        if median(rates[budget] / rates[chosen] for rates in rounds) > NEEDED_GAIN:
            chosen = budget
    return chosen


def worth_trying(budgets: Sequence[int], seconds_per_token: float) -> list[int]:
    """Those whose batch takes no longer than a newcomer may have to wait for it."""
    return [each for each in budgets if each * seconds_per_token <= LONGEST_RUN_SECONDS]


async def calibrate(measure: Measure, device: Device) -> int:
    """The budget for this machine. Waits for idle moments as long as it takes."""
    tokens = TEXT_TOKENS[0]
    # The first run of a shape is slow, and a single one may have met something else at work.
    fastest = min([await _undisturbed(measure, 1, tokens) for _ in range(1 + ROUNDS)])
    budgets = worth_trying(CANDIDATES[device], fastest / tokens)
    rounds: list[dict[int, float]] = []
    for number in range(ROUNDS if len(budgets) > 1 else 0):
        order = budgets if number % 2 else budgets[::-1]
        rounds.append({budget: await _rate(measure, budget) for budget in order})
    slow = min([DEFAULT_BUDGETS[device], *budgets[-1:]]) if budgets else CANDIDATES[device][0]
    return choose_budget(rounds, slow)


async def _rate(measure: Measure, budget: int) -> float:
    """Tokens a second; short and long texts count alike."""
    per_token = 0.0
    for tokens in TEXT_TOKENS:
        texts = max(1, budget // tokens)
        per_token += await _undisturbed(measure, texts, tokens) / (texts * tokens)
    return len(TEXT_TOKENS) / per_token


async def _undisturbed(measure: Measure, texts: int, tokens: int) -> float:
    while True:
        await asyncio.sleep(PAUSE_SECONDS)
        seconds = await measure(texts, tokens)
        if seconds is not None:
            return seconds
        await asyncio.sleep(IDLE_POLL_SECONDS)


def calibration_path(folder: Path, machine: Machine) -> Path:
    digest = hashlib.sha256(json.dumps(asdict(machine), sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:12]}-calibration.json"


def read_budget(folder: Path, machine: Machine) -> int | None:
    """None where there is none, or where it cannot be read: then it is measured again."""
    try:
        found = json.loads(calibration_path(folder, machine).read_bytes())
        budget = found["max_padded_tokens"] if found["machine"] == asdict(machine) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return budget if type(budget) is int and budget > 0 else None


def write_budget(folder: Path, machine: Machine, budget: int) -> None:
    """Whole or not at all; of several workers that measured at once the last one's stays."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"machine": asdict(machine), "max_padded_tokens": budget}, indent=1)
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False) as draft:
        draft.write(content)
    os.replace(draft.name, calibration_path(folder, machine))  # noqa: PTH105 - the name is a str


def processor_name() -> str:
    """As the kernel names it; empty for an unknown machine is as good a key as any."""
    try:
        information = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", information, re.MULTILINE)
    return found[1] if found else platform.processor()
