"""What holds for every test."""

from __future__ import annotations

import gc
import sys

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """What a failed test left open is told at its own end.

    Its traceback keeps its locals, in cycles with pytest's own frames. They are collected when some
    later test makes enough garbage, and that one fails for a socket it never saw.
    """
    if getattr(sys, "last_value", None) is None:
        return
    del sys.last_type, sys.last_value, sys.last_traceback
    gc.collect()
