"""Relay's normalisations and softmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcomp.frontend.builder import Builder, Tensor, axis_of
from dlcomp.frontend.relay.attributes import Attributes


def _gamma_beta(b: Builder, gamma: Tensor, beta: Tensor, attrs: Attributes) -> tuple[Tensor, Tensor]:
    """Without ``scale`` gamma is not used, without ``center`` beta is not."""
    if not attrs.flag("scale", True):
        gamma = b.constant(np.ones(gamma.shape, gamma.dtype))
    if not attrs.flag("center", True):
        beta = b.constant(np.zeros(beta.shape, beta.dtype))
    return gamma, beta


def _last(rank: int, axis: int) -> list[int]:
    """An order of axes with ``axis`` at the end."""
    return [*(d for d in range(rank) if d != axis), axis]


def _back(b: Builder, y: Tensor, order: list[int]) -> Tensor:
    return b.transpose(y, [order.index(d) for d in range(len(order))])


def _batch_norm(b: Builder, args: list[Any], attrs: Attributes) -> Any:
    """(result, mean, variance): in inference the statistics pass through."""
    x, gamma, beta, mean, variance = args
    axis = axis_of(attrs.whole("axis", 1), x.rank)
    gamma, beta = _gamma_beta(b, gamma, beta, attrs)
    order = [d for d in range(x.rank) if d != axis]
    order.insert(1, axis)
    epsilon = attrs.real("epsilon", 1e-5)
    y = b.op("BatchNormalization", [b.transpose(x, order), gamma, beta, mean, variance], epsilon=epsilon)
    return _back(b, y, order), mean, variance


def _layer_norm(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, gamma, beta = args
    gamma, beta = _gamma_beta(b, gamma, beta, attrs)
    order = _last(x.rank, axis_of(attrs.whole("axis", -1), x.rank))
    epsilon = attrs.real("epsilon", 1e-5)
    y = b.op("LayerNormalization", [b.transpose(x, order), gamma, beta], axis=-1, epsilon=epsilon)
    return _back(b, y, order)


def _instance_norm(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, gamma, beta = args
    gamma, beta = _gamma_beta(b, gamma, beta, attrs)
    axis = axis_of(attrs.whole("axis", 1), x.rank)
    order = [d for d in range(x.rank) if d != axis]
    order.insert(1, axis)
    operands = [b.transpose(x, order), gamma, beta]
    y = b.op("InstanceNormalization", operands, epsilon=attrs.real("epsilon", 1e-5))
    return _back(b, y, order)


def _group_norm(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x, gamma, beta = args
    gamma, beta = _gamma_beta(b, gamma, beta, attrs)
    groups, epsilon = attrs.whole("num_groups"), attrs.real("epsilon", 1e-5)
    if axis_of(attrs.whole("axis", 1), x.rank) != 1 or groups < 1 or x.shape[1] % groups:
        raise ValueError("only along axis 1, in groups of equal size")
    rows = b.reshape(x, [x.shape[0], groups, -1])
    ones, zeros = (b.filled(v, [rows.shape[2]], x.dtype) for v in (1, 0))
    y = b.op("LayerNormalization", [rows, ones, zeros], axis=-1, epsilon=epsilon)
    y = b.op("Mul", [b.reshape(y, x.shape), b.along(gamma, 1, x.rank)])
    return b.op("Add", [y, b.along(beta, 1, x.rank)])


def _l2_normalize(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    """x over the root of its squares' sum, or of eps where that is larger."""
    x = args[0]
    axes = [axis_of(a, x.rank) for a in attrs.wholes("axis", list(range(x.rank)))] or list(range(x.rank))
    total = b.op("ReduceSumSquare", [x, b.constant(axes, "int64")], keepdims=1)
    return b.op("Div", [x, b.op("Sqrt", [b.op("Max", [total, b.number(attrs.real("eps"), x)])])])


def _lrn(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
    x = args[0]
    order = [0, axis_of(attrs.whole("axis", 1), x.rank)]
    order += [d for d in range(x.rank) if d not in order]
    y = b.op(
        "LRN",
        [b.transpose(x, order)],
        size=attrs.whole("size", 5),
        alpha=attrs.real("alpha", 1e-4),
        beta=attrs.real("beta", 0.75),
        bias=attrs.real("bias", 2.0),
    )
    return _back(b, y, order)


def _softmax(kind: str) -> Any:
    def convert(b: Builder, args: list[Any], attrs: Attributes) -> Tensor:
        return b.op(kind, [args[0]], axis=attrs.whole("axis", -1))

    return convert


def _dropout(b: Builder, args: list[Any], attrs: Attributes) -> Any:
    """(the value, a mask of ones)."""
    return args[0], b.filled(1, args[0].shape, "float32")


OPERATORS: Mapping[str, Any] = {
    "nn.batch_norm": _batch_norm,
    "nn.dropout": _dropout,
    "nn.fast_softmax": _softmax("Softmax"),
    "nn.group_norm": _group_norm,
    "nn.instance_norm": _instance_norm,
    "nn.l2_normalize": _l2_normalize,
    "nn.layer_norm": _layer_norm,
    "nn.log_softmax": _softmax("LogSoftmax"),
    "nn.lrn": _lrn,
    "nn.softmax": _softmax("Softmax"),
}
