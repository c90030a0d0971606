"""Start to ready, and what a service without work costs."""

from __future__ import annotations

import time
from statistics import median

from tests.bench.report import Line, Options, at_most, progress, spread
from tests.bench.service import service, stopped_service

STARTS = 5
START_SECONDS = 3.0
IDLE_SECONDS = 20.0
IDLE_PERCENT = 1.0
SETTLE_SECONDS = 3.0


def measure(options: Options) -> list[Line]:
    del options  # five starts are part of the target
    return [_starts(), _idle()]


def _starts() -> Line:
    """Each on an empty folder: the first start of a new user."""
    took = []
    for _ in range(STARTS):
        with stopped_service() as product:
            product.more_environment = {"BLOOMWEAVER_MODEL_CACHE_DIR": f"{product.folder}/models"}
            took.append(product.start_role())
        progress(f"start: ready after {took[-1]:.2f} s")
    name = f"start to ready, median of {STARTS}"
    return at_most(name, median(took), START_SECONDS, spread(took, 2, " s"), " s")


def _idle() -> Line:
    with service() as product:
        time.sleep(SETTLE_SECONDS)
        product.without_workers()
        before = sum(product.cpu_seconds().values())
        began = time.perf_counter()
        time.sleep(IDLE_SECONDS)
        used = sum(product.cpu_seconds().values()) - before
        percent = 100 * used / (time.perf_counter() - began)
    progress(f"idle: {percent:.2f} % of a core")
    name = f"idle CPU at zero workers, {IDLE_SECONDS:g} s"
    return at_most(name, percent, IDLE_PERCENT, f"{percent:.2f} % of a core", " %")
