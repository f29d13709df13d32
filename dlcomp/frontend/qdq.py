"""Quantize and dequantize nodes around an operator, as the operator on the integers between them.

The float operator of a QDQ network stands for integer arithmetic: a convolution of ``sx * (x - zx)`` with
``sw * (w - zw)`` is ``sx * sw`` times the convolution of the integers, which is exact. Where a quantize
node follows, its scale joins the others in one factor, so that a result costs one multiplication
(Jacob et al. 2018, section 2.2, with a float32 factor). What only moves elements, or takes the largest of
them, works on the integers themselves if they keep their scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from dlcomp.frontend.fold import replace_nodes
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.operators import taken
from dlcomp.frontend.qdq_average import planned
from dlcomp.frontend.simplify import drop_unread
from dlcomp.frontend.stored import array_of
from dlcomp.frontend.writer import Writer, attributes_of

_AVERAGES = ("GlobalAveragePool", "AveragePool", "ReduceMean")
_MOVEMENTS = frozenset("Reshape Flatten Squeeze Unsqueeze Transpose MaxPool Identity".split())


def on_integers(network: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``network`` whose products and movements between such nodes work on integers."""
    if not any(_is(node, "DequantizeLinear") for node in network.graph.node):
        return network
    result = onnx.ModelProto()
    result.CopyFrom(network)
    rewriter = _Rewriter(result)
    graph = result.graph
    replace_nodes(graph, list(rewriter.nodes()))
    graph.initializer.extend(rewriter.initializers)
    drop_unread(graph)
    return result


def _is(node: onnx.NodeProto | None, *kinds: str) -> bool:
    return node is not None and node.op_type in kinds and node.domain in ("", "ai.onnx")


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """The shape of a value; None if a dimension is open."""
    tensor = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
    return tuple(dims) if tensor.HasField("shape") and all(dims) else None


@dataclass(frozen=True)
class _Grid:
    """Integers under a name, and their float32 scale and zero points."""

    name: str
    scale: np.ndarray
    zero: np.ndarray
    axis: int

    def same(self, other: _Grid) -> bool:
        return (
            self.scale.size == other.scale.size == 1
            and self.scale.item() == other.scale.item()
            and self.zero.dtype == other.zero.dtype
            and self.zero.item() == other.zero.item()
        )


