"""Time as an argument: everything that decides by time takes a clock, so that tests can turn it."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the epoch."""

system_clock: Clock = time.time
