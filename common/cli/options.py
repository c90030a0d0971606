"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        show_default=False,
        help="Where the service is. Else BLOOMWEAVER_URL, else http://127.0.0.1:8080.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON to stdout; progress still goes to stderr.")
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The knowledge base or tenant.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until every sent document is applied.")
]
Prefix = Annotated[
    str, typer.Option(help="A folder to put the documents under: `handbook` gives handbook/a.md.")
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        help="key=value, kept with each document for filters; repeat for more. "
        "Without it, documents keep what they have."
    ),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", show_default=False, help="Holds everything.")
]
