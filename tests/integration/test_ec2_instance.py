"""A worker on EC2: what it asks of the metadata service and of its Auto Scaling group, over the
network, and what it does when it is told that its machine goes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence, Set
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from common.aws.clients import AwsClients, shared_clients
from common.aws.instance_metadata import InstanceMetadata, endpoint_of
from common.aws.scale_in import group_of
from common.composition import open_ports
from common.model import DocumentKey, QueueName
from common.parts import Ports, timers_of
from common.ports.errors import TransientError
from common.settings import Settings
from tests.acceptance.service import MODELS, PATIENCE_SECONDS
from tests.fakes.queue import MemoryQueue
from tests.servers.aws import aws_environment, moto, use
from tests.servers.imds import INSTANCE, MetadataServer, metadata_service
from webhook.accept import Acceptor, Change, ChangeType
from workers.instance import GROUP_TAG, Instance, looked_after
from workers.loop import Consumer
from workers.notices import LIFECYCLE, REBALANCE, SPOT


async def eventually(condition: Callable[[], object]) -> None:
    """Return once it holds. What runs beside in this event loop makes it so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - of what is looked at nothing tells
            await asyncio.sleep(0.005)


# --- the metadata service ------------------------------------------------------------------------


@asynccontextmanager
async def metadata() -> AsyncIterator[tuple[MetadataServer, InstanceMetadata]]:
    async with metadata_service() as server:
        client = InstanceMetadata(server.url)
        try:
            yield server, client
        finally:
            await client.close()


async def test_the_test_server_answers_nobody_without_a_token() -> None:
    async with metadata_service() as server, aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}/latest/meta-data/instance-id") as answer:
            assert answer.status == 401
        async with session.put(f"{server.url}/latest/api/token") as answer:
            assert answer.status == 400


async def test_values_are_read_with_one_token() -> None:
    async with metadata() as (server, client):
        assert await client.get("instance-id") == INSTANCE
        assert await client.get(SPOT) is None
        server.values[SPOT] = "now"
        assert await client.get(SPOT) == "now"
        assert server.tokens_given == 1


async def test_a_token_that_is_refused_is_renewed() -> None:
    async with metadata() as (server, client):
        await client.get("instance-id")
        server.revoke_tokens()
        assert await client.get("instance-id") == INSTANCE
        assert server.tokens_given == 2


async def test_trouble_is_transient() -> None:
    async with metadata() as (server, client):
        server.failures = 1
        with pytest.raises(TransientError, match="answered 500"):
            await client.get("instance-id")
    client = InstanceMetadata(server.url)  # nobody listens there any more
    with pytest.raises(TransientError, match="instance metadata service"):
        await client.get("instance-id")
    await client.close()


