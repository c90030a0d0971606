"""A proxy in front of an AWS emulator that does to SQS, DynamoDB and S3 what AWS may do to anyone.

Requests are throttled, take effect and are answered with a 500, are sent twice (so that a message
is delivered twice), and entries of a batch fail while their neighbours succeed. What happens is
drawn from a seed; `GET /_unruly/counts` tells how often each fault was made.

    python -m tests.servers.unruly --upstream http://127.0.0.1:5000 --port 5001 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailers", "transfer-encoding", "upgrade"}
LONGEST_REQUEST_SECONDS = 60.0
SENDS = {"SendMessage", "SendMessageBatch"}
JSON_TYPE = "application/x-amz-json-1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Probabilities, per request; of `partial`, per entry of a batch."""

    throttled: float = 0.03
    answer_lost: float = 0.01
    partial: float = 0.04
    duplicate: float = 0.05


CALM = Rates(throttled=0, answer_lost=0, partial=0, duplicate=0)


@dataclass(frozen=True, slots=True)
class Call:
    """Which operation of which service a request is: `sqs`, `SendMessageBatch`."""

    service: str
    operation: str

    @classmethod
    def of(cls, method: str, headers: Mapping[str, str]) -> Call:
        target = headers.get("X-Amz-Target", "")
        name, dot, operation = target.partition(".")
        if not dot:
            return cls("s3", method)
        return cls("sqs" if name == "AmazonSQS" else "dynamodb", operation)


@dataclass(slots=True)
class Unruly:
    upstream: str
    rates: Rates
    drawn: random.Random
    refused: dict[str, str] = field(default_factory=dict)
    """By service: the error that each of its requests is answered with."""
    counts: Counter[str] = field(default_factory=Counter)
    _session: ClientSession | None = None

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        app.router.add_get("/_unruly/counts", self._tell)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_startup.append(self._open)
        app.on_cleanup.append(self._close)
        return app

    async def _open(self, _: web.Application) -> None:
        self._session = ClientSession(
            auto_decompress=False,
            connector=TCPConnector(limit=0),
            timeout=ClientTimeout(total=LONGEST_REQUEST_SECONDS),
        )

    async def _close(self, _: web.Application) -> None:
        if self._session:
            await self._session.close()

    async def _tell(self, _: web.Request) -> web.Response:
        return web.json_response(dict(self.counts))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call.of(request.method, request.headers)
        body = await request.read()
        self._count(f"{call.service}.{call.operation}", "requests")
        if call.service in self.refused:
            return refusal(call.service, self.refused[call.service])
        if self._happens(self.rates.throttled):
            self._count(call.operation, "throttled")
            return throttled(call.service)
        failed: list[dict[str, Any]] = []
        if call.service == "sqs" and call.operation.endswith("Batch"):
            body, failed = self._without_some(body)
            if failed:
                self._count(call.operation, "partial")
        answer = await self._forward(request, body)
        if call.operation in SENDS and self._happens(self.rates.duplicate):
            self._count(call.operation, "duplicate")
            await self._forward(request, body)
        if self._happens(self.rates.answer_lost):
            self._count(call.operation, "answer_lost")
            return internal_error(call.service)
        return _with_failures(answer, failed) if failed else answer

    def _without_some(self, body: bytes) -> tuple[bytes, list[dict[str, Any]]]:
        """At least one entry stays: a batch without entries is another error."""
        request = json.loads(body)
        entries = request["Entries"]
        taken = [e for e in entries[1:] if self._happens(self.rates.partial)]
        if not taken:
            return body, []
        request["Entries"] = [e for e in entries if e not in taken]
        failed = [{"Id": e["Id"], "SenderFault": False, "Code": "InternalError"} for e in taken]
        return json.dumps(request).encode(), failed

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        assert self._session is not None
        headers = {k: v for k, v in request.headers.items() if _travels(k)}
        try:
            async with self._session.request(
                request.method,
                self.upstream + request.raw_path,
                headers=headers,
                data=body,
                allow_redirects=False,
            ) as answer:
                kept = {k: v for k, v in answer.headers.items() if _travels(k)}
                if request.method == "HEAD":  # tells the size of what a GET would bring
                    return web.Response(status=answer.status, headers=answer.headers)
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
        except (ClientError, TimeoutError):
            return internal_error("s3")

    def _happens(self, probability: float) -> bool:
        return self.drawn.random() < probability

    def _count(self, operation: str, what: str) -> None:
        self.counts[f"{operation}.{what}"] += 1
        self.counts[what] += 1


def _travels(header: str) -> bool:
    return header.lower() not in HOP_BY_HOP | {"content-length"}


def throttled(service: str) -> web.Response:
    if service == "s3":
        return web.Response(status=503, content_type="application/xml", text=_xml("SlowDown"))
    prefix = "com.amazonaws.sqs#" if service == "sqs" else "com.amazonaws.dynamodb.v20120810#"
    name = "RequestThrottled" if service == "sqs" else "ThrottlingException"
    return _error(400, prefix + name, "Rate exceeded")


def refusal(service: str, code: str) -> web.Response:
    if service == "s3":
        return web.Response(status=403, content_type="application/xml", text=_xml(code))
    return _error(400, f"com.amazon.coral.service#{code}", "it is not to be")


def internal_error(service: str) -> web.Response:
    if service == "s3":
        return web.Response(status=500, content_type="application/xml", text=_xml("InternalError"))
    return _error(500, "InternalServerError", "We encountered an internal error. Please try again.")


def _error(status: int, name: str, message: str) -> web.Response:
    body = json.dumps({"__type": name, "message": message})
    return web.Response(status=status, body=body.encode(), headers={"Content-Type": JSON_TYPE})


def _xml(code: str) -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"


def _with_failures(answer: web.Response, failed: list[dict[str, Any]]) -> web.Response:
    if answer.status != 200:
        return answer
    assert isinstance(answer.body, bytes)
    said = json.loads(answer.body)
    said["Failed"] = [*said.get("Failed", []), *failed]
    return web.Response(
        status=200, body=json.dumps(said).encode(), headers={"Content-Type": JSON_TYPE}
    )


async def _serve(options: argparse.Namespace) -> None:
    rates = CALM if options.calm else Rates()
    unruly = Unruly(options.upstream, rates, random.Random(options.seed))
    runner = web.AppRunner(unruly.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calm", action="store_true", help="count requests and spoil none")
    asyncio.run(_serve(parser.parse_args()))
