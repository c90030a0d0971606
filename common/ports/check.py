"""Checks of what is configured: optional for every adapter."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Checkable(Protocol):
    """An adapter whose other side can be missing, out of reach or set up wrongly."""

    async def check(self) -> str:
        """Make one real call, in seconds; a line about what was found: 'ChangeQueue: 3 waiting'.

        Raises PermanentError for what a person must mend (a missing queue, a wrong region, a
        permission, credentials, another dimension): the message says how. TransientError for what
        may mend itself (it cannot be reached). A role checks all its adapters before it starts
        anything; `bloomweaver doctor` prints what each says.
        """