def test_its_address_is_as_for_every_sdk() -> None:
    assert endpoint_of({}) == "http://169.254.169.254"
    ipv6 = {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}
    assert endpoint_of(ipv6) == "http://[fd00:ec2::254]"
    assert endpoint_of({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://h:1/"} | ipv6) == "http://h:1"
    assert endpoint_of({"AWS_EC2_METADATA_DISABLED": "True"}) is None


# --- a consumer that is looked after -------------------------------------------------------------


def settings_of(**more: Any) -> Settings:
    return Settings(_env_file=None, **more)


def idle_consumer() -> Consumer:
    async def nothing(*_: Any) -> Any:
        raise AssertionError("there is no message")

    return Consumer(
        queue=MemoryQueue(), name=QueueName.CHANGE, handle=nothing, note=nothing, concurrency=1,
        visibility_seconds=30, max_receives=3, drain_seconds=25,
    )  # fmt: skip


@asynccontextmanager
async def watched(
    server: MetadataServer, consumer: Consumer, **settings: Any
) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    instance = Instance(
        settings_of(**settings), consumer, stop, InstanceMetadata(server.url),
        look_every_seconds=0.01, idle_seconds=0.05,
    )  # fmt: skip
    instance.begin()
    try:
        yield stop
    finally:
        await instance.end()


def stamp(seconds_from_now: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds_from_now, UTC).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )


async def test_a_spot_notice_stops_the_worker_within_the_time_that_is_left() -> None:
    consumer = idle_consumer()
    async with (
        metadata_service() as server,
        watched(server, consumer, scale_in_protection="off") as stop,
    ):
        await eventually(lambda: SPOT in server.asked)
        assert not stop.is_set()
        server.values[SPOT] = json.dumps({"action": "terminate", "time": stamp(20)})
        await asyncio.wait_for(stop.wait(), PATIENCE_SECONDS)
    assert 1 <= consumer.drain_seconds <= 10, "ten of the twenty seconds are for handing back"


async def test_states_of_an_instance_that_stays_and_recommendations_stop_nothing() -> None:
    async with metadata_service() as server:
        server.values |= {LIFECYCLE: "InService", REBALANCE: '{"noticeTime": "2026-01-01"}'}
        with capture_logs() as logs:
            async with watched(server, idle_consumer(), scale_in_protection="off") as stop:
                await eventually(lambda: server.asked.count(SPOT) >= 3)
                assert not stop.is_set()
    told = [line for line in logs if line["event"] == "instance.rebalance_recommended"]
    assert len(told) == 1


async def test_a_metadata_service_that_stumbles_is_asked_again() -> None:
    async with metadata_service() as server:
        with capture_logs() as logs:
            async with watched(server, idle_consumer(), scale_in_protection="off") as stop:
                await eventually(lambda: SPOT in server.asked)
                server.failures = 3
                server.values[LIFECYCLE] = "Terminated"
                await asyncio.wait_for(stop.wait(), PATIENCE_SECONDS)
    away = [line["log_level"] for line in logs if "metadata_unavailable" in line["event"]]
    assert away == ["warning", "debug", "debug"], "told once, whatever its length"


@pytest.mark.parametrize(
    "environment",
    [
        {"AWS_EC2_METADATA_DISABLED": "true"},
        {"AWS_EC2_METADATA_DISABLED": "", "BLOOMWEAVER_RECEIVER": "embed-1"},
    ],
)
async def test_nobody_is_asked_where_this_is_no_worker_of_ec2(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with metadata_service() as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        consumer = idle_consumer()
        async with looked_after(settings_of(), consumer, asyncio.Event()):
            await asyncio.sleep(0.05)
        assert server.asked == []
        assert server.tokens_given == 0


async def test_off_ec2_one_debug_line_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with metadata_service() as server:
        gone = server.url
    monkeypatch.setattr("workers.instance.PAUSE_SECONDS", 0.001)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", gone)
    with capture_logs() as logs:
        async with looked_after(settings_of(), idle_consumer(), asyncio.Event()):
            await eventually(lambda: logs)
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("instance.not_on_ec2", "debug")
    ]


# --- the Auto Scaling group ----------------------------------------------------------------------


@asynccontextmanager
async def a_group(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[AwsClients, str]]:
    """A group on moto with one instance; the clients and the instance's id."""
    use(monkeypatch, moto())
    clients = shared_clients()
    scaling = await clients.client("autoscaling")
    name = f"workers-{os.getpid()}"
    await scaling.create_launch_configuration(
        LaunchConfigurationName=name, ImageId="ami-12c6146b", InstanceType="c7g.large"
    )
    await scaling.create_auto_scaling_group(
        AutoScalingGroupName=name, LaunchConfigurationName=name, MinSize=0, MaxSize=2,
        DesiredCapacity=1, AvailabilityZones=["eu-central-1a"],
    )  # fmt: skip
    found = await scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    try:
        yield clients, found["AutoScalingGroups"][0]["Instances"][0]["InstanceId"]
    finally:
        await scaling.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)
        await scaling.delete_launch_configuration(LaunchConfigurationName=name)
        await clients.release()


async def protected(clients: AwsClients, instance: str) -> bool:
    scaling = await clients.client("autoscaling")
    found = await scaling.describe_auto_scaling_instances(InstanceIds=[instance])
    return bool(found["AutoScalingInstances"][0]["ProtectedFromScaleIn"])


