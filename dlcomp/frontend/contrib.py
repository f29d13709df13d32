"""Operators of onnxruntime's own domain, written as standard ones before anything else sees them.

They are what its quantizer and its graph optimizer emit. Quantized operators become what they mean: their
operands dequantized, the operator in float32, the result quantized; products of integers stay products of
integers. onnxruntime's kernels scale before they add, so that a result that lies half way between two steps
may be one step away from its.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from dlcomp.errors import ModelError
from dlcomp.frontend.contrib_weights import MatrixOfBits, rows_of_bits
from dlcomp.frontend.stored import array_of
from dlcomp.frontend.writer import Writer, attributes_of

DOMAIN = "com.microsoft"


def standardise(network: onnx.ModelProto) -> onnx.ModelProto:
    """``network`` with the operators of the domain that are known here replaced; others stay as they are."""
    if not any(_rule(node) for node in network.graph.node):
        return network
    version = next((o.version for o in network.opset_import if o.domain in ("", "ai.onnx")), 13)
    stored = {tensor.name: tensor for tensor in network.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    for node in network.graph.node:
        rule = _rule(node)
        if rule is None:
            nodes.append(node)
            continue
        rewrite = Rewrite(node, version, stored)
        try:
            rule(rewrite)
        except (KeyError, ValueError) as err:
            what = f"it has no {err}" if isinstance(err, KeyError) else str(err)
            raise ModelError(f"{DOMAIN}::{node.op_type} node {node.name!r}: {what}") from err
        nodes.extend(rewrite.writer.nodes)
        added.extend(rewrite.writer.initializers)
    result = onnx.ModelProto()
    result.CopyFrom(network)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(copies)
    result.graph.initializer.extend(added)
    if not any(o.domain in ("", "ai.onnx") for o in result.opset_import):
        result.opset_import.append(onnx.helper.make_opsetid("", version))
    return result


def rewrites(node: onnx.NodeProto) -> bool:
    """Whether ``node`` is one that :func:`standardise` replaces."""
    return _rule(node) is not None


def _rule(node: onnx.NodeProto) -> Callable[[Rewrite], None] | None:
    return _RULES.get(node.op_type) if node.domain == DOMAIN else None


class Rewrite:
    """One node, and what is written in its place."""

    def __init__(self, node: onnx.NodeProto, version: int, stored: Mapping[str, onnx.TensorProto]) -> None:
        self.node, self.attributes = node, attributes_of(node)
        self.writer = Writer(node.name or node.output[0], version)
        self.stored = stored
        self.out = node.output[0]

    def operand(self, place: int) -> str:
        """The name of an operand; empty if it is absent."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def op(self, kind: str, *operands: str, output: str = "", **attributes: Any) -> str:
        return self.writer.op(kind, [*operands], output, **attributes)

    def constant(self, value: Any, dtype: str = "float32") -> str:
        return self.writer.constant(np.array(value, dtype), "constant")

    def array(self, place: int) -> np.ndarray:
        """The value of an operand that must be stored."""
        name = self.operand(place)
        if name not in self.stored:
            raise ValueError(f"operand {place} of {self.node.op_type} {self.node.name!r} must be a constant")
        return np.asarray(array_of(self.stored[name]))

    def copied(self, *names: str) -> dict[str, Any]:
        """Some of the node's attributes, as they are."""
        return {name: self.attributes[name] for name in names if name in self.attributes}

    # -- quantization ----------------------------------------------------------------------------------------

    def reals(self, place: int) -> str:
        """The operand at ``place``, whose scale and zero follow it, in float32."""
        return self.real(self.operand(place), self.operand(place + 1), self.operand(place + 2))

    def real(self, x: str, scale: str, zero: str, axis: int | None = None) -> str:
        """(x - zero) * scale in float32; scale and zero are numbers, or rows along ``axis``."""
        whole = self.op("Cast", x, to=TensorProto.FLOAT)
        if zero:
            whole = self.op("Sub", whole, self._along(self.op("Cast", zero, to=TensorProto.FLOAT), axis))
        return self.op("Mul", whole, self._along(scale, axis))

    def quantized(self, x: str, scale: str, zero: str, output: str = "") -> str:
        """round(x / scale) + zero, saturated, in the type of ``zero`` (uint8 without one)."""
        kind = TensorProto.UINT8
        if zero in self.stored:
            kind = self.stored[zero].data_type
        if not zero or kind in (TensorProto.UINT8, TensorProto.INT8):
            return self.op("QuantizeLinear", x, scale, *([zero] if zero else []), output=output)
        info = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(kind))
        steps = self.op("Round", self.op("Div", x, scale))
        steps = self.op("Add", steps, self.op("Cast", zero, to=TensorProto.FLOAT))
        held = self.op("Clip", steps, self.constant(float(info.min)), self.constant(float(info.max)))
        return self.op("Cast", held, output=output, to=kind)

    def _along(self, value: str, axis: int | None) -> str:
        """A row lies along the last dimension by itself; ``axis`` counts from the end, as -1."""
        if axis is None or axis == -1:
            return value
        return self.op("Reshape", value, self.constant([-1] + [1] * (-axis - 1), "int64"))


