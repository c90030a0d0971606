"""A service of AWS that refuses every request with one error code, in each service's own words."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MESSAGE = "it is not to be"


class _Refusal(BaseHTTPRequestHandler):
    code = ""

    def do_POST(self) -> None:
        """DynamoDB and SQS: JSON, the operation in X-Amz-Target."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = {"__type": f"com.amazon.coral.service#{self.code}", "message": MESSAGE}
        self._answer(400, "application/x-amz-json-1.0", json.dumps(said))

    def do_GET(self) -> None:
        """S3: XML, and nothing for a HEAD."""
        said = f"<Error><Code>{self.code}</Code><Message>{MESSAGE}</Message></Error>"
        self._answer(403, "application/xml", said)

    def do_HEAD(self) -> None:
        self._answer(403, "application/xml", "")

    def _answer(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Quiet."""


@contextmanager
def refusing(code: str) -> Iterator[str]:
    """Its URL."""
    handler = type("Refusal", (_Refusal,), {"code": code})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