async def told_to_group(wanted: bool, clients: AwsClients, instance: str) -> None:
    """Return once the group has it so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await protected(clients, instance) is not wanted:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_work_in_hand_protects_the_instance_and_its_end_frees_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_group(monkeypatch) as (clients, instance), metadata_service(instance) as server:
        assert await group_of(clients, "i-0000000000000dead") is None
        consumer = idle_consumer()
        async with watched(server, consumer):
            await eventually(lambda: consumer.on_in_hand is not None)
            tell(consumer, 1)
            await told_to_group(True, clients, instance)
            tell(consumer, 0)
            await told_to_group(False, clients, instance)
            tell(consumer, 1)
            await told_to_group(True, clients, instance)
        assert not await protected(clients, instance), "an ended worker keeps nothing"


def tell(consumer: Consumer, in_hand: int) -> None:
    """As the consumer does by itself."""
    assert consumer.on_in_hand
    consumer.on_in_hand(in_hand)


def told_of(logs: Sequence[Any]) -> list[str]:
    return [line["error"] for line in logs if line["event"] == "instance.protection_failed"]


@pytest.mark.slow
async def test_without_the_permission_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with recording_scaling(refuse={"SetInstanceProtection"}) as (url, calls):
        point_at(monkeypatch, url)
        async with metadata_service() as server:
            server.values[GROUP_TAG] = "workers"
            consumer = idle_consumer()
            with capture_logs() as logs:
                async with watched(server, consumer) as stop:
                    await eventually(lambda: consumer.on_in_hand is not None)
                    tell(consumer, 1)
                    await eventually(
                        lambda: [line for line in logs if "protection_failed" in line["event"]]
                    )
                    assert not stop.is_set()
    assert "allow SetInstanceProtection in the role's policy" in told_of(logs)[0]
    assert {call["Action"] for call in calls} == {"SetInstanceProtection"}, (
        "the group's name came from the instance's tag"
    )


async def test_a_lifecycle_hook_gets_heartbeats_and_is_completed_after_the_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.instance.HEARTBEAT_SECONDS", 0.01)
    async with recording_scaling() as (url, calls):
        point_at(monkeypatch, url)
        async with metadata_service() as server:
            server.values |= {GROUP_TAG: "workers", LIFECYCLE: "Terminated"}
            hook = {"lifecycle_hook_name": "drain", "scale_in_protection": "off"}
            async with watched(server, idle_consumer(), **hook) as stop:
                await asyncio.wait_for(stop.wait(), PATIENCE_SECONDS)
                await eventually(lambda: len(calls) >= 3)
                assert {call["Action"] for call in calls} == {"RecordLifecycleActionHeartbeat"}
    last = calls[-1]
    assert last["Action"] == "CompleteLifecycleAction"
    assert last["LifecycleActionResult"] == "CONTINUE"
    assert (last["LifecycleHookName"], last["AutoScalingGroupName"]) == ("drain", "workers")
    assert last["InstanceId"] == INSTANCE


async def test_a_notice_at_the_start_lets_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker ends before anybody asked for its group."""
    async with recording_scaling() as (url, calls), metadata_service() as server:
        point_at(monkeypatch, url)
        server.values |= {GROUP_TAG: "workers", LIFECYCLE: "Terminated"}
        server.held.clear()
        hook = {"lifecycle_hook_name": "drain", "scale_in_protection": "off"}
        async with watched(server, idle_consumer(), **hook) as stop:
            await asyncio.wait_for(stop.wait(), PATIENCE_SECONDS)
            assert calls == []
            ending = asyncio.get_running_loop().call_later(0.05, server.held.set)
        ending.cancel()
    assert [call["Action"] for call in calls] == ["CompleteLifecycleAction"]


async def test_a_call_that_hangs_does_not_hold_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.instance.LEAVE_SECONDS", 0.05)
    async with recording_scaling(hang={"CompleteLifecycleAction"}) as (url, calls):
        point_at(monkeypatch, url)
        async with metadata_service() as server:
            server.values |= {GROUP_TAG: "workers", LIFECYCLE: "Terminated"}
            with capture_logs() as logs:
                async with watched(server, idle_consumer(), lifecycle_hook_name="drain"):
                    await eventually(lambda: calls)
    last = logs[-1]
    assert (last["event"], last["error"]) == ("instance.left_untold", "no answer in time")


Calls = list[dict[str, str]]