def _binary(kind: str) -> Callable[[Rewrite], None]:
    """A, its scale and zero, B, its scale and zero, the result's scale and zero."""

    def rule(r: Rewrite) -> None:
        a, b = r.reals(0), r.reals(3)
        r.quantized(r.op(kind, a, b), r.operand(6), r.operand(7), r.out)

    return rule


def _qlinear_add(r: Rewrite) -> None:
    """In onnxruntime's order: each operand by the quotient of the scales, what is constant added first.

    A sum halfway between two integers, as those of values with equal scales often are, is rounded by the last
    digit, so the order decides.
    """
    places = (1, 2, 4, 5, 6, 7)
    if any(r.operand(place) not in r.stored for place in places):
        _binary("Add")(r)
        return
    a_scale, a_zero, b_scale, b_zero, scale, zero = (r.array(place).reshape(()) for place in places)
    by_a, by_b = np.float32(a_scale / scale), np.float32(b_scale / scale)
    fixed = np.float32(zero) - (by_a * np.float32(a_zero) + by_b * np.float32(b_zero))
    parts = []
    for place, factor in ((0, by_a), (3, by_b)):
        if r.operand(place) in r.stored and r.array(place).ndim == 0:
            # A multiply-add: rounded once.
            number = np.float64(r.array(place)) * np.float64(factor)
            fixed = np.float32(number + np.float64(fixed))
        else:
            whole = r.op("Cast", r.operand(place), to=TensorProto.FLOAT)
            parts.append(r.op("Mul", whole, r.constant(factor)))
    total = r.constant(fixed)
    for part in parts:
        total = r.op("Add", part, total)
    # The zero is in the sum already.
    r.op("QuantizeLinear", total, r.constant(1), r.constant(0, str(zero.dtype)), output=r.out)


def _unary(write: Callable[[Rewrite, str], str]) -> Callable[[Rewrite], None]:
    """X, its scale and zero, the result's scale and zero."""

    def rule(r: Rewrite) -> None:
        x = r.reals(0)
        r.quantized(write(r, x), r.operand(3), r.operand(4), r.out)

    return rule


def _channels_first(r: Rewrite, x: str, write: Callable[[str], str]) -> str:
    """``write`` on images of channels first, which may come with channels last."""
    if not r.attributes.get("channels_last", 0):
        return write(x)
    turned = write(r.op("Transpose", x, perm=[0, 3, 1, 2]))
    return r.op("Transpose", turned, perm=[0, 2, 3, 1])


def _average_pool(r: Rewrite, x: str) -> str:
    kept = r.copied("kernel_shape", "strides", "pads", "auto_pad", "ceil_mode", "count_include_pad")
    return _channels_first(r, x, lambda image: r.op("AveragePool", image, **kept))


def _reduce_mean(r: Rewrite, x: str) -> str:
    kept = r.copied("keepdims")
    axes = r.attributes.get("axes")
    if r.writer.version < 18:
        return r.op("ReduceMean", x, **kept, **r.copied("axes"))
    return r.op("ReduceMean", x, *([r.constant(list(axes), "int64")] if axes else []), **kept)


def _concat(r: Rewrite) -> None:
    """The result's scale and zero, then every part with its own."""
    parts = [r.reals(place) for place in range(2, len(r.node.input), 3)]
    joined = r.op("Concat", *parts, axis=int(r.attributes["axis"]))
    r.quantized(joined, r.operand(0), r.operand(1), r.out)


def _where(r: Rewrite) -> None:
    x, y = r.reals(1), r.reals(4)
    r.quantized(r.op("Where", r.operand(0), x, y), r.operand(7), r.operand(8), r.out)


