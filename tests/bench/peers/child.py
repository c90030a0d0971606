"""Runs in `.venv-peers`: `child.py TASK ARGUMENT…`; answers with JSON lines on standard output.

`index JOB`: a whole run, a `phase` a line. `sizes JOB TOKENS`: the chunk size at which chunks have
so many tokens on average. `batches JOB`: texts a second at each batch size. `split JOB`: every
document's chunks, by hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import warnings
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from tests.bench.peers.child_embedding import NAME, Counted, install
from tests.bench.peers.child_system import CountingClient, System, open_client
from tests.bench.peers.comparison import stale_and_missing
from tests.bench.peers.job import Job, Phase, last_revision, read_job

Found = tuple[float, int, int, int]
BATCHES = (1, 2, 4, 8)
SAMPLE = 60
TELL_SECONDS = 1.0


class Answers:
    """Standard output is theirs; whatever a tool prints goes to standard error."""

    def __init__(self) -> None:
        self._lines: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._told = time.monotonic()

    def say(self, **values: Any) -> None:
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()

    def embedded(self, count: int) -> None:
        """Now and then, so that a run that is ended from outside has said how far it was."""
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            self.say(embedded=count)


def main() -> None:
    warnings.simplefilter("ignore")
    answers = Answers()
    task, job_file, *more = sys.argv[1:]
    job = read_job(Path(job_file))
    counted = install(Path(job.model_folder), job.inference, answers.embedded)
    if task == "index":
        _index(job, counted, answers)
    elif task == "sizes":
        answers.say(**_fitting_size(job, counted, float(more[0])))
    elif task == "batches":
        _batches(job, answers)
    elif task == "split":
        for _, content in job.documents:
            chunks = _split(job, job.chunk_size, [content])
            answers.say(chunks=[hashlib.sha256(c.encode()).hexdigest()[:16] for c in chunks])


def _index(job: Job, counted: Counted, answers: Answers) -> None:
    folder = Path(job.data_folder)
    client = open_client(folder)
    system = _system(job, folder, client)
    _warm(job, counted)
    answers.say(ready=True)
    began = time.perf_counter()
    system.upsert(dict(job.documents))
    seconds = time.perf_counter() - began
    told = _phase("bulk", seconds, counted, client, _compared(system, dict(job.documents)))
    answers.say(phase=asdict(told))
    if job.edits:
        began = time.perf_counter()
        _replay(job, system)
        seconds = time.perf_counter() - began
        told = _phase("replay", seconds, counted, client, _compared(system, last_revision(job)))
        answers.say(phase=asdict(told))
    system.close()


def _replay(job: Job, system: System) -> None:
    for edit in job.edits:
        if edit.content is None:
            system.delete(edit.document_id)
        else:
            system.upsert({edit.document_id: edit.content})


def _compared(system: System, alive: dict[str, str]) -> Found:
    """What is held, stale and missing, by the system's own splitter; and the peak before that."""
    peak = _peak_megabytes()
    expected = [(name, chunk) for name, text in alive.items() for chunk in system.split(text)]
    return peak, *stale_and_missing(system.records(), expected)


def _phase(
    name: str, seconds: float, counted: Counted, client: CountingClient, found: Found
) -> Phase:
    peak, held, stale, missing = found
    chunks, tokens = counted.take()
    written, client.written = client.written, 0
    return Phase(
        name=name,
        seconds=seconds,
        chunks=chunks,
        tokens=tokens,
        records=written,
        held=held,
        stale=stale,
        missing=missing,
        peak_megabytes=peak,
    )


def _warm(job: Job, counted: Counted) -> None:
    """The model's file is in the page cache and the libraries are loaded before the clock runs."""
    if job.inference:
        import fastembed

        list(fastembed.TextEmbedding(model_name=NAME).embed(["warm"]))
    counted.take()


def _fitting_size(job: Job, counted: Counted, target: float) -> dict[str, float]:
    """By bisection; the mean grows with the size, nearly."""
    texts = [content for _, content in job.documents]
    found: dict[float, dict[str, float]] = {}
    low, high = (64, 1024) if job.system == "llamaindex" else (200, 6000)
    while high - low > max(low // 100, 1):
        middle = (low + high) // 2
        chunks = _split(job, middle, texts)
        mean = sum(counted.token_counts(chunks)) / len(chunks)
        found[abs(mean - target)] = {"chunk_size": middle, "mean": mean, "chunks": len(chunks)}
        low, high = (low, middle) if mean > target else (middle, high)
    return found[min(found)]


def _batches(job: Job, answers: Answers) -> None:
    """On one session, as fastembed makes it by default. Of three turns the best counts: other work
    on the machine can only slow one down."""
    import fastembed

    chunks = [chunk for _, text in job.documents for chunk in _split(job, job.chunk_size, [text])]
    sample = chunks[:: max(len(chunks) // SAMPLE, 1)][:SAMPLE]
    model = fastembed.TextEmbedding(model_name=NAME)
    rates: dict[int, float] = {}
    for batch in (*BATCHES, *BATCHES[::-1], *BATCHES):
        began = time.perf_counter()
        list(model.embed(sample, batch_size=batch))
        rate = len(sample) / (time.perf_counter() - began)
        rates[batch] = max(rates.get(batch, 0.0), rate)
    answers.say(rates=rates)


def _split(job: Job, chunk_size: int, texts: list[str]) -> list[str]:
    split = import_module(f"tests.bench.peers.child_{job.system}").split
    return [chunk for text in texts for chunk in split(text, chunk_size)]


def _system(job: Job, folder: Path, client: CountingClient) -> System:
    module = import_module(f"tests.bench.peers.child_{job.system}")
    system: System = module.connect(folder, client, job.chunk_size, job.batch)
    return system


def _peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
