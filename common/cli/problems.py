"""What can go wrong for a command, each with the exit code it ends in.

Standard library only: every command module needs these, also those that must start at once.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from common.client.errors import BloomWeaverError, ConfigurationError, UnreachableError

JSON = dict[str, Any]


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    """Documents failed, or lines were refused."""
    USAGE = 2
    """Wrong usage or configuration."""
    UNREACHABLE = 3
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends the command with its message and its exit code; never with a traceback."""

    exit_code = ExitCode.FAILED


class WrongUsageError(CommandError):
    """The command line or the configuration cannot be right."""

    exit_code = ExitCode.USAGE


class OutOfReachError(CommandError):
    """Something that the configuration names does not answer now; it may the next time."""

    exit_code = ExitCode.UNREACHABLE


FAILURES = (CommandError, BloomWeaverError)
"""What ends a command with a message: its own errors, and the client's."""


def exit_code_of(error: CommandError | BloomWeaverError) -> ExitCode:
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, ConfigurationError):
        return ExitCode.USAGE
    return ExitCode.UNREACHABLE if isinstance(error, UnreachableError) else ExitCode.FAILED