def _gemm(r: Rewrite) -> None:
    """A, scale, zero, B, scale, zero, C (int32), the result's scale and zero; without those it is real."""
    a, b = r.operand(0), r.operand(3)
    if r.attributes.get("transA", 0):
        a = r.op("Transpose", a, perm=[1, 0])
    if r.attributes.get("transB", 0):
        b = r.op("Transpose", b, perm=[1, 0])
    total = r.op("MatMulInteger", a, b, r.operand(2), r.operand(5))
    if r.operand(6):
        total = r.op("Add", total, r.operand(6))
    scale = r.op("Mul", r.operand(1), r.operand(4))
    alpha = float(r.attributes.get("alpha", 1.0))
    if alpha != 1.0:
        scale = r.op("Mul", scale, r.constant(alpha))
    whole = r.op("Cast", total, to=TensorProto.FLOAT)
    if not r.operand(7):
        r.op("Mul", whole, scale, output=r.out)
        return
    r.quantized(r.op("Mul", whole, scale), r.operand(7), r.operand(8), r.out)


def _integer_product(r: Rewrite, a: str, b: str, zeros: tuple[str, str], scale: str, bias: str) -> None:
    total = r.op("MatMulInteger", a, b, *zeros)
    value = r.op("Cast", total, to=TensorProto.FLOAT)
    if bias:
        r.op("Add", r.op("Mul", value, scale), bias, output=r.out)
    else:
        r.op("Mul", value, scale, output=r.out)


def _dynamic_product(r: Rewrite) -> None:
    """A (float32, quantized when it runs), B, its scale and zero, a bias."""
    names = [r.writer.name(hint) for hint in ("whole", "scale", "zero")]
    r.writer.nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [r.operand(0)], names))
    scale = r.op("Mul", names[1], r.operand(2))
    _integer_product(r, names[0], r.operand(1), (names[2], r.operand(3)), scale, r.operand(4))


def _product_to_float(r: Rewrite) -> None:
    """A, B, their scales, their zeros, a bias."""
    scale = r.op("Mul", r.operand(2), r.operand(3))
    _integer_product(r, r.operand(0), r.operand(1), (r.operand(4), r.operand(5)), scale, r.operand(6))


def _lstm(r: Rewrite) -> None:
    """Weights are dequantized; states and inputs stay float32, where onnxruntime rounds them to 8 bits."""
    names = list(r.node.input) + [""] * 12
    weights = []
    for place, scale, zero in ((1, 8, 9), (2, 10, 11)):
        # (directions, inputs, 4 * hidden), a scale for all or for each column.
        columns = r.array(scale).ndim > 1
        value = r.op("Cast", names[place], to=TensorProto.FLOAT)
        lifted = [r.op("Cast", names[zero], to=TensorProto.FLOAT) if names[zero] else "", names[scale]]
        shape = r.constant([0, 1, -1] if columns else [-1, 1, 1], "int64")
        lifted = [r.op("Reshape", name, shape) if name else "" for name in lifted]
        if lifted[0]:
            value = r.op("Sub", value, lifted[0])
        weights.append(r.op("Transpose", r.op("Mul", value, lifted[1]), perm=[0, 2, 1]))
    operands = [names[0], *weights, *names[3:8]]
    while operands and not operands[-1]:
        operands.pop()
    kept = {name: value for name, value in r.attributes.items()}
    r.writer.nodes.append(
        onnx.helper.make_node("LSTM", operands, list(r.node.output), name=r.writer.name("LSTM"), **kept)
    )


def _quantize(r: Rewrite) -> None:
    r.quantized(r.operand(0), r.operand(1), r.operand(2), r.out)


def _dequantize(r: Rewrite) -> None:
    scale = r.stored.get(r.operand(1))
    axis = None
    if scale is not None and scale.dims and int(np.prod(scale.dims)) > 1:
        rank = len(r.stored[r.operand(0)].dims) if r.operand(0) in r.stored else 0
        place = int(r.attributes.get("axis", 1))
        axis = place if place < 0 else place - rank
        if axis >= 0:
            raise ValueError(f"{r.node.name!r}: an axis of a value that is computed must be negative")
    r.op("Identity", r.real(r.operand(0), r.operand(1), r.operand(2), axis), output=r.out)


