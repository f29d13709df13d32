"""How each operator of a random network is drawn: its operands, shapes and attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper
from random_values import ANY, BOOL, DOUBLE, FLOAT, HALF, INT8, INT32, INT64, NUMBERS, UINT8, Graph, Value

Draw = Callable[[Graph], Any]


def _unary(g: Graph) -> None:
    operator = g.pick(
        "Relu", "Sigmoid", "Tanh", "Exp", "Abs", "Neg", "Erf", "Softplus", "Softsign", "Elu", "LeakyRelu",
        "HardSigmoid", "HardSwish", "Floor", "Ceil", "Sign", "Sin", "Cos", "Selu", "Reciprocal", "Round",
        "Atan", "ThresholdedRelu", "Celu", "Mish", "Identity",
    )  # fmt: skip
    x = g.value((FLOAT,))
    if operator == "Reciprocal":
        (name,) = g.emit("Abs", [x.name])
        (name,) = g.emit("Add", [name, g.constant(0.5, "float32")])
        g.emit("Reciprocal", [name])
    elif operator == "Exp":
        (name,) = g.emit("Clip", [x.name, g.constant(-9, "float32"), g.constant(9, "float32")])
        g.emit("Exp", [name])
    elif not g.knows(operator):
        return
    elif operator in ("Floor", "Ceil", "Round", "Sign"):
        # A step: what is off by a rounding before it would be off by one after it.
        if any(x.name == v.name for v in g.inputs):
            g.emit(operator, [x.name])
    else:
        g.emit(operator, [x.name])


def _binary(g: Graph) -> None:
    operator = g.pick("Add", "Sub", "Mul", "Add", "Mul", "Max", "Min", "Div")
    # The largest of integers is not in opset 11.
    x = g.value((FLOAT, DOUBLE) if operator in ("Max", "Min") and g.opset < 12 else NUMBERS)
    other = g.partner(x)
    if operator == "Div":
        kind = helper.tensor_dtype_to_np_dtype(x.kind)
        other = g.constant((np.abs(g.array((), x.kind)) + 1).astype(kind))
    operands = [x.name, other] if g.rng.random() < 0.7 or operator == "Div" else [other, x.name]
    g.emit(operator, operands)


def _compare(g: Graph) -> None:
    x = g.value((INT64, INT32))
    (name,) = g.emit(g.pick("Equal", "Less", "Greater", "LessOrEqual"), [x.name, g.partner(x)])
    if g.rng.random() < 0.5:
        (name,) = g.emit("Not", [name])
    y = g.value((FLOAT,))
    g.emit("Where", [g.constant(g.array(y.shape[-1:], BOOL)), y.name, g.partner(y)])


def _reduce(g: Graph) -> None:
    x = g.value((FLOAT,), least=1)
    rank = len(x.shape)
    count = int(g.rng.integers(1, rank + 1))
    axes = [int(a) - (rank if g.rng.random() < 0.3 else 0) for a in g.rng.permutation(rank)[:count]]
    operator = g.pick(
        "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceSumSquare"
    )
    # The largest and the mean of nothing are not defined.
    if operator in ("ReduceMax", "ReduceMin", "ReduceMean") and 0 in x.shape:
        return
    since = 13 if operator == "ReduceSum" else 18
    g.emit(operator, [x.name], axes=(since, axes), keepdims=int(g.rng.integers(2)))


def _arg(g: Graph) -> None:
    x = g.value((INT64, INT32), least=1)
    axis = int(g.rng.integers(-len(x.shape), len(x.shape)))
    if 0 in x.shape:
        return
    g.emit(g.pick("ArgMax", "ArgMin"), [x.name], axis=axis, keepdims=int(g.rng.integers(2)))


def _softmax(g: Graph) -> None:
    x = g.value((FLOAT,), least=1)
    axis = int(g.rng.integers(-len(x.shape), len(x.shape)))
    g.emit(g.pick("Softmax", "LogSoftmax"), [x.name], axis=axis)


def _transpose(g: Graph) -> None:
    x = g.value(ANY, least=1)
    g.emit("Transpose", [x.name], perm=[int(a) for a in g.rng.permutation(len(x.shape))])


def _reshape(g: Graph) -> None:
    x = g.value(ANY)
    kind = g.pick("Reshape", "Flatten", "Unsqueeze", "Squeeze")
    size = int(np.prod(x.shape, dtype=int))
    if kind == "Reshape" and size:
        parts = [d for d in range(1, 10) if size % d == 0]
        first = int(g.pick(*parts))
        g.emit("Reshape", [x.name, g.constant(g.pick([first, -1], [-1], [1, first, -1]), "int64")])
    elif kind == "Flatten" and x.shape:
        g.emit("Flatten", [x.name], axis=int(g.rng.integers(0, len(x.shape) + 1)))
    elif kind == "Unsqueeze" and len(x.shape) < 5:
        g.emit("Unsqueeze", [x.name], axes=(13, [int(g.rng.integers(0, len(x.shape) + 1))]))
    elif kind == "Squeeze" and 1 in x.shape:
        g.emit("Squeeze", [x.name], axes=(13, [x.shape.index(1)]))


def _slice(g: Graph) -> None:
    x = g.value(ANY, least=1)
    axis = int(g.rng.integers(len(x.shape)))
    start, end = (int(g.rng.integers(-10, 11)) for _ in range(2))
    step = int(g.pick(1, 1, 2, 3, -1, -2))
    size = len(range(x.shape[axis])[start:end:step])
    if size == 0 and not g.empty:
        start, end, step = 0, 2**40, 1
    bounds = [g.constant([v], "int64") for v in (start, end, axis, step)]
    g.emit("Slice", [x.name, *bounds])


def _concat(g: Graph) -> None:
    x = g.value(ANY, least=1)
    axis = int(g.rng.integers(len(x.shape)))
    shape = list(x.shape)
    shape[axis] = int(g.rng.integers(1, 4))
    parts = [x.name, g.constant(g.array(tuple(shape), x.kind)), x.name][: int(g.rng.integers(2, 4))]
    g.emit("Concat", parts, axis=axis - (len(x.shape) if g.rng.random() < 0.3 else 0))


def _split(g: Graph) -> None:
    x = g.value(ANY, least=1)
    axis = int(np.argmax(x.shape))
    if x.shape[axis] > 1:
        first = int(g.rng.integers(1, x.shape[axis]))
        g.emit("Split", [x.name], 2, axes=(13, [first, x.shape[axis] - first]), axis=axis)


def _gather(g: Graph) -> None:
    x = g.value(ANY, least=1)
    axis = int(g.rng.integers(len(x.shape)))
    size = x.shape[axis]
    if size == 0:
        return
    indices = g.rng.integers(-size, size, g.shape(int(g.rng.integers(0, 3))))
    kind = g.pick("Gather", "GatherElements")
    if kind == "Gather":
        g.emit("Gather", [x.name, g.constant(indices, "int64")], axis=axis)
    else:
        g.emit("GatherElements", [x.name, g.constant(g.rng.integers(-size, size, x.shape))], axis=axis)


def _scatter(g: Graph) -> None:
    """Writes to places that all differ: ONNX leaves the order open."""
    x = g.value((FLOAT, INT64, INT32), least=1)
    axis = int(g.rng.integers(len(x.shape)))
    size = x.shape[axis]
    if 0 in x.shape:
        return
    count = int(g.rng.integers(1, size + 1))
    reduction = {"reduction": g.pick("none", "add")} if g.opset >= 18 else {}
    if g.rng.random() < 0.5:
        shape = [*x.shape]
        shape[axis] = count
        order = np.argsort(g.rng.random(x.shape), axis=axis).take(range(count), axis=axis)
        places = order - size * (g.rng.random(order.shape) < 0.3)
        updates = g.constant(g.array(tuple(shape), x.kind))
        g.emit("ScatterElements", [x.name, g.constant(places, "int64"), updates], axis=axis, **reduction)
        return
    depth = int(g.rng.integers(1, len(x.shape) + 1))
    every = np.stack(np.unravel_index(g.rng.permutation(int(np.prod(x.shape[:depth]))), x.shape[:depth]), -1)
    count = int(g.rng.integers(1, len(every) + 1))
    updates = g.constant(g.array((count, *x.shape[depth:]), x.kind))
    g.emit("ScatterND", [x.name, g.constant(every[:count], "int64"), updates], **reduction)


def _triangle(g: Graph) -> None:
    x = g.value((FLOAT, INT64), least=2)
    if g.knows("Trilu"):
        g.emit(
            "Trilu", [x.name, g.constant(int(g.rng.integers(-3, 4)), "int64")], upper=int(g.rng.integers(2))
        )


def _one_hot(g: Graph) -> None:
    depth = int(g.rng.integers(2, 6))
    places = g.constant(g.rng.integers(-depth, depth, g.shape(int(g.rng.integers(1, 3)))), "int64")
    (name,) = g.emit("Add", [places, g.constant(0, "int64")])
    values = g.constant(g.array((2,), FLOAT))
    g.emit("OneHot", [name, g.constant(depth, "int64"), values], axis=int(g.pick(-1, 0, 1)))


def _quantize(g: Graph) -> None:
    """To integers of 8 bits and back: of inputs alone, as what is off by a rounding may be a step off."""
    x = g.input(g.shape(), FLOAT)
    kind = g.pick("int8", "uint8")
    scale, zero = g.constant(0.05, "float32"), g.constant(g.pick(0, 3), kind)
    (name,) = g.emit("QuantizeLinear", [x.name, scale, zero])
    if g.rng.random() < 0.7:
        g.emit("DequantizeLinear", [name, scale, zero])


def _pad(g: Graph) -> None:
    x = g.value((FLOAT, INT64), least=1)
    widths = g.rng.integers(0, 3, 2 * len(x.shape))
    mode = g.pick("constant", "edge", "reflect")
    if mode == "reflect" and min(x.shape) < 3:
        mode = "edge"
    if 0 in x.shape:
        mode = "constant"
    operands = [x.name, g.constant(widths, "int64")]
    if mode == "constant" and g.rng.random() < 0.5:
        operands.append(g.constant(g.array((), x.kind)))
    g.emit("Pad", operands, mode=mode)


def _expand(g: Graph) -> None:
    x = g.value(ANY)
    if g.rng.random() < 0.5 or not x.shape:
        wide = tuple(d if d != 1 else int(g.pick(1, 2, 3)) for d in x.shape)
        g.emit("Expand", [x.name, g.constant([int(g.pick(1, 2)), *wide], "int64")])
    else:
        g.emit("Tile", [x.name, g.constant([int(g.pick(1, 1, 2)) for _ in x.shape], "int64")])


def _matmul(g: Graph) -> None:
    x = g.value((FLOAT,), least=2)
    depth, columns = x.shape[-1], int(g.pick(1, 3, 8, 17))
    batch = x.shape[:-2] if g.rng.random() < 0.3 else ()
    g.emit("MatMul", [x.name, g.constant(g.array((*batch, depth, columns), FLOAT))])


def _gemm(g: Graph) -> None:
    x = g.value((FLOAT,), rank=2)
    turned, columns = int(g.rng.integers(2)), int(g.pick(1, 5, 16))
    shape = (columns, x.shape[1]) if turned else (x.shape[1], columns)
    operands = [x.name, g.constant(g.array(shape, FLOAT))]
    if g.rng.random() < 0.6:
        operands.append(g.constant(g.array(g.pick((columns,), (1,), (x.shape[0], 1)), FLOAT)))
    g.emit("Gemm", operands, transB=turned, alpha=float(g.pick(1.0, 0.5)), beta=float(g.pick(1.0, 2.0)))


def _image(g: Graph) -> Value:
    images = [v for v in g.values if v.kind == FLOAT and len(v.shape) == 4 and min(v.shape[2:]) > 1]
    if images and g.rng.random() < 0.8:
        found: Value = g.pick(*images)
        return found
    channels = int(g.pick(1, 2, 3, 4, 8, 16, 18))
    return g.input((int(g.pick(1, 2)), channels, int(g.pick(5, 7, 9, 12)), int(g.pick(5, 8, 11))), FLOAT)


def _conv(g: Graph) -> None:
    x = _image(g)
    channels = x.shape[1]
    group = int(g.pick(1, 1, *(d for d in (2, 3, channels) if d and channels % d == 0)))
    out = group * int(g.pick(1, 2, 5))
    kernel = [int(g.pick(1, 2, 3, 5)) for _ in range(2)]
    dilations = [int(g.pick(1, 1, 2)) for _ in range(2)]
    weight = g.constant(g.array((out, channels // group, *kernel), FLOAT))
    operands = [x.name, weight]
    if g.rng.random() < 0.5:
        operands.append(g.constant(g.array((out,), FLOAT)))
    attributes: dict[str, Any] = {"group": group, "strides": [int(g.pick(1, 2, 3)), int(g.pick(1, 2))]}
    if g.rng.random() < 0.25:
        attributes["auto_pad"] = g.pick("SAME_UPPER", "SAME_LOWER")
    else:
        attributes |= {"dilations": dilations, "pads": [int(p) for p in g.rng.integers(0, 3, 4)]}
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = attributes["pads"]
        if any(x.shape[2 + i] + pads[i] + pads[2 + i] < reach[i] for i in range(2)):
            attributes["pads"] = [4, 4, 4, 4]
    g.emit("Conv", operands, **attributes)


def _conv_transpose(g: Graph) -> None:
    x = _image(g)
    kernel, out = [int(g.pick(1, 2, 3)) for _ in range(2)], int(g.pick(1, 3, 4))
    weight = g.constant(g.array((x.shape[1], out, *kernel), FLOAT))
    strides = [int(g.pick(1, 2)) for _ in range(2)]
    g.emit("ConvTranspose", [x.name, weight], strides=strides)


def _pool(g: Graph) -> None:
    x = _image(g)
    kernel = [int(g.rng.integers(1, min(4, d) + 1)) for d in x.shape[2:]]
    pads = [int(g.rng.integers(0, (k + 1) // 2)) for k in kernel] * 2
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": [int(g.pick(1, 2, 3)) for _ in "hw"]}
    attributes |= {"pads": pads, "ceil_mode": int(g.pick(0, 0, 1))}
    operator = g.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
    if operator == "AveragePool":
        attributes["count_include_pad"] = int(g.rng.integers(2))
        # With both, releases of onnxruntime differ about the windows that reach over the end.
        if attributes["ceil_mode"]:
            attributes["count_include_pad"] = 0
    g.emit(operator, [x.name], **(attributes if "Global" not in operator else {}))


def _normalise(g: Graph) -> None:
    kind = g.pick("LayerNormalization", "InstanceNormalization", "BatchNormalization", "GroupNormalization")
    if kind == "LayerNormalization":
        # Of inputs alone: rows that are all but constant are divided by next to nothing.
        x = g.input(g.shape(int(g.rng.integers(2, 5))), FLOAT)
        if x.shape[-1] < 2 or not g.knows(kind):
            return
        scale, bias = (g.constant(g.array(x.shape[-1:], FLOAT)) for _ in range(2))
        g.emit(kind, [x.name, scale, bias], axis=-1)
        return
    if kind == "InstanceNormalization":
        x = g.input(g.shape(4), FLOAT)
    else:
        x = _image(g)
    size = (x.shape[1],)
    scale, bias, mean = (g.constant(g.array(size, FLOAT)) for _ in range(3))
    if kind == "BatchNormalization":
        variance = g.constant(np.abs(g.array(size, FLOAT)) + np.float32(0.5))
        g.emit(kind, [x.name, scale, bias, mean, variance])
    elif kind == "InstanceNormalization":
        g.emit(kind, [x.name, scale, bias])


def _resize(g: Graph) -> None:
    x = _image(g)
    mode = g.pick("nearest", "linear")
    scales = [1, 1, int(g.pick(1, 2, 3)), int(g.pick(1, 2))]
    coordinates = g.pick("half_pixel", "asymmetric", "align_corners")
    if mode == "nearest":
        coordinates = "asymmetric"
    extra = {"nearest_mode": "floor"} if mode == "nearest" else {}
    # A region is only optional from opset 13 on.
    region = "" if g.opset >= 13 else g.constant([], "float32")
    extra["mode"], extra["coordinate_transformation_mode"] = mode, coordinates
    g.emit("Resize", [x.name, region, g.constant(scales, "float32")], **extra)


def _shuffle(g: Graph) -> None:
    x = _image(g)
    if x.shape[1] % 4 == 0:
        g.emit("DepthToSpace", [x.name], blocksize=2, mode=g.pick("DCR", "CRD"))


def _cast(g: Graph) -> None:
    x = g.value((INT64, INT32, BOOL, INT8, UINT8))
    # Of what the types of 8 bits hold: sums of the wide ones may not fit them.
    narrow = (INT8, UINT8) if x.kind == BOOL else ()
    g.emit("Cast", [x.name], to=int(g.pick(FLOAT, INT64, INT32, DOUBLE, *narrow)))


def _half(g: Graph) -> None:
    """An input in float16, to float32."""
    x = g.input(g.shape(), HALF)
    g.emit("Cast", [x.name], to=int(FLOAT))


def _topk(g: Graph) -> None:
    # Of inputs alone: they have no ties.
    x = g.input(g.shape(int(g.rng.integers(1, 4))), FLOAT)
    axis = int(g.rng.integers(len(x.shape)))
    if x.shape[axis] == 0:
        return
    k = int(g.rng.integers(1, x.shape[axis] + 1))
    g.emit("TopK", [x.name, g.constant([k], "int64")], 2, axis=axis, largest=int(g.rng.integers(2)))


def _cumsum(g: Graph) -> None:
    x = g.value((FLOAT, INT64), least=1)
    axis = g.constant(int(g.rng.integers(len(x.shape))), "int64")
    g.emit("CumSum", [x.name, axis], exclusive=int(g.rng.integers(2)), reverse=int(g.rng.integers(2)))


def _einsum(g: Graph) -> None:
    x = g.value((FLOAT,), rank=3)
    if not g.knows("Einsum"):
        return
    g.emit("Einsum", [x.name, g.constant(g.array((x.shape[2], 4), FLOAT))], equation="bij,jk->bki")


def _shape(g: Graph) -> None:
    x = g.value(ANY)
    (name,) = g.emit("Shape", [x.name])
    if len(x.shape) > 1 and 0 not in x.shape:
        g.emit("Reshape", [x.name, name])


DRAWS: tuple[Draw, ...] = (
    _unary, _unary, _binary, _binary, _binary, _compare, _reduce, _reduce, _arg, _softmax, _transpose,
    _transpose, _reshape, _reshape, _slice, _slice, _concat, _split, _gather, _pad, _expand, _matmul, _matmul,
    _gemm, _conv, _conv, _conv, _conv_transpose, _pool, _pool, _normalise, _resize, _shuffle, _cast, _topk,
    _cumsum, _einsum, _shape, _scatter, _scatter, _triangle, _one_hot, _quantize, _half,
)  # fmt: skip
