"""The audit trail for commands: opened as the settings name it, and told what an operator did."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from common.cli.problems import CommandError, ExitCode, WrongUsageError

if TYPE_CHECKING:
    from common.ports.audit import AuditTrail
    from common.settings import Settings


class TrailUnreachableError(CommandError):
    exit_code = ExitCode.UNREACHABLE


@asynccontextmanager
async def open_trail(settings: Settings) -> AsyncIterator[AuditTrail]:
    """Raises CommandError, also for what fails inside."""
    from common.composition import connect
    from common.ports.errors import PermanentError, TransientError
    from common.secrets import without_secrets

    try:
        trail: AuditTrail = connect("audit", settings.audit_url, settings, "audit")
        try:
            yield trail
        finally:
            await trail.close()
    except PermanentError as error:
        raise WrongUsageError(without_secrets(str(error), settings)) from error
    except TransientError as error:
        raise TrailUnreachableError(without_secrets(str(error), settings)) from error


async def tell_trail(
    settings: Settings,
    *,
    action: str,
    subject: str = "",
    namespace: str = "",
    result: str = "accepted",
    count: int = 1,
) -> None:
    """That it was done just now by who runs this command. Raises CommandError."""
    from common.clock import system_clock
    from common.ports.audit import AuditEvent

    event = AuditEvent(
        at=system_clock(),
        principal=f"operator:{_user()}",
        action=action,
        namespace=namespace,
        subject=subject,
        result=result,
        count=count,
        address=platform.node(),
    )
    async with open_trail(settings) as trail:
        await trail.append([event])


def _user() -> str:
    """A container may have no name for its user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
