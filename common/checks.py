"""Tries out what is configured with a real call to each adapter: before a role starts anything, and
for `bloomweaver doctor`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import structlog

from common.composition import ConfigurationError
from common.model import EmbeddingProfile
from common.parts import Ports
from common.ports.check import Checkable
from common.ports.embedder import Embedder
from common.ports.errors import PermanentError, TransientError
from common.ports.index import DimensionMismatchError
from common.settings import Settings

__all__ = [
    "Check",
    "Finding",
    "OutOfReachError",
    "Verdict",
    "carried_out",
    "require_each_usable",
    "require_usable",
]

log = structlog.get_logger(__name__)

ADAPTERS = ("queue", "registry", "blobs", "vectors", "embedder", "index")
"""The fields of Ports that hold one, each named by a setting NAME_url."""


class OutOfReachError(TransientError):
    """Something a role needs does not answer at its start; another start may find it."""


class Verdict(StrEnum):
    FINE = "fine"
    NOTE = "note"
    """Nothing is wrong, but a person may want to know."""
    UNREACHABLE = "unreachable"
    """It may mend itself."""
    WRONG = "wrong"
    """A person must change something."""


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    verdict: Verdict
    line: str
    timed_out: bool = False
    """Something of it may still hang."""


@dataclass(frozen=True, slots=True)
class Check:
    """`call` returns a line about what it found, or a whole Finding; or raises a PortError."""

    name: str
    call: Callable[[], Awaitable[str | Finding]]
    patience: int = 1
    """In deadlines: work on this machine's cores takes longer than an answer over a network."""
    when_late: str = "check the address and the network"


@runtime_checkable
class DimensionChecking(Protocol):
    """An index that may hold vectors from elsewhere and before."""

    async def check_dimension(self, dimension: int) -> object:
        """Raises DimensionMismatchError when it holds vectors of another dimension."""


@runtime_checkable
class OneDimensional(Protocol):
    """An index made for vectors of one dimension, whatever their namespace."""

    async def dimension(self) -> int: ...


async def require_usable(ports: Ports, beside: Mapping[str, object] = MappingProxyType({})) -> None:
    """One call to every adapter that can be checked, side by side, before anything is started.

    `beside`: what the role uses that is no port, by the setting that names it. Raises
    ConfigurationError for what a person must mend, OutOfReachError for what did not answer; the
    message is one line and names the settings.
    """

    def profiles() -> Iterator[EmbeddingProfile]:
        return readable([ports.embedder, *ports.variants.values()])

    adapters = {variable_of(name): getattr(ports, name, None) for name in ADAPTERS}
    await require_each_usable({**adapters, **beside}, ports.settings, profiles)


async def require_each_usable(
    adapters: Mapping[str, object],
    settings: Settings,
    profiles: Callable[[], Iterator[EmbeddingProfile]] = lambda: iter(()),
) -> None:
    """As `require_usable`, of adapters by the setting that names each; `profiles` for indexes."""
    if not settings.start_checks:
        return
    checks = [
        Check(setting, partial(checked, setting, adapter, profiles))
        for setting, adapter in adapters.items()
        if isinstance(adapter, Checkable | DimensionChecking)
    ]
    timeout_seconds = settings.check_timeout_seconds
    found = await asyncio.gather(*(carried_out(check, timeout_seconds) for check in checks))
    _refuse([f for f in found if f.verdict in (Verdict.WRONG, Verdict.UNREACHABLE)])
    for finding in found:
        tell = log.warning if finding.verdict is Verdict.NOTE else log.info
        tell("start.checked", setting=finding.name, found=finding.line)


def variable_of(name: str) -> str:
    """The variable that names the adapter of the port `name`."""
    return f"BLOOMWEAVER_{name.upper()}_URL"


async def checked(
    name: str, adapter: Any, profiles: Callable[[], Iterator[EmbeddingProfile]]
) -> Finding:
    """What the adapter says of itself; an empty line of one that is not checked. Raises PortError.

    `profiles`, of this process' model first and then of all variants', is called in a thread, where
    an index is to take the models' vectors.
    """
    lines = [await adapter.check()] if isinstance(adapter, Checkable) else []
    if isinstance(adapter, DimensionChecking):
        # Where namespaces differ in their dimension, so may the variants.
        asked = None if isinstance(adapter, OneDimensional) else 1
        found = await asyncio.to_thread(lambda: list(islice(profiles(), asked)))
        dimensions = list(dict.fromkeys(profile.dimension for profile in found))
        try:
            for dimension in dimensions:
                await adapter.check_dimension(dimension)
        except DimensionMismatchError as error:
            if isinstance(adapter, OneDimensional):
                raise
            # A namespace of another model, which keeps to it: only changes to it are refused.
            return Finding(name, Verdict.NOTE, ", ".join([*lines, _one_line(error)]))
        lines.append(f"takes the model's {dimensions[0]} dimensions")
    return Finding(name, Verdict.FINE, ", ".join(lines))


def readable(embedders: Sequence[Embedder]) -> Iterator[EmbeddingProfile]:
    """The profiles, each read when it is asked for. Raises PermanentError for the first; another's
    model that is not on this machine is told of where it is used."""
    yield embedders[0].profile
    for embedder in embedders[1:]:
        with contextlib.suppress(PermanentError):
            yield embedder.profile


async def carried_out(check: Check, timeout_seconds: float) -> Finding:
    """What the check found, whatever it does. Cancelled when it takes too long."""
    try:
        async with asyncio.timeout(timeout_seconds * check.patience):
            found = await check.call()
    except PermanentError as error:
        return Finding(check.name, Verdict.WRONG, _one_line(error))
    except TimeoutError:
        line = f"no answer within {timeout_seconds * check.patience:g} s: {check.when_late}"
        return Finding(check.name, Verdict.UNREACHABLE, line, timed_out=True)
    except TransientError as error:
        return Finding(check.name, Verdict.UNREACHABLE, _one_line(error))
    except Exception as error:
        # What no port promises: told in a line like the rest, and in full to whoever debugs.
        log.debug("check.failed", check=check.name, exc_info=error)
        line = f"the check failed: {type(error).__name__}: {_one_line(error)}"
        return Finding(check.name, Verdict.WRONG, line)
    return found if isinstance(found, Finding) else Finding(check.name, Verdict.FINE, found)


def _refuse(failures: Sequence[Finding]) -> None:
    if not failures:
        return
    line = "; ".join(dict.fromkeys(_named(failure) for failure in failures))
    if any(failure.verdict is Verdict.WRONG for failure in failures):
        raise ConfigurationError(line)
    raise OutOfReachError(line)


def _named(failure: Finding) -> str:
    """Adapters that name a variable themselves need no other in front."""
    line = failure.line
    return line if "BLOOMWEAVER_" in line else f"{failure.name}: {line}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
