"""The yardstick: what raw onnxruntime reaches on the same texts, with nothing around it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.adapters.embedder.fused_model import kept_folder, make_fused
from common.adapters.embedder.packaged_model import PACKAGED_MODELS, assemble, locate
from tests.acceptance.service import MODELS
from tests.bench.corpus import token_ids
from tests.bench.service import cpu_seconds_of


class RawSession:
    """A child process with one session; `run` blocks until the batch is embedded."""

    def __init__(self, graph: Path, token_file: Path, threads: int) -> None:
        arguments = [str(graph), str(token_file), str(threads)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.raw_child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        self._expect("ready")

    def plan(self, batches: Sequence[Sequence[int]]) -> None:
        self._ask({"plan": batches})

    def run(self, number: int) -> None:
        self._ask({"run": number})

    def cpu_seconds(self) -> float:
        return cpu_seconds_of(self._process.pid)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, request: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        self._expect("done")

    def _expect(self, word: str) -> None:
        assert self._process.stdout
        answer = self._process.stdout.readline().strip()
        if answer != word:
            raise RuntimeError(f"a raw session answered {answer!r} instead of {word!r}")


@dataclass(frozen=True, slots=True)
class Way:
    """One point of the grid."""

    processes: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads} thread(s), batch {self.batch}"


GRID = tuple(Way(p, t, batch) for p, t in ((2, 1), (1, 2)) for batch in (1, 2, 4, 8))


class Yardstick:
    """Sessions of both shapes, loaded and idle until they are asked."""

    def __init__(self, tokens: list[list[int]], sessions: dict[int, list[RawSession]]) -> None:
        self._lengths = [len(line) for line in tokens]
        self._sessions = sessions

    def rate(self, way: Way, places: Sequence[int] | None = None) -> float:
        """Chunks a second. Whoever is free takes the next batch, the longest first."""
        chosen = range(len(self._lengths)) if places is None else places
        ordered = sorted(chosen, key=lambda place: -self._lengths[place])
        batches = [ordered[i : i + way.batch] for i in range(0, len(ordered), way.batch)]
        sessions = self._sessions[way.threads][: way.processes]
        for session in sessions:
            session.plan(batches)
        todo = iter(range(len(batches)))

        def work(session: RawSession) -> None:
            for number in todo:
                session.run(number)

        began = time.perf_counter()
        with ThreadPoolExecutor(len(sessions)) as threads:
            list(threads.map(work, sessions))
        return len(ordered) / (time.perf_counter() - began)

    def cpu_seconds(self) -> float:
        """Of all sessions so far; those at rest use none."""
        return sum(s.cpu_seconds() for sessions in self._sessions.values() for s in sessions)


def original_graph() -> Path:
    """As the model's authors published it, and as the peers run it."""
    (model,) = PACKAGED_MODELS.values()
    return locate(model.weights)


def fused_graph() -> Path:
    """What the product makes of it and runs."""
    (model,) = PACKAGED_MODELS.values()
    original = assemble(model, MODELS)
    make_fused(original, model.fingerprint, MODELS, threading.Event())
    folder = kept_folder(original, model.fingerprint, MODELS)
    if folder == original:
        raise RuntimeError("the model was not fused: the product would run the original too")
    return folder / "model.onnx"


@contextlib.contextmanager
def yardstick(
    graph: Path, texts: list[str], shapes: Sequence[tuple[int, int]]
) -> Iterator[Yardstick]:
    """`shapes`: pairs of processes and threads of each."""
    tokens = token_ids(texts)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bloomweaver-bench-"))
        file = Path(folder) / "tokens.json"
        file.write_text(json.dumps(tokens))
        sessions: dict[int, list[RawSession]] = {}
        for processes, threads in shapes:
            for _ in range(processes):
                session = RawSession(graph, file, threads)
                stack.callback(session.close)
                sessions.setdefault(threads, []).append(session)
        yield Yardstick(tokens, sessions)
