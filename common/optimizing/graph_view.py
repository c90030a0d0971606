"""Reads an ONNX graph: who makes a value, who takes it, and what is constant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnx import AttributeProto, helper, numpy_helper

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

__all__ = ["GraphView"]


class GraphView:
    """A graph as it is when the view is made; it does not follow later changes."""

    def __init__(self, graph: GraphProto) -> None:
        self.constants: dict[str, TensorProto] = {i.name: i for i in graph.initializer}
        self.inputs = {i.name for i in graph.input} - self.constants.keys()
        self.makers: dict[str, NodeProto] = {}
        self._takers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            self.makers.update(dict.fromkeys(node.output, node))
            for name in dict.fromkeys(node.input):
                self._takers[name].append(node)

    def made_by(self, name: str, *op_types: str) -> NodeProto | None:
        """The node that makes the value, if it is of one of these types."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type in op_types else None

    def takers(self, name: str, *op_types: str) -> list[NodeProto]:
        """The nodes that take the value; all types when none is named."""
        return [n for n in self._takers.get(name, []) if not op_types or n.op_type in op_types]

    def only_taker(self, name: str, *op_types: str) -> NodeProto | None:
        takers = self.takers(name)
        return takers[0] if len(takers) == 1 and takers[0].op_type in op_types else None

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one element."""
        constant = self.constants.get(name)
        if constant is None or any(size != 1 for size in constant.dims):
            return None
        return float(numpy_helper.to_array(constant).reshape(()))

    def with_scalar(self, node: NodeProto) -> tuple[str, float] | None:
        """What a node of two inputs takes beside a scalar constant, and that constant."""
        for other, constant in (node.input[:2], reversed(node.input[:2])):
            value = self.scalar(constant)
            if value is not None:
                return other, value
        return None

    def last_size(self, shape: str) -> int | None:
        """The last element of a shape, where it is constant."""
        maker = self.made_by(shape, "Concat")
        constant = self.constants.get(maker.input[-1] if maker else shape)
        if constant is None:
            return None
        sizes = numpy_helper.to_array(constant).reshape(-1)
        return int(sizes[-1]) if len(sizes) and sizes[-1] > 0 else None

    def ancestors(self, name: str) -> Iterator[str]:
        """The names of every value that decides this one, itself among them."""
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            found = waiting.pop()
            if not found or found in seen:
                continue
            seen.add(found)
            yield found
            if found in self.makers:
                waiting.extend(self.makers[found].input)


def integers(node: NodeProto, attribute: str) -> list[int]:
    """An attribute that is a list of integers; empty when it is absent."""
    for found in node.attribute:
        if found.name == attribute and found.type == AttributeProto.INTS:
            return list(helper.get_attribute_value(found))
    return []
