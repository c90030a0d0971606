"""The Prometheus feed through the whole flow on AWS's column, with everything misbehaving: requests
throttled, answers lost after the effect, messages delivered twice, entries of batches failing, an
index whose reads are five seconds behind its writes, and both workers killed halfway. It ends
exactly true."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from common.composition import open_ports
from common.settings import Settings
from tests.acceptance.aws_installation import AwsInstallation, pinecone_server, unruly_server
from tests.acceptance.service import wait_until
from tests.acceptance.truth import Stores, alive, assert_stores_true_to
from tests.servers.aws import aws_environment, moto
from tests.servers.provision import provision

FEED = Path(__file__).parents[3] / "shared" / "data" / "prometheus-docs.jsonl.gz"
FAULTS = ("throttled", "answer_lost", "partial", "duplicate")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FEED.exists(), reason=f"the change feed {FEED} is not here"),
]


async def test_the_feed_ends_exactly_true_on_unruly_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = moto()
    unruly = unruly_server(emulator.url, seed=20261121)
    index = pinecone_server(lag_seconds=5)
    installation = AwsInstallation(
        tmp_path,
        aws_url=unruly.url,
        pinecone_url=index.url,
        settings={
            "stale_after_seconds": 20,
            "sweep_interval_seconds": 2,
            "visibility_timeout_seconds": 30,  # until those of a killed worker come back
            # No document of the feed is poison; killed workers and lost answers take some receives.
            "max_receives": 10,
        },
    )
    await provision(emulator.url, installation.product_settings)
    installation.start()
    try:
        replay = installation.begin("replay", str(FEED), "--retry-seconds", "300")
        wait_until("documents are done", lambda: _completed(installation) > 20, 300)
        for role in ("embed", "apply"):
            installation.kill(role)
            installation.launch(role, "worker", role)
        output, _ = replay.communicate(timeout=900)
        assert replay.returncode == 0, output.decode()[-3000:] + installation.tail()
        wait_until("every queue is empty", lambda: _quiet(installation), 300)
        assert set(installation.stop().values()) == {0}, installation.tail()
    finally:
        installation.close()
        unruly_counts = _counts(unruly.url)
        unruly.stop()
    for fault in FAULTS:
        assert unruly_counts[fault] > 10, f"hardly anything was {fault}: {unruly_counts}"
    for name, value in (aws_environment(emulator.url) | installation.product_settings).items():
        monkeypatch.setenv(name, value)
    async with open_ports(Settings(), receiver="test", own_index=True) as ports:
        assert ports.index is not None
        stores = Stores(
            queue=ports.queue, registry=ports.registry, blobs=ports.blobs, index=ports.index
        )
        expected = alive(FEED)
        assert await assert_stores_true_to(expected, stores) > len(expected)
    index.stop()


def _completed(installation: AwsInstallation) -> int:
    namespaces = installation.get("/v1/stats")["namespaces"]
    return sum(int(held["documents"].get("COMPLETED", 0)) for held in namespaces)


def _quiet(installation: AwsInstallation) -> bool:
    queues = installation.get("/v1/stats")["queues"].values()
    return not any(q["waiting"] + q["in_flight"] + q["delayed"] for q in queues)


def _counts(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url}/_unruly/counts", timeout=30) as answer:
        counts: dict[str, int] = json.loads(answer.read())
        return counts
