"""An int8 graph: which weights become integers, and how."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.optimizing.problems import UnsuitableModelError

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["INT8_VARIANTS", "Int8Variant", "quantise", "reduced_range_needed"]

_EIGHT_BIT_PRODUCTS: Final = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})


@dataclass(frozen=True, slots=True)
class Int8Variant:
    """A way to quantise. Activations are quantised while the model runs, a scale a tensor."""

    name: str
    per_channel: bool = True
    """A scale for every output of a weight matrix; with one for all of it agreement falls to
    0.95."""
    feed_forward_outputs: bool = True
    """Whether the matrices that narrow the feed-forward layer are quantised: their inputs have
    the widest spread, so that they cost the most agreement."""


INT8_VARIANTS: Final = (
    Int8Variant("all matrices"),
    Int8Variant("all but the feed-forward outputs", feed_forward_outputs=False),
)
"""The fastest first. Measured with all-MiniLM-L6-v2 on 300 passages of documentation, against the
original: 0.994 and 2.6 times as fast; 0.997 and 2.1 times."""


def quantise(graph: ModelProto, variant: Int8Variant, target: Path, *, reduced: bool) -> None:
    """Write the quantised graph. `reduced`: weights of 7 bits (see reduced_range_needed).

    Embedding tables become integers too: a quarter of the memory. Raises UnsuitableModelError.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    excluded = [] if variant.feed_forward_outputs else _narrowing(model)
    try:
        with _quiet():
            quantize_dynamic(
                model,
                target,
                weight_type=QuantType.QInt8,
                per_channel=variant.per_channel,
                reduce_range=reduced,
                op_types_to_quantize=["MatMul", "Gather"],
                nodes_to_exclude=excluded,
                extra_options={
                    # Products of two activations stay in float32: they have no weights to shrink.
                    "MatMulConstBOnly": True,
                    # What onnx cannot infer: the outputs of onnxruntime's own operators.
                    "DefaultTensorType": onnx.TensorProto.FLOAT,
                },
            )
        made = _integer_products(onnx.load(target)) - _integer_products(graph)
    except Exception as error:
        raise UnsuitableModelError(f"onnxruntime cannot quantise this graph: {error}") from error
    if made <= 0:
        raise UnsuitableModelError(
            "the graph has no float32 matrix to quantise: is it an integer graph already?"
        )


def _integer_products(model: ModelProto) -> int:
    return sum(node.op_type == "MatMulInteger" for node in model.graph.node)


def _narrowing(model: ModelProto) -> list[str]:
    """The matrix products whose result is narrower than what goes in."""
    weights = {constant.name: constant.dims for constant in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul"
        and len(sizes := weights.get(node.input[1], ())) == 2
        and sizes[0] > sizes[1]
    ]


def reduced_range_needed(machine: str | None = None, cpu_flags: str | None = None) -> bool:
    """Whether weights must keep to 7 bits on a CPU: x86 without eight-bit dot products.

    There two products of 8 bits are added in 16, which overflows silently. With VNNI or AMX, and
    on ARM, sums have 32 bits: 8 bits are exact, and 7 would only cost agreement (0.992 for 0.994).
    An x86 CPU whose features cannot be read counts as one without. Arguments of None: this one.
    """
    machine = platform.machine() if machine is None else machine
    if machine.lower() not in {"x86_64", "amd64", "i686"}:
        return False
    flags = _own_cpu_flags() if cpu_flags is None else cpu_flags
    return _EIGHT_BIT_PRODUCTS.isdisjoint(flags.split())


def _own_cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantiser advises on the root logger to do what was done already."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
