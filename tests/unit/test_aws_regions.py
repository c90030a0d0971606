"""A region that AWS does not have is told of at the start; a new one, or another's, is not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from common.aws import clients
from common.aws.errors import AwsSetupError
from common.aws.event_queue import SqsEventQueue
from common.ports.errors import PortError, TransientError
from tests.acceptance.service import free_port
from tests.servers.aws import aws_environment

NEWER = "eu-central-99"
"""It fits the pattern, and no botocore knows it."""


@pytest.fixture(autouse=True)
def on_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good configuration without AWS_ENDPOINT_URL; one try each, and a name server to be set."""
    for name, value in aws_environment("").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setattr(clients, "TRIES", 1)
    resolve(monkeypatch, nowhere)


def resolve(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answer)


def nowhere(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def here(*_: Any, **__: Any) -> Any:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", free_port()))]


async def failure_of_a_start() -> PortError:
    queue = SqsEventQueue("IntakeQueue", visibility_seconds=30, timeout_seconds=30)
    try:
        with pytest.raises(PortError) as caught:
            await queue.check()
    finally:
        await queue.close()
    return caught.value


async def opened(service: str) -> str:
    """The address of the service's client."""
    held = clients.shared_clients()
    try:
        return str((await held.client(service)).meta.endpoint_url)
    finally:
        await held.release()


@pytest.mark.parametrize(
    ("region", "near"),
    [
        ("eu-central", "eu-central-1"),
        ("eu_central_1", "eu-central-1"),
        ("EU-Central-1", "eu-central-1"),
        ("Frankfurt", ""),
    ],
)
async def test_what_can_be_no_region_is_refused_without_a_call(
    region: str, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, lambda *_, **__: pytest.fail("a name was looked up"))
    monkeypatch.setenv("AWS_REGION", region)
    told = await failure_of_a_start()
    assert isinstance(told, AwsSetupError)
    assert region in str(told)
    assert near in str(told)
    assert "set AWS_REGION" in str(told)


@pytest.mark.parametrize("setting", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"])
async def test_another_implementation_may_call_its_regions_as_it_likes(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "garage")
    monkeypatch.setenv(setting, "http://garage:3900")
    assert await opened("sqs") == "http://garage:3900"


@pytest.mark.parametrize("service", ["sqs", "dynamodb", "s3"])
async def test_a_region_that_is_newer_than_botocore_is_used(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", NEWER)
    assert NEWER in await opened(service)


async def test_a_region_that_nobody_knows_and_whose_host_has_no_address_is_misspelt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-centrall-1")
    told = await failure_of_a_start()
    assert isinstance(told, AwsSetupError)
    assert "AWS has no region 'eu-centrall-1': set AWS_REGION (eu-central-1" in str(told)


async def test_a_newer_region_that_does_not_answer_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_REGION", NEWER)
    resolve(monkeypatch, here)
    told = await failure_of_a_start()
    assert isinstance(told, TransientError)
    assert "check AWS_REGION, AWS_ENDPOINT_URL and the network" in str(told)


async def test_without_a_name_server_a_region_that_is_known_is_out_of_reach() -> None:
    assert isinstance(await failure_of_a_start(), TransientError)


async def test_another_host_without_an_address_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-centrall-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://sqs.eu-centrall-1.cellar.invalid")
    assert isinstance(await failure_of_a_start(), TransientError)
