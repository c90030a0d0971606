"""One aiobotocore session for a process, with the time-outs and retries that all adapters share.

Region, credentials and profile come from where every AWS program takes them: the environment, the
shared configuration files, the instance's or the function's role. `AWS_REGION` names the region, as
in the other SDKs: botocore alone reads only `AWS_DEFAULT_REGION`, which counts where the former is
not set. `AWS_ENDPOINT_URL` points at another implementation of the services.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any
from weakref import WeakKeyDictionary

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import BotoCoreError

from common import telemetry
from common.aws.errors import AwsSetupError, explain
from common.aws.regions import impossible_region, no_such_region

CONNECT_TIMEOUT_SECONDS = 3.0
READ_TIMEOUT_SECONDS = 10.0
LONG_POLL_SLACK_SECONDS = 10.0
"""Beyond SQS's longest wait of 20 seconds."""
TRIES = 3
"""Of one call by the SDK, with jittered exponential back-off ('standard' mode): throttling, 5xx,
connections that broke. What fails beyond that is the caller's to decide."""
CONNECTIONS = 64

_READ_TIMEOUTS = {"sqs": 20.0 + LONG_POLL_SLACK_SECONDS, "s3": 60.0}


class AwsClients:
    """Opens each service's client once. Adapters hold it by `shared_clients` and `release`."""

    def __init__(self) -> None:
        self._session: AioSession = get_session()
        self._session.register("before-send", _count)
        self._opened = contextlib.AsyncExitStack()
        self._clients: dict[str, Any] = {}
        self._opening = asyncio.Lock()
        self._holders = 0

    async def client(self, service: str) -> Any:
        """The service's client, of `types_aiobotocore_<service>`. Raises AwsSetupError."""
        if service in self._clients:
            return self._clients[service]
        async with self._opening:
            if service not in self._clients:
                self._clients[service] = await self._open(service)
        return self._clients[service]

    async def _open(self, service: str) -> Any:
        context = self._session.create_client(  # type: ignore[call-overload]
            service, region_name=os.environ.get("AWS_REGION") or None, config=_config(service)
        )
        async with contextlib.AsyncExitStack() as opening:
            try:
                client = await opening.enter_async_context(context)
            except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
                raise AwsSetupError(explain(error, f"open the {service} client").line) from error
            where = client.meta
            if impossible_region(self._session, where.endpoint_url, where.region_name):
                raise AwsSetupError(f"cannot use {service}: {no_such_region(where.region_name)}")
            self._opened.push_async_callback(opening.pop_all().aclose)
        return client

    async def release(self) -> None:
        """The last holder closes all connections."""
        self._holders -= 1
        if self._holders == 0:
            _shared.pop(asyncio.get_running_loop(), None)
            await self._opened.aclose()

    def hold(self) -> AwsClients:
        self._holders += 1
        return self


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, AwsClients] = WeakKeyDictionary()


def shared_clients() -> AwsClients:
    """The running loop's clients. Each caller owes a `release`."""
    loop = asyncio.get_running_loop()
    if loop not in _shared:
        _shared[loop] = AwsClients()
    return _shared[loop].hold()


def _config(service: str) -> AioConfig:
    return AioConfig(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=_READ_TIMEOUTS.get(service, READ_TIMEOUT_SECONDS),
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": TRIES},
        tcp_keepalive=True,
        user_agent_extra="bloomweaver",
    )


def _count(event_name: str, **_given: Any) -> None:
    """`before-send.sqs.ReceiveMessage`: every try of every call, for docs/costs.md."""
    service, operation = event_name.split(".", 2)[1:]
    telemetry.OUTSIDE_CALLS.labels(service, operation).inc()
