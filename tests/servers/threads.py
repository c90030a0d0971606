"""Where servers run that are a part of the test process."""

from __future__ import annotations

import asyncio
import threading
from functools import cache


@cache
def servers_loop() -> asyncio.AbstractEventLoop:
    """One thread serves all servers of a test process; it ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="servers", daemon=True).start()
    return loop
