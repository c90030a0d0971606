"""Coverage-guided fuzzing of what reads strangers' bytes: `python -m tests.fuzz [SECONDS]`.

Outside the test suite, since it needs atheris (`pip install 'atheris>=3,<4'`, Linux). What it finds
ends it with the input; keep that as a test in tests/properties/test_hostile_input.py.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

INSTRUMENTED = [
    "json",
    "webhook.json_text",
    "webhook.validation",
    "webhook.sources.payloads",
    "common.filters",
]
SEEDS = (
    b'{"change_type":"insert","document_id":"a","content":"x","metadata":{"a":[1.5,true]}}',
    b'{"changes":[{"change_type":"delete","document_id":"\\ud83d\\ude00","source_version":7}]}',
    b'{"$and":[{"lang":{"$in":["en",1]}},{"n":{"$gte":-1e308}}]}',
    b'[{"specversion":"1.0","id":"1","source":"/a","type":"t","data_base64":"eA=="}]',
    b"payload=%7B%22a%22%3A1%7D&b=c",
    b"\xef\xbb\xbf[[[[]]]]",
)
HEADERS = (
    {"content-type": ["application/json"]},
    {"content-type": ["application/cloudevents+json"]},
    {"content-type": ["application/cloudevents-batch+json"]},
    {"content-type": ["application/x-www-form-urlencoded"]},
    {"content-type": ["text/plain"], "ce-id": ["1"], "ce-source": ["/a"], "ce-type": ["t"]},
)


def readers() -> list[Callable[[bytes], Any]]:
    """Each reads bytes, or refuses them."""
    from common.filters import parse_filter
    from common.settings import Settings
    from webhook.sources.payloads import payload_of
    from webhook.validation import change_of, changes_of, parse_json

    limits = Settings(_env_file=None, max_document_bytes=1000)
    forms = ("json", "ndjson", "form", "cloudevents")
    return [
        lambda data: json.dumps(parse_json(data), allow_nan=False),
        lambda data: change_of(parse_json(data), limits),
        lambda data: changes_of(parse_json(data), limits),
        lambda data: parse_filter(parse_json(data)),
        *(
            lambda data, form=form, headers=headers: payload_of(
                form, headers, data, headers_decide=True
            )
            for form in forms
            for headers in HEADERS
        ),
    ]


def main() -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        from common.filters import FilterError
        from webhook.problems import Problem

        read = readers()

    def one_input(data: bytes) -> None:
        which, rest = (data[0] if data else 0) % len(read), data[1:]
        try:
            read[which](rest)
        except (Problem, FilterError):
            return

    seconds = sys.argv[1] if len(sys.argv) > 1 else "60"
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS):
            for which in range(len(read)):
                (Path(folder) / f"{number}-{which}").write_bytes(bytes([which]) + seed)
        atheris.Setup(
            [
                sys.argv[0],
                f"-max_total_time={seconds}",
                "-seed=1",
                f"-artifact_prefix={tempfile.gettempdir()}/",
                folder,
            ],
            one_input,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
