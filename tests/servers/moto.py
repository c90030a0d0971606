"""moto's server, with one DynamoDB request at a time.

DynamoDB's conditional writes are atomic. moto serves each request in a thread of its own and looks
at the condition before it writes: of two at once both may succeed, which never happens there.

    python -m tests.servers.moto -H 127.0.0.1 -p 5000
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from moto.dynamodb.responses import DynamoHandler
from moto.server import main

_one_at_a_time = threading.Lock()
_call_action = DynamoHandler.call_action


def _call_alone(handler: DynamoHandler) -> Any:
    with _one_at_a_time:
        return _call_action(handler)


if __name__ == "__main__":
    DynamoHandler.call_action = _call_alone  # type: ignore[method-assign]
    main(sys.argv[1:])
