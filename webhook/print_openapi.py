"""`python -m webhook.print_openapi`: the API's description, without a service.

With the default limits, whatever the environment says, so that what is made of it is the same
everywhere.
"""

from __future__ import annotations

import json
import os
import sys

from common.settings import Settings
from webhook.openapi import document


def described() -> str:
    """As JSON text that reads well in a diff."""
    for name in [name for name in os.environ if name.upper().startswith("BLOOMWEAVER_")]:
        del os.environ[name]
    told = document(Settings(_env_file=None))
    return json.dumps(told, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(described())