@asynccontextmanager
async def recording_scaling(
    *, refuse: Set[str] = frozenset(), hang: Set[str] = frozenset()
) -> AsyncIterator[tuple[str, Calls]]:
    """Auto Scaling's query protocol: records each action and answers with an empty result."""
    calls: Calls = []
    never = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        given = {name: values[0] for name, values in parse_qs(await request.text()).items()}
        action = given["Action"]
        calls.append(given | {"InstanceId": given.get("InstanceId", "")})
        if action in hang:
            await never.wait()
        if action in refuse:
            error = "<Error><Code>AccessDenied</Code><Message>not you</Message></Error>"
            body = f"<ErrorResponse>{error}</ErrorResponse>"
            return web.Response(status=403, text=body, content_type="text/xml")
        name = f"{action}Response"
        space = 'xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"'
        body = f"<{name} {space}><{action}Result/></{name}>"
        return web.Response(text=body, content_type="text/xml")

    app = web.Application()
    app.add_routes([web.post("/", answer)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", calls
    finally:
        never.set()
        await runner.cleanup()


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, value in aws_environment(url).items():
        monkeypatch.setenv(name, value)


# --- the worker as a process ---------------------------------------------------------------------

LONG_TEXT = "\n\n".join(
    f"Paragraph {n} tells of something that no other paragraph tells of, number {n * n}."
    for n in range(10_000)
)
"""More work than is ever done of it here."""


async def accept(ports: Ports, text: str) -> None:
    acceptor = Acceptor(
        registry=ports.registry, blobs=ports.blobs, queue=ports.queue,
        profile=ports.profile, timers=timers_of(ports.settings),
    )  # fmt: skip
    change = Change(
        key=DocumentKey("docs", "long.txt"),
        change_type=ChangeType.INSERT,
        content=text.encode(),
        content_type="text/plain",
    )
    await acceptor.accept(change)


@asynccontextmanager
async def worker(folder: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BLOOMWEAVER_", "AWS_"))}
    given = {
        "BLOOMWEAVER_DATA_DIR": str(folder / "data"),
        "BLOOMWEAVER_MODEL_CACHE_DIR": str(MODELS),
        "BLOOMWEAVER_LOG_FORMAT": "json",
    }
    with (folder / "worker.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "common.cli.main", "worker", "embed",
            env=inherited | given | environment, stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def taken(ports: Ports, process: asyncio.subprocess.Process, log: Path) -> None:
    """Return when the worker has the message in hand."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await ports.queue.depth(QueueName.CHANGE)).in_flight == 0:
            assert process.returncode is None, log.read_text()
            await asyncio.sleep(0.05)


def events(log: Path) -> list[str]:
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


@pytest.mark.slow
async def test_an_interrupted_worker_hands_its_document_back_and_ends(tmp_path: Path) -> None:
    settings = settings_of(data_dir=tmp_path / "data", model_cache_dir=MODELS)
    log = tmp_path / "worker.log"
    async with (
        metadata_service() as server,
        open_ports(settings, receiver="test", own_index=False) as ports,
    ):
        await accept(ports, LONG_TEXT)
        environment = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url,
            "BLOOMWEAVER_SCALE_IN_PROTECTION": "off",
            "BLOOMWEAVER_DRAIN_TIMEOUT_SECONDS": "3600",
        }
        async with worker(tmp_path, **environment) as process:
            await taken(ports, process, log)
            server.values[SPOT] = json.dumps({"action": "terminate", "time": stamp(8)})
            code = await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)
        assert code == 0, log.read_text()
        assert "instance.notice" in events(log)
        depth = await ports.queue.depth(QueueName.CHANGE)
        assert (depth.waiting, depth.in_flight) == (1, 0), "another worker can take it at once"


@pytest.mark.slow
async def test_a_worker_whose_group_shrinks_protects_drains_and_lets_go(tmp_path: Path) -> None:
    settings = settings_of(data_dir=tmp_path / "data", model_cache_dir=MODELS)
    log = tmp_path / "worker.log"
    async with (
        metadata_service() as server,
        recording_scaling() as (url, calls),
        open_ports(settings, receiver="test", own_index=False) as ports,
    ):
        server.values[GROUP_TAG] = "workers"
        await accept(ports, LONG_TEXT)
        environment = aws_environment(url) | {
            "AWS_EC2_METADATA_DISABLED": "false",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url,
            "BLOOMWEAVER_LIFECYCLE_HOOK_NAME": "drain",
            "BLOOMWEAVER_DRAIN_TIMEOUT_SECONDS": "0.5",
        }
        async with worker(tmp_path, **environment) as process:
            await taken(ports, process, log)
            await eventually(lambda: calls)
            server.values[LIFECYCLE] = "Terminated"
            code = await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)
        assert code == 0, log.read_text()
        assert (calls[0]["Action"], calls[0]["ProtectedFromScaleIn"]) == (
            "SetInstanceProtection", "true",
        )  # fmt: skip
        assert [call["Action"] for call in calls[1:]] == [
            "RecordLifecycleActionHeartbeat", "CompleteLifecycleAction",
        ]  # fmt: skip
        depth = await ports.queue.depth(QueueName.CHANGE)
        assert (depth.waiting, depth.in_flight) == (1, 0)
