"""How a role that cannot start, or that failed, tells so: one line in the log and an exit code."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from common.ports.errors import PermanentError, TransientError
from common.secrets import without_secrets
from common.settings import Settings

log = structlog.get_logger(__name__)

REFUSED_BY_MACHINE, MISCONFIGURED, OUT_OF_REACH = 1, 2, 3


def exit_code_of(role: str, settings: Settings, run: Callable[[], int]) -> int:
    """What `run` returns, or: 1 when the machine refuses (a full disk, a port in use), 2 for what
    a person must mend, 3 for what did not answer and may at the next start."""
    try:
        return run()
    except PermanentError as error:
        line, code = str(error), MISCONFIGURED
    except TransientError as error:
        line, code = str(error), OUT_OF_REACH
    except OSError as error:
        line, code = f"{error.strerror or error} {error.filename or ''}", REFUSED_BY_MACHINE
    log.error(f"{role}.cannot_start", error=without_secrets(" ".join(line.split()), settings))
    return code
