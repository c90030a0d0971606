"""Errors that no port promises: told with their traceback and counted, and the work goes on.

Whoever runs for ever catches them at its outermost loop, since one odd error of a library must not
end the service. A rise of the counter is a defect of the program or of an adapter.
"""

from __future__ import annotations

import structlog

from common import telemetry

log = structlog.get_logger(__name__)


def tell(where: str, error: Exception) -> None:
    """`where`: the part of the program, as a label."""
    telemetry.UNFORESEEN.labels(where).inc()
    log.error("unforeseen_error", where=where, exc_info=error)
