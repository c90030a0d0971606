"""The model's graph with plain float32 weights, fused where that changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import onnxruntime

from common.optimizing.fusion import Fusions, fuse
from common.optimizing.problems import UnsuitableModelError

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["MAX_MODEL_BYTES", "float_graph", "fused_graph"]

MAX_MODEL_BYTES: Final = 1 << 31
"""What one protobuf message can hold: 2 GiB."""

_MAX_DIFFERENCE: Final = 1e-3
"""Of the largest output. Another order of float32 sums makes some 1e-6; a wrong fusion, 0.1."""

_SHORT_TOKENS: Final = 24
_LONG_TOKENS: Final = 384


def float_graph(model: Path, work: Path) -> ModelProto:
    """The graph with every constant computed: stored int8 weights that are cast to float32 when
    the model runs become float32 weights, which can then be quantised by channel.

    `work` is a folder for what onnxruntime writes. Raises UnsuitableModelError.
    """
    computed = work / "constants.onnx"
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(computed)
    # Without this a weight behind a DequantizeLinear is not computed.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        _open(str(model), options)
        size = computed.stat().st_size
        graph = onnx.load(computed) if size < MAX_MODEL_BYTES else None
    except Exception as error:
        raise UnsuitableModelError(f"onnxruntime cannot read {model}: {error}") from error
    finally:
        for left in work.glob(f"{computed.name}*"):
            left.unlink()
    if graph is None:
        raise UnsuitableModelError(f"{model} has 2 GiB of weights or more")
    return graph


def fused_graph(graph: ModelProto, token_ids: Sequence[int]) -> tuple[ModelProto, Fusions]:
    """The fused graph and what was fused; the graph itself where a fusion changes its outputs.

    `token_ids` are those of real text, the more the better, up to 384.
    """
    candidate = onnx.ModelProto()
    candidate.CopyFrom(graph)
    fusions = fuse(candidate)
    if fusions and equivalent(graph, candidate, token_ids):
        return candidate, fusions
    return graph, Fusions()


def equivalent(one: ModelProto, other: ModelProto, token_ids: Sequence[int]) -> bool:
    """Whether both graphs give the same outputs, also for a text that shares its batch with a
    longer one, so that the mask counts."""
    ids, mask = _padded_batch(token_ids)
    try:
        first, second = (_outputs(graph, ids, mask) for graph in (one, other))
    except Exception:  # a graph that onnxruntime refuses is not equivalent to one that runs
        return False
    return len(first) == len(second) and all(
        _close(a, b, mask) for a, b in zip(first, second, strict=True)
    )


def _close(
    one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]
) -> bool:
    """What stands at padding is nobody's and may differ."""
    if one.shape != other.shape:
        return False
    by_token = one.ndim >= 2 and one.shape[:2] == mask.shape
    a, b = (one[mask == 1], other[mask == 1]) if by_token else (one, other)
    limit = _MAX_DIFFERENCE * max(float(np.abs(a).max()), 1e-12)
    # Not `> limit`: a NaN is never close.
    return bool(float(np.abs(a - b).max()) <= limit)


def _padded_batch(token_ids: Sequence[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A long text and the beginning of it, padded: ids and mask, int64 (2, length)."""
    long = list(token_ids[:_LONG_TOKENS])
    short = long[: max(1, min(_SHORT_TOKENS, math.ceil(len(long) / 2)))]
    padding = len(long) - len(short)
    ids = np.array([long, short + [0] * padding], dtype=np.int64)
    mask = np.array([[1] * len(long), [1] * len(short) + [0] * padding], dtype=np.int64)
    return ids, mask


def _outputs(
    graph: ModelProto, ids: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]
) -> list[np.ndarray[Any, Any]]:
    session = _open(graph.SerializeToString(), _options())
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    names = [value.name for value in session.get_inputs()]
    outputs: list[np.ndarray[Any, Any]] = session.run(None, {name: given[name] for name in names})
    return outputs


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only; what matters here raises
    return options


def _open(model: str | bytes, options: Any) -> Any:
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