class _Rewriter:
    def __init__(self, network: onnx.ModelProto) -> None:
        graph = network.graph
        self._all = list(graph.node)
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in self._all for name in node.output}
        self._readers = Counter(name for node in self._all for name in taken(node))
        self._readers.update(value.name for value in graph.output)
        self._followers = {name: node for node in self._all for name in node.input}
        typed = inferred(network).value_info
        values = (*graph.input, *typed)
        self._kinds = {value.name: value.type.tensor_type.elem_type for value in values}
        self._shapes = {value.name: _sizes(value) for value in values}
        self._ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*values, *graph.output)}
        self._version = next(int(o.version) for o in network.opset_import if o.domain in ("", "ai.onnx"))
        self.initializers: list[onnx.TensorProto] = []
        # What a node's place holds, where that is not the node; nodes that became part of another.
        self._instead: dict[str, list[onnx.NodeProto]] = {}
        self._gone: set[str] = set()

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """The nodes in order, those that can work on integers replaced."""
        for node in self._all:
            if _is(node, "QuantizeLinear"):
                self._moved(node)
        for node in self._all:
            if _is(node, "Conv", "MatMul", "Gemm") and node.output[0] not in self._gone:
                self._product(node)
            elif _is(node, *_AVERAGES) and node.output[0] not in self._gone:
                self._average(node)
        for node in self._all:
            key = node.output[0]
            if key in self._instead:
                yield from self._instead[key]
            elif key not in self._gone:
                yield node

    def _grid(self, name: str) -> _Grid | None:
        """The integers that the value ``name`` is dequantized from."""
        node = self._makers.get(name)
        if node is None or not _is(node, "DequantizeLinear"):
            return None
        return self._parameters(node, node.input[0])

    def _parameters(self, node: onnx.NodeProto, integers: str) -> _Grid | None:
        if not _is(node, "DequantizeLinear", "QuantizeLinear") or node.input[1] not in self._stored:
            return None
        attributes = attributes_of(node)
        scale = array_of(self._stored[node.input[1]])
        if scale.dtype != np.float32 or scale.ndim > 1 or attributes.get("block_size"):
            return None
        name = node.input[2] if len(node.input) > 2 else ""
        if name and name not in self._stored:
            return None
        if name:
            zero = array_of(self._stored[name])
        elif _is(node, "QuantizeLinear"):
            return None
        else:
            kind = self._stored[integers].data_type if integers in self._stored else self._kinds.get(integers)
            if not kind:
                return None
            zero = np.zeros(scale.shape, onnx.helper.tensor_dtype_to_np_dtype(kind))
        return _Grid(integers, scale, zero, int(attributes.get("axis", 1)))

    def _moved(self, last: onnx.NodeProto) -> None:
        """``Q(move(DQ(x)))`` with one grid is ``move(x)``."""
        node = self._makers.get(last.input[0])
        grid = self._parameters(last, last.output[0])
        if node is None or grid is None or self._readers[node.output[0]] != 1 or len(node.output) != 1:
            return
        joined = _is(node, "Concat")
        if not joined and not _is(node, *_MOVEMENTS):
            return
        given = [self._grid(name) for name in (node.input if joined else node.input[:1])]
        if any(g is None or not g.same(grid) for g in given):
            return
        if _is(node, "MaxPool") and (self._version < 12 or grid.zero.dtype.itemsize != 1):
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, g in enumerate(given):
            assert g is not None
            copy.input[place] = g.name
        copy.output[0] = last.output[0]
        self._instead[last.output[0]] = [copy]
        self._gone.add(node.output[0])

    def _product(self, node: onnx.NodeProto) -> None:
        data, weight = self._grid(node.input[0]), self._grid(node.input[1])
        if data is None or weight is None or data.scale.size != 1 or weight.name not in self._stored:
            return
        array = array_of(self._stored[weight.name])
        attributes = attributes_of(node)
        if data.zero.dtype.itemsize != 1 or array.dtype not in (np.uint8, np.int8):
            return
        columns = self._columns(node, array, attributes)
        if columns is None or weight.scale.size not in (1, array.shape[columns]):
            return
        if weight.scale.size > 1 and weight.axis % array.ndim != columns:
            return
        outputs = array.shape[columns]
        bias, known = self._bias(node, data, weight, array, columns)
        if not known or (bias is not None and bias.shape not in ((outputs,), (1, outputs))):
            return
        write = Writer(f"{node.output[0]}/integer", self._version)
        if _is(node, "Gemm") and attributes.get("transB", 0):
            array, columns = np.ascontiguousarray(array.T), 1
        stored = write.constant(array, "weight")
        zeros = [write.constant(z if z.size > 1 else z.reshape(()), "zero") for z in (data.zero, weight.zero)]
        # Of one rank below the result's, the columns where they are in the result.
        rank = array.ndim - 1 if _is(node, "Conv") else 1
        along = [-1] + [1] * (rank - 1)
        kind, kept = ("ConvInteger", attributes) if _is(node, "Conv") else ("MatMulInteger", {})
        total = write.op(kind, [data.name, stored, *zeros], **kept)
        if bias is not None and bias.dtype == np.int32:
            total = write.op("Add", [total, write.constant(bias.reshape(along), "bias")])
            bias = None
        factor = data.scale.reshape(-1) * weight.scale.reshape(-1)
        self._scaled(write, node, total, factor.reshape(along if factor.size > 1 else ()), bias, along)

    def _average(self, node: onnx.NodeProto) -> None:
        """A mean of integers: their exact sum, and one factor with their number in it."""
        data, shape = self._grid(node.input[0]), self._shapes.get(node.input[0])
        if data is None or data.scale.size != 1 or data.zero.dtype.itemsize != 1 or shape is None:
            return
        plan = planned(node, shape, attributes_of(node), self._constant)
        if plan is None:
            return
        write = Writer(f"{node.output[0]}/integer", self._version)
        total = plan.write(write, data.name, data.zero)
        factor = (data.scale.reshape(()) / plan.counts).astype(np.float32)
        self._scaled(write, node, total, factor, None, [])

    def _constant(self, name: str) -> np.ndarray | None:
        return array_of(self._stored[name]) if name in self._stored else None

    def _scaled(
        self,
        write: Writer,
        node: onnx.NodeProto,
        total: str,
        factor: np.ndarray,
        bias: np.ndarray | None,
        along: list[int],
    ) -> None:
        """What ``node`` gives, from its sums as integers: scaled, and quantized if that follows."""
        total = write.op("Cast", [total], to=onnx.TensorProto.FLOAT)
        chain, last = self._behind(node)
        out = self._parameters(last, "") if last is not None else None
        one = np.float32(1)
        if out is not None and last is not None:
            one = out.scale.reshape(())
            factor = factor / one
        end = node.output[0] if out is None else ""
        value = write.op("Mul", [total, write.constant(factor, "factor")], end if bias is None else "")
        if bias is not None:
            value = write.op("Add", [value, write.constant((bias / one).reshape(along), "bias")], end)
        if out is None or last is None:
            self._instead[node.output[0]] = write.nodes
        else:
            for step in chain:
                value = self._bounded(write, value, step, one)
            scale, zero = write.constant(np.float32(1), "one"), write.constant(out.zero.reshape(()), "zero")
            write.op("QuantizeLinear", [value, scale, zero], last.output[0])
            self._instead[last.output[0]] = write.nodes
            self._gone |= {node.output[0], *(step.output[0] for step in chain)}
        self.initializers += write.initializers

    def _columns(self, node: onnx.NodeProto, weight: np.ndarray, attributes: Mapping[str, Any]) -> int | None:
        """The axis of the weight that is one of the result; None for a form that stays in float."""
        if _is(node, "Conv"):
            return 0 if weight.ndim in (3, 4) else None
        if weight.ndim != 2 or self._ranks.get(node.input[0], 0) < 2:
            return None
        if _is(node, "MatMul"):
            return 1
        if attributes.get("transA", 0) or attributes.get("alpha", 1) != 1 or attributes.get("beta", 1) != 1:
            return None
        return 0 if attributes.get("transB", 0) else 1

    def _bias(
        self, node: onnx.NodeProto, data: _Grid, weight: _Grid, array: np.ndarray, columns: int
    ) -> tuple[np.ndarray | None, bool]:
        """The bias as integers at the scale of the sums, or as float32; and whether it is known at all.

        Integers that a sum of 32 bits might not hold are float32: where weights are all but zero and a bias
        is not, its scale is tiny, and the sum would wrap around from one end to the other.
        """
        name = node.input[2] if len(node.input) > 2 else ""
        if not name:
            return None, True
        if name in self._stored:
            given = array_of(self._stored[name])
            return given, given.dtype == np.float32
        grid = self._grid(name)
        if grid is None or grid.name not in self._stored:
            return None, False
        scale = data.scale.reshape(-1) * weight.scale.reshape(-1)
        stored = array_of(self._stored[grid.name])
        good = stored.dtype == np.int32 and not grid.zero.any() and np.allclose(grid.scale, scale, 1e-6, 0)
        if good and not _overflows(array, weight.zero, columns, data.zero, stored):
            return stored, True
        whole = stored.astype(np.float32) - grid.zero.astype(np.float32)
        return whole * grid.scale, True

    def _behind(self, node: onnx.NodeProto) -> tuple[list[onnx.NodeProto], onnx.NodeProto | None]:
        """The bounds behind a product and the quantize node behind them, if nobody else reads between."""
        chain: list[onnx.NodeProto] = []
        while True:
            name = (chain[-1] if chain else node).output[0]
            follower = self._followers.get(name)
            if self._readers[name] != 1 or follower is None or follower.input[0] != name:
                return [], None
            if _is(follower, "QuantizeLinear"):
                grid = self._parameters(follower, "")
                if grid is None or grid.scale.size != 1 or grid.zero.dtype.kind not in "iu":
                    return [], None
                return (chain, follower) if follower.output[0] not in self._instead else ([], None)
            bounds = all(name in self._stored for name in follower.input[1:] if name)
            if not _is(follower, "Relu") and not (_is(follower, "Clip") and bounds and self._version >= 11):
                return [], None
            chain.append(follower)

    def _bounded(self, write: Writer, value: str, step: onnx.NodeProto, one: np.ndarray) -> str:
        """Relu or Clip of values that were divided by ``one``."""
        if _is(step, "Relu"):
            return write.op("Relu", [value])
        bounds = [
            write.constant(array_of(self._stored[name]) / one, "bound") if name else ""
            for name in step.input[1:]
        ]
        return write.op("Clip", [value, *bounds])


def _overflows(
    weight: np.ndarray, weight_zero: np.ndarray, columns: int, data_zero: np.ndarray, bias: np.ndarray
) -> bool:
    """Whether a sum of any 8-bit data by ``weight``, and ``bias``, might not fit 32 bits."""
    info, zero = np.iinfo(data_zero.dtype), int(data_zero)
    rows = np.moveaxis(weight.astype(np.int64), columns, 0).reshape(weight.shape[columns], -1)
    rows = rows - weight_zero.astype(np.int64).reshape(-1, 1)
    span = max(int(info.max) - zero, zero - int(info.min))
    largest = span * np.abs(rows).sum(axis=1) + np.abs(bias.astype(np.int64).reshape(-1))
    return bool(largest.max(initial=0) > np.iinfo(np.int32).max)