def _product_of_bits(r: Rewrite) -> None:
    """A by a matrix of a few bits an element, which is unpacked here."""
    matrix = MatrixOfBits(
        r.array(1),
        r.array(2),
        r.array(3) if r.operand(3) else None,
        *(int(r.attributes[name]) for name in ("K", "N", "bits", "block_size")),
    )
    if r.operand(4):
        raise ValueError(f"{r.node.name!r}: MatMulNBits with g_idx is not supported")
    weight = r.writer.constant(matrix.values().T.copy(), "weight")
    if r.operand(5):
        r.op("Add", r.op("MatMul", r.operand(0), weight), r.operand(5), output=r.out)
    else:
        r.op("MatMul", r.operand(0), weight, output=r.out)


def _gather_of_bits(r: Rewrite) -> None:
    table = rows_of_bits(
        r.array(0), r.array(2), r.array(3) if r.operand(3) else None,
        int(r.attributes.get("bits", 4)), int(r.attributes.get("block_size", 128)),
    )  # fmt: skip
    r.op("Gather", r.writer.constant(table, "table"), r.operand(1), output=r.out, axis=0)


# -- float operators of the optimizer ------------------------------------------------------------------------


def _activated(r: Rewrite, x: str, output: str = "") -> str:
    """The activation that a fused operator ends with."""
    kind = r.attributes.get("activation", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    values = [float(v) for v in r.attributes.get("activation_params", [])]
    if not kind:
        return r.op("Identity", x, output=output)
    if kind == "Clip":
        return r.op("Clip", x, *(r.constant(v) for v in values), output=output)
    names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(kind, ())
    return r.op(kind, x, output=output, **dict(zip(names, values, strict=False)))


def _fused_conv(r: Rewrite) -> None:
    kept = r.copied("kernel_shape", "strides", "pads", "dilations", "group", "auto_pad")
    operands = [name for name in r.node.input[:3] if name]
    value = r.op("Conv", *operands, **kept)
    if r.operand(3):
        value = r.op("Add", value, r.operand(3))
    _activated(r, value, r.out)


def _fused_gemm(r: Rewrite) -> None:
    operands = [name for name in r.node.input[:3] if name]
    _activated(r, r.op("Gemm", *operands, **r.copied("alpha", "beta", "transA", "transB")), r.out)


def _fused_product(r: Rewrite) -> None:
    if r.attributes.get("transBatchA", 0) or r.attributes.get("transBatchB", 0):
        raise ValueError(f"{r.node.name!r}: FusedMatMul of transposed batches is not supported")
    operands = [r.operand(0), r.operand(1)]
    for place, name in enumerate(("transA", "transB")):
        if r.attributes.get(name, 0):
            operands[place] = _last_two(r, operands[place])
    alpha = float(r.attributes.get("alpha", 1.0))
    product = r.op("MatMul", *operands, output=r.out if alpha == 1.0 else "")
    if alpha != 1.0:
        r.op("Mul", product, r.constant(alpha), output=r.out)


def _last_two(r: Rewrite, x: str) -> str:
    """The last two dimensions exchanged, whatever the rank: by a product with the axes of an Einsum."""
    return r.op("Einsum", x, equation="...ij->...ji")


def _quick_gelu(r: Rewrite) -> None:
    x = r.operand(0)
    scaled = r.op("Mul", x, r.constant(float(r.attributes.get("alpha", 1.702))))
    r.op("Mul", x, r.op("Sigmoid", scaled), output=r.out)


_RULES: Mapping[str, Callable[[Rewrite], None]] = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLSTM": _lstm,
    "DynamicQuantizeMatMul": _dynamic_product,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_product,
    "GatherBlockQuantized": _gather_of_bits,
    "MatMulIntegerToFloat": _product_to_float,
    "MatMulNBits": _product_of_bits,
    "QGemm": _gemm,
    "QLinearAdd": _qlinear_add,
    "QLinearAveragePool": _unary(_average_pool),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _unary(
        lambda r, x: _channels_first(r, x, lambda image: r.op("GlobalAveragePool", image))
    ),
    "QLinearLeakyRelu": _unary(lambda r, x: r.op("LeakyRelu", x, **r.copied("alpha"))),
    "QLinearMul": _binary("Mul"),
    "QLinearReduceMean": _unary(_reduce_mean),
    "QLinearSigmoid": _unary(lambda r, x: r.op("Sigmoid", x)),
    "QLinearSoftmax": _unary(lambda r, x: r.op("Softmax", x, axis=int(r.attributes.get("axis", -1)))),
    "QLinearWhere": _where,
    "QuantizeLinear": _quantize,
    "QuickGelu": _quick_gelu,
}
