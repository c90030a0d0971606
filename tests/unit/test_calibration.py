"""Which batch suits a machine, and how the answer is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from common.adapters.embedder import calibration
from common.adapters.embedder.calibration import (
    Machine,
    calibrate,
    calibration_path,
    choose_budget,
    read_budget,
    worth_trying,
    write_budget,
)

MACHINE = Machine(model="m", device="cpu", lanes=2, processor="p", onnxruntime="1.0")


@pytest.mark.parametrize(
    ("rounds", "chosen"),
    [
        ([], 128),
        ([{128: 100, 256: 104}] * 3, 128),
        ([{128: 100, 256: 106}] * 3, 256),
        ([{128: 100, 256: 106, 512: 110}] * 3, 256),  # held against the one that was taken
        ([{128: 100, 256: 104, 512: 109}] * 3, 512),
        ([{128: 100, 256: 90}, {128: 10, 256: 20}, {128: 100, 256: 101}], 128),  # the median round
        ([{128: 10, 256: 11}, {128: 100, 256: 110}, {128: 50, 256: 55}], 256),  # within a round
    ],
)
def test_a_larger_batch_must_win_clearly(rounds: list[dict[int, float]], chosen: int) -> None:
    assert choose_budget(rounds, 128) == chosen


def test_nothing_is_tried_that_takes_too_long() -> None:
    assert worth_trying((128, 256, 512), 0.0004) == [128, 256]
    assert worth_trying((128, 256, 512), 0.1) == []


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(calibration, "IDLE_POLL_SECONDS", 0.0)


class Timed:
    """A machine on which a call of the model costs `call` seconds and a token `token`."""

    def __init__(self, call: float, token: float, busy_at_first: int = 0) -> None:
        self.call, self.token = call, token
        self.busy = busy_at_first
        self.longest = 0.0

    async def measure(self, texts: int, tokens: int) -> float | None:
        if self.busy:
            self.busy -= 1
            return None
        seconds = self.call + texts * tokens * self.token
        self.longest = max(self.longest, seconds)
        return seconds


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("call", "token", "chosen"),
    [
        (0.0, 0.0001, 128),  # a batch gains nothing
        (0.005, 0.0001, 512),  # it saves calls
        (0.05, 0.001, 128),  # it would, but a batch of 256 takes too long
    ],
)
async def test_the_machine_decides(call: float, token: float, chosen: int) -> None:
    machine = Timed(call, token)
    assert await calibrate(machine.measure, "cpu") == chosen
    assert machine.longest <= calibration.LONGEST_RUN_SECONDS


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("token", [0.00002, 0.1])
async def test_what_was_too_slow_to_be_tried_is_not_taken(token: float) -> None:
    assert await calibrate(Timed(0.0, token).measure, "cuda") == 4096


@pytest.mark.usefixtures("no_pauses")
async def test_a_busy_machine_is_waited_for() -> None:
    machine = Timed(0.005, 0.0001, busy_at_first=50)
    assert await calibrate(machine.measure, "cpu") == 512


def test_what_was_found_is_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    assert read_budget(folder, MACHINE) is None
    write_budget(folder, MACHINE, 256)
    assert read_budget(folder, MACHINE) == 256
    write_budget(folder, MACHINE, 512)
    assert read_budget(folder, MACHINE) == 512
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"device": "cuda"},
        {"lanes": 1},
        {"processor": "other"},
        {"onnxruntime": "2.0"},
    ],
)
def test_it_holds_for_that_machine_only(tmp_path: Path, other: dict[str, str]) -> None:
    write_budget(tmp_path, MACHINE, 256)
    assert read_budget(tmp_path, replace(MACHINE, **other)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff", b'{"machine": {}, "max_padded_tokens": 9}'],
)
def test_a_damaged_file_is_measured_again(tmp_path: Path, content: bytes) -> None:
    calibration_path(tmp_path, MACHINE).write_bytes(content)
    assert read_budget(tmp_path, MACHINE) is None


@pytest.mark.parametrize("budget", ["true", '"256"', "0", "-1", "1.5", "null"])
def test_a_budget_that_is_none_is_measured_again(tmp_path: Path, budget: str) -> None:
    write_budget(tmp_path, MACHINE, 256)
    path = calibration_path(tmp_path, MACHINE)
    path.write_text(path.read_text().replace(": 256", f": {budget}"))
    assert read_budget(tmp_path, MACHINE) is None
