"""A model of one small encoder layer, built by hand: quick to optimise, with all that BERT has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS = 8, 2


class EncoderLayer:
    """The nodes, as an exporter spells them out; `fault` makes one part unlike BERT's.

    Outputs are 16 wide. The feed-forward columns differ much in size and are brought to one size
    afterwards, so that a matrix that is quantised with a single scale loses the small ones.
    """

    def __init__(self, fault: str = "", vocabulary: int = 50) -> None:
        self.fault = fault
        self.vocabulary = vocabulary
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(1)

    def const(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def weight(self, name: str, *sizes: int) -> str:
        return self.const(name, self.random.normal(size=sizes))

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        output = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def linear(self, name: str, x: str, wide: int, narrow: int) -> str:
        product = self.op("MatMul", x, self.weight(f"{name}_w", wide, narrow))
        return self.op("Add", product, self.weight(f"{name}_b", narrow))

    def heads(self, name: str, x: str, perm: list[int]) -> str:
        cut = self.op("Reshape", self.linear(name, x, WIDTH, WIDTH), "cut")
        return self.op("Transpose", cut, perm=perm)

    def mask(self) -> str:
        real = self.op("Cast", "attention_mask", to=TensorProto.FLOAT)
        hidden = real if self.fault == "mask" else self.op("Sub", "one", real)
        penalty = self.op("Mul", hidden, self.const("much", -1e4))
        mask = self.op("Unsqueeze", penalty, self.const("axes", [1, 2], np.int64))
        if self.fault == "position bias":
            mask = self.op("Add", mask, self.weight("bias", 1, HEADS, 1, 1))
        return mask

    def attention(self, x: str) -> str:
        self.const("cut", [0, 0, HEADS, WIDTH // HEADS], np.int64)
        query = self.heads("q", x, [0, 2, 1, 3])
        key = self.heads("k", x, [0, 2, 3, 1])
        value = self.heads("v", x, [0, 2, 1, 3])
        scores = self.op("Div", self.op("MatMul", query, key), self.const("root", 2.0))
        weights = self.op("Softmax", self.op("Add", scores, self.mask()), axis=-1)
        merged = self.op("Transpose", self.op("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self.op("Reshape", merged, self.const("whole", [0, 0, WIDTH], np.int64))

    def feed_forward(self, x: str) -> str:
        sizes = 10.0 ** np.linspace(-4, 0, 2 * WIDTH)
        weight = self.random.normal(size=(WIDTH, 2 * WIDTH)) * sizes
        product = self.op("MatMul", x, self.const("ff_w", weight))
        return self.op("Mul", product, self.const("ff_sizes", 1 / sizes))

    def gelu(self, x: str) -> str:
        root = 1.5 if self.fault == "gelu" else math.sqrt(2)
        erf = self.op("Erf", self.op("Div", x, self.const("root2", root)))
        product = self.op("Mul", x, self.op("Add", erf, "one"))
        return self.op("Mul", product, self.const("half", 0.5))

    def model(self) -> onnx.ModelProto:
        self.const("one", 1.0)
        x = self.op("Gather", self.weight("words", self.vocabulary, WIDTH), "input_ids")
        summed = self.op("Add", self.linear("o", self.attention(x), WIDTH, WIDTH), x)
        scale, shift = self.weight("ln_w", WIDTH), self.weight("ln_b", WIDTH)
        normal = self.op("LayerNormalization", summed, scale, shift, axis=-1)
        result = self.gelu(self.feed_forward(normal))
        self.nodes.append(helper.make_node("Identity", [result], ["last_hidden_state"]))
        return self._model()

    def _model(self) -> onnx.ModelProto:
        sizes = ["batch", "tokens"]
        taken = [
            helper.make_tensor_value_info(name, TensorProto.INT64, sizes)
            for name in ("input_ids", "attention_mask")
        ]
        given = helper.make_tensor_value_info(
            "last_hidden_state", TensorProto.FLOAT, [*sizes, 2 * WIDTH]
        )
        graph = helper.make_graph(self.nodes, "layer", taken, [given], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
