"""What an instance asks of its Auto Scaling group: not to be taken, and time to finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from common.aws.clients import AwsClients
from common.aws.errors import SDK_ERRORS, transient

if TYPE_CHECKING:
    from types_aiobotocore_autoscaling.client import AutoScalingClient

__all__ = ["GroupMember", "group_of"]

CALL_SECONDS = 15.0

T = TypeVar("T")


async def group_of(clients: AwsClients, instance_id: str) -> str | None:
    """The name of the instance's group; None if it is in none. Raises TransientError."""
    client: AutoScalingClient = await clients.client("autoscaling")
    asked = client.describe_auto_scaling_instances(InstanceIds=[instance_id])
    found = await _answer(asked, f"find the Auto Scaling group of {instance_id}")
    instances = found["AutoScalingInstances"]
    return instances[0]["AutoScalingGroupName"] if instances else None


@dataclass(frozen=True, slots=True)
class GroupMember:
    """An instance in its group. Every call ends within 15 s; raises TransientError."""

    clients: AwsClients
    group: str
    instance_id: str

    async def protect(self, protected: bool) -> None:
        """Whether the group may choose this instance when it shrinks."""
        client: AutoScalingClient = await self.clients.client("autoscaling")
        asked = client.set_instance_protection(
            InstanceIds=[self.instance_id],
            AutoScalingGroupName=self.group,
            ProtectedFromScaleIn=protected,
        )
        await _answer(asked, f"set the scale-in protection of {self.instance_id}")

    async def ask_for_time(self, hook: str) -> None:
        """Begin the hook's time-out anew: the work in hand is not done yet."""
        client: AutoScalingClient = await self.clients.client("autoscaling")
        asked = client.record_lifecycle_action_heartbeat(
            LifecycleHookName=hook,
            AutoScalingGroupName=self.group,
            InstanceId=self.instance_id,
        )
        await _answer(asked, f"ask for time at the lifecycle hook {hook}")

    async def let_go(self, hook: str) -> None:
        """The instance may be terminated now."""
        client: AutoScalingClient = await self.clients.client("autoscaling")
        asked = client.complete_lifecycle_action(
            LifecycleHookName=hook,
            AutoScalingGroupName=self.group,
            InstanceId=self.instance_id,
            LifecycleActionResult="CONTINUE",
        )
        await _answer(asked, f"complete the lifecycle hook {hook}")


async def _answer(asked: Awaitable[T], doing: str) -> T:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await asked
    except SDK_ERRORS as error:
        raise transient(error, doing) from error
