"""What an index server's refusals mean for the caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from common.ports.errors import PermanentError, PortError, TransientError

_LONGEST_SAID = 300


class KeyRefusedError(TransientError):
    """The key is missing, wrong or has expired. At a role's start that is permanent."""


class NotThereError(TransientError):
    """A collection, a database or a path that the server does not know."""


def refusal(service: str, status: int, said: str, retry_after: str | None = None) -> PortError:
    """`said`: the server's words. Only what the request itself got wrong is permanent: no document
    is given up because of a key, a proxy or a load."""
    line = f"{service} answered {status}: {' '.join(said.split())[:_LONGEST_SAID]}"
    if status in (401, 403):
        return KeyRefusedError(line)
    if status == 404:
        return NotThereError(line)
    if status in (400, 413, 422):
        return PermanentError(line)
    return TransientError(line, retry_after_seconds=seconds_of(retry_after))


@contextmanager
def at_start(*, key: str, address: str) -> Iterator[None]:
    """What a person must mend is permanent at a role's start: `key` and `address` say where."""
    try:
        yield
    except KeyRefusedError as error:
        raise PermanentError(f"{error} (check {key})") from error
    except NotThereError as error:
        raise PermanentError(f"{error} (check {address})") from error


def seconds_of(retry_after: str | None) -> float | None:
    """A date, which servers may send too, is taken for nothing said."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
