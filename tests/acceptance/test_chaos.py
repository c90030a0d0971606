"""Real processes under a minute of real faults: afterwards the index is what was last accepted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import urllib.error
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.disk import Disk, small_disk
from tests.acceptance.impatient_client import ImpatientClient
from tests.acceptance.service import Service
from tests.acceptance.storm import Move, Storm, draw_faults, told_on_failure
from tests.acceptance.truth import alive, assert_true_to, changes

FEED = Path(__file__).parents[3] / "shared" / "data" / "prometheus-docs.jsonl.gz"
SEED_VARIABLE = "BLOOMWEAVER_CHAOS_SEED"
DISK_VARIABLE = "BLOOMWEAVER_CHAOS_DISK"
STORM_SECONDS = float(os.environ.get("BLOOMWEAVER_CHAOS_SECONDS", "60"))
SENDING_SHARE = 0.75
"""Of the storm, in which the feed is sent; a client that must repeat itself takes longer."""
PATIENCE_SECONDS = 900.0
"""For what follows the storm; nothing is asserted about it."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
    pytest.mark.skipif(not FEED.exists(), reason=f"the change feed {FEED} is not here"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", os.environ.get(DISK_VARIABLE, "")) as made:
        yield made


@pytest.fixture
def service(disk: Disk, tmp_path: Path) -> Iterator[Service]:
    """Leases and graces so short that a paused owner outlives them; writes end before the grace."""
    made = Service(
        disk.folder,
        visibility_timeout_seconds=2,
        attempt_lease_seconds=2,
        request_timeout_seconds=2,
        collect_grace_seconds=3,
        stale_after_seconds=3,
        sweep_interval_seconds=0.5,
        drain_timeout_seconds=5,
        # The full disk is to hit what writes, not to be seen coming.
        min_free_disk_bytes=0,
        # No document of the feed is poison; the storm alone takes more than three of its workers.
        max_receives=1000,
    )
    made.more_environment = {**disk.environment, "PYTHONFAULTHANDLER": "1"}
    made.log = tmp_path / "up.log"  # on a disk that stays writable
    yield made
    made.close()


async def test_a_storm_of_faults_leaves_exactly_what_is_alive(service: Service, disk: Disk) -> None:
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**32))
    drawn = random.Random(seed)
    faults = draw_faults(drawn, STORM_SECONDS)
    print(f"{SEED_VARIABLE}={seed} on a {type(disk).__name__}, {len(faults)} faults")
    client = ImpatientClient(f"{service.url}/v1/changes", drawn)
    service.start()
    storm = Storm(service, disk)
    with told_on_failure(storm):
        async with _supervised(storm):
            feed = list(changes(FEED))
            sending = asyncio.create_task(client.send(feed, STORM_SECONDS * SENDING_SHARE))
            await storm.blow(faults)
            print(f"sent {dict(storm.sent)}")
            await asyncio.wait_for(sending, PATIENCE_SECONDS)
            print(f"client saw {dict(client.outcomes)}, repeated {dict(client.repeated)}")
            await _nothing_left("told to stop", storm.leaving)
            await _nothing_left("not as it was last sent", lambda: _unsettled(service))
            await _nothing_left("a worker without a parent", storm.orphans)
        scrub = service.run("scrub", "--json")
        assert scrub.returncode == 0, scrub.stdout + scrub.stderr
        assert json.loads(scrub.stdout)["findings"] == []
        assert service.stop() == 0, service.tail()
        assert service.alive() == []
        assert await assert_true_to(alive(FEED), service.data_dir) > len(alive(FEED))
    assert set(client.outcomes) <= _EXPECTED, "a fault showed as another kind of answer"
    assert client.repeated["unchanged"], "no change took effect before its client gave up"
    assert set(storm.sent) == set(Move)


_EXPECTED = frozenset(
    {
        "accepted",
        "unchanged",
        "superseded",
        "503",
        "TimeoutError",
        "ServerTimeoutError",
        "ConnectionTimeoutError",
        "SocketTimeoutError",
        "ServerDisconnectedError",
        "ClientConnectorError",
        "ClientOSError",
        "ClientPayloadError",
    }
)


@contextlib.asynccontextmanager
async def _supervised(storm: Storm) -> AsyncIterator[None]:
    supervisor = asyncio.create_task(storm.supervise())
    try:
        yield
    finally:
        supervisor.cancel()
        await asyncio.wait([supervisor])


async def _nothing_left(what: str, find: Callable[[], object]) -> None:
    """Look until nothing is found, in a thread: it may ask the service."""
    found: object = None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while found := await asyncio.to_thread(find):  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"after {PATIENCE_SECONDS:g} s still {what}: {found}") from None


def _unsettled(service: Service) -> object:
    """What waits, and what is not done; None when the service says that nothing is left."""
    try:
        stats = service.get("/v1/stats")
    except (OSError, urllib.error.URLError, json.JSONDecodeError) as error:
        return error
    waiting = sum(q["waiting"] + q["in_flight"] + q["delayed"] for q in stats["queues"].values())
    (namespace,) = stats["namespaces"]
    settled = not waiting and set(namespace["documents"]) <= {"COMPLETED", "DELETED"}
    return None if settled else stats
