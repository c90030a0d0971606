"""One raw onnxruntime session in a process of its own. Arguments: model, token file, threads.

Reads JSON lines: {"plan": [[place, …], …]} pads those texts into batches, {"run": n} runs the
n-th of them; each is answered with a line. Ends with its standard input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Feed = dict[str, np.ndarray[Any, Any]]


def session_of(model: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def padded(tokens: list[list[int]], names: list[str]) -> Feed:
    shape = (len(tokens), max(map(len, tokens)))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, line in enumerate(tokens):
        ids[row, : len(line)] = line
        mask[row, : len(line)] = 1
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: known[name] for name in names}


def main() -> None:
    model, token_file, threads = sys.argv[1:]
    tokens: list[list[int]] = json.loads(Path(token_file).read_text())
    session = session_of(model, int(threads))
    names = [wanted.name for wanted in session.get_inputs()]
    session.run(None, padded([tokens[0][:8]], names))
    batches: list[Feed] = []
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "plan" in request:
            batches = [padded([tokens[i] for i in places], names) for places in request["plan"]]
        else:
            session.run(None, batches[request["run"]])
        print("done", flush=True)


if __name__ == "__main__":
    main()
