"""A worker on an EC2 instance: it drains when the instance is about to go, and its Auto Scaling
group spares the instance while it works. Whatever fails here is logged and ends no work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from common.aws.instance_metadata import InstanceMetadata, endpoint_of
from common.ports.errors import PortError, TransientError
from common.settings import Settings
from workers.loop import Consumer
from workers.notices import LOOK_EVERY_SECONDS, Notice, NoticeWatch, drain_seconds
from workers.protection import IDLE_SECONDS, Guard
from workers.unforeseen import tell

if TYPE_CHECKING:
    from common.aws.clients import AwsClients
    from common.aws.scale_in import GroupMember

__all__ = ["Instance", "looked_after"]

log = structlog.get_logger(__name__)

TRIES = 3
"""To find the metadata service; where there is none the first already tells, after a second."""
PAUSE_SECONDS = 1.0
FIND_GROUP_SECONDS = 60.0
HEARTBEAT_SECONDS = 20.0
"""The shortest time-out of a lifecycle hook is 30 s."""
LEAVE_SECONDS = 5.0

GROUP_TAG = "tags/instance/aws:autoscaling:groupName"


@contextlib.asynccontextmanager
async def looked_after(
    settings: Settings, consumer: Consumer, stop: asyncio.Event
) -> AsyncIterator[None]:
    """Inside, a notice of EC2 sets `stop` and shortens the consumer's drain to what is left.

    Leave it when the consumer has ended. Nothing happens off EC2, nor for a fleet's worker, whose
    fleet would start another.
    """
    endpoint = endpoint_of(os.environ)
    unwanted = settings.ec2_notices == "off" and settings.scale_in_protection == "off"
    if endpoint is None or unwanted or "BLOOMWEAVER_RECEIVER" in os.environ:
        log.debug("instance.not_looked_after")
        yield
        return
    instance = Instance(settings, consumer, stop, InstanceMetadata(endpoint))
    instance.begin()
    try:
        yield
    finally:
        await instance.end()


class Instance:
    """This machine. `begin` starts what watches it, `end` tells its group that the work is done."""

    def __init__(
        self,
        settings: Settings,
        consumer: Consumer,
        stop: asyncio.Event,
        metadata: InstanceMetadata,
        *,
        look_every_seconds: float = LOOK_EVERY_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._settings = settings
        self._consumer = consumer
        self._stop = stop
        self._metadata = metadata
        self._look_every_seconds = look_every_seconds
        self._idle_seconds = idle_seconds
        self._instance = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: AwsClients | None = None
        self._member: GroupMember | None = None
        self._guard: Guard | None = None
        self._notice: Notice | None = None

    def begin(self) -> None:
        self._start(self._find())

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._leave()
        except (TransientError, TimeoutError) as error:
            log.warning("instance.left_untold", error=str(error) or "no answer in time")
        finally:
            await self._metadata.close()
            if self._clients:
                await self._clients.release()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(_survived(work)))

    async def _find(self) -> None:
        instance_id = await self._instance_id()
        if instance_id is None:
            return
        self._instance = instance_id
        log.info("instance.found", instance=instance_id)
        if self._settings.ec2_notices != "off":
            self._start(self._watch())
        if self._settings.scale_in_protection != "off" or self._settings.lifecycle_hook_name:
            await self._join_group(instance_id)

    async def _instance_id(self) -> str | None:
        """None off EC2. Where a setting says that this is EC2, it is looked for until it is there:
        the metadata service answers no container that is a network hop too far away."""
        told_so = "on" in (self._settings.ec2_notices, self._settings.scale_in_protection)
        tries = 0
        while True:
            try:
                return await self._metadata.get("instance-id")
            except TransientError as error:
                tries += 1
                if tries >= TRIES and not told_so:
                    log.debug("instance.not_on_ec2", error=str(error))
                    return None
                if tries == TRIES:
                    log.warning("instance.metadata_unavailable", error=str(error))
                await asyncio.sleep(PAUSE_SECONDS * min(tries, FIND_GROUP_SECONDS))

    # --- notices ---------------------------------------------------------------------------------

    async def _watch(self) -> None:
        watch = NoticeWatch(self._metadata, every_seconds=self._look_every_seconds)
        notice = await watch.first()
        most = self._consumer.drain_seconds
        self._consumer.drain_seconds = drain_seconds(notice, time.time(), most)
        log.warning(
            "instance.notice", why=notice.why, drain_seconds=round(self._consumer.drain_seconds, 1)
        )
        self._notice = notice
        self._stop.set()
        if notice.hooked and self._settings.lifecycle_hook_name:
            await self._ask_for_time(self._settings.lifecycle_hook_name)

    async def _ask_for_time(self, hook: str) -> None:
        """Until the drain is over, and `end` cancels this."""
        while True:
            if self._member:
                try:
                    await self._member.ask_for_time(hook)
                except TransientError as error:
                    log.warning("instance.no_time_asked_for", error=str(error))
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _leave(self) -> None:
        hook = self._settings.lifecycle_hook_name
        if self._notice is None:
            if self._guard:
                await self._guard.release()
        elif self._notice.hooked and hook:
            # A notice at the start may end the worker before its group was found.
            member = self._member or await self._membership(self._instance)
            if member:
                await member.let_go(hook)
                log.info("instance.let_go", hook=hook)

    # --- scale-in protection ---------------------------------------------------------------------

    async def _join_group(self, instance_id: str) -> None:
        self._member = await self._membership(instance_id)
        if self._member is None:
            tell_of = log.warning if self._settings.scale_in_protection == "on" else log.debug
            tell_of("instance.in_no_group", instance=instance_id)
        elif self._settings.scale_in_protection != "off":
            self._guard = Guard(self._member.protect, idle_seconds=self._idle_seconds)
            self._consumer.on_in_hand = self._guard.took
            self._guard.took(self._consumer.in_hand)
            await self._guard.run()

    async def _membership(self, instance_id: str) -> GroupMember | None:
        from common.aws.clients import shared_clients
        from common.aws.scale_in import GroupMember

        self._clients = self._clients or shared_clients()
        group = await self._group(self._clients, instance_id)
        return GroupMember(self._clients, group, instance_id) if group else None

    async def _group(self, clients: AwsClients, instance_id: str) -> str | None:
        """By the instance's tag where metadata shows tags, else by asking for it."""
        from common.aws.scale_in import group_of

        warned = False
        while True:
            try:
                return await self._metadata.get(GROUP_TAG) or await group_of(clients, instance_id)
            except PortError as error:
                if not warned:
                    log.warning("instance.group_unknown", error=str(error))
                warned = True
            await asyncio.sleep(FIND_GROUP_SECONDS)


async def _survived(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:
        tell("instance", error)
