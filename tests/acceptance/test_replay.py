"""A real documentation site's history goes in; the index holds exactly its last revision."""

from __future__ import annotations

import random
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.service import Service, wait_until
from tests.acceptance.truth import alive, assert_true_to, changes

FEED = Path(__file__).parents[3] / "shared" / "data" / "prometheus-docs.jsonl.gz"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FEED.exists(), reason=f"the change feed {FEED} is not here"),
]


async def test_a_replayed_feed_leaves_exactly_what_is_alive(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.start()
    try:
        replay = service.run("replay", str(FEED))
        assert replay.returncode == 0, replay.stderr[-3000:]
        assert service.stop() == 0, service.tail()
    finally:
        service.close()
    expected = alive(FEED)
    assert await assert_true_to(expected, service.data_dir) > len(expected)


async def test_ten_kills_of_everything_change_nothing(tmp_path: Path) -> None:
    """SIGKILL for the whole process group, spread over the replay by its own progress."""
    service = Service(tmp_path, stale_after_seconds=5, sweep_interval_seconds=1)
    service.start()
    # What is accepted and embedded at each kill is drawn, not timed.
    drawn = random.Random(20261121)
    total = sum(1 for _ in changes(FEED))
    accepted_at = sorted(drawn.sample(range(20, total - 100), 3))
    completed_at = sorted(drawn.sample(range(5, 120), 7))
    replay = subprocess.Popen(
        service.command("replay", str(FEED), "--retry-seconds", "300"),
        env=service.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        for count in accepted_at:
            wait_until(f"{count} changes accepted", partial(_accepted, service, count))
            _kill_and_restart(service)
        for count in completed_at:
            wait_until(f"{count} documents completed", partial(_completed, service, count), 300)
            _kill_and_restart(service)
        output, _ = replay.communicate(timeout=600)
        assert replay.returncode == 0, output.decode()[-3000:]
        wait_until("every queue is empty", lambda: _quiet(service))
        assert service.stop() == 0, service.tail()
    finally:
        replay.kill()
        replay.wait()
        service.close()
    await assert_true_to(alive(FEED), service.data_dir)


def _accepted(service: Service, count: int) -> bool:
    return sum(service.documents().values()) >= count // 3


def _completed(service: Service, count: int) -> bool:
    return service.documents().get("COMPLETED", 0) >= count


def _kill_and_restart(service: Service) -> None:
    service.kill_group()
    service.start()


def _quiet(service: Service) -> bool:
    queues = service.get("/v1/stats")["queues"].values()
    return not any(q["waiting"] + q["in_flight"] + q["delayed"] for q in queues)
