"""Which dimensions of a node's operands must be equal, by ONNX's definition of the operator.

With open dimensions that cannot always be seen when the network is imported; it is then checked when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx

from dlcomp.frontend.recurrent import text
from dlcomp.frontend.symbolic import Dim

Shapes = Mapping[str, Sequence[Dim]]
# An operand by name and one of its axes.
Place = tuple[str, int]
Rule = Callable[[Sequence[str], Shapes, Mapping[str, Any]], list[list[Place]]]


def equal_places(node: onnx.NodeProto, shapes: Shapes, attrs: Mapping[str, Any]) -> list[list[Place]]:
    """Groups of places with the same extent; ``shapes`` are those of the operands that are tensors."""
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    names = list(node.input)
    if rule is None or any(name not in shapes for name in names if name):
        return []
    return [group for group in rule(names, shapes, attrs) if len(group) > 1]


def _is_one(dim: Dim) -> bool:
    return isinstance(dim, int) and dim == 1


def _broadcast(names: Sequence[str], shapes: Shapes, attrs: Mapping[str, Any]) -> list[list[Place]]:
    """From the last axis on; an open dimension is never taken for one that is repeated."""
    present = list(dict.fromkeys(name for name in names if name))
    return [
        [
            (name, len(shapes[name]) - back)
            for name in present
            if len(shapes[name]) >= back and not _is_one(shapes[name][-back])
        ]
        for back in range(1, 1 + max(len(shapes[name]) for name in present))
    ]


def _concat(names: Sequence[str], shapes: Shapes, attrs: Mapping[str, Any]) -> list[list[Place]]:
    present = list(dict.fromkeys(names))
    rank = len(shapes[present[0]])
    along = int(attrs["axis"]) % rank
    return [[(name, axis) for name in present] for axis in range(rank) if axis != along]


def _matmul(names: Sequence[str], shapes: Shapes, attrs: Mapping[str, Any]) -> list[list[Place]]:
    a, b = names
    left, right = len(shapes[a]), len(shapes[b])
    groups = [[(a, left - 1), (b, right - 2 if right > 1 else 0)]]
    for back in range(3, 1 + max(left, right)):
        places = [(n, r - back) for n, r in ((a, left), (b, right)) if r >= back]
        groups.append([place for place in places if not _is_one(shapes[place[0]][place[1]])])
    return groups


def _gemm(names: Sequence[str], shapes: Shapes, attrs: Mapping[str, Any]) -> list[list[Place]]:
    a, b = names[:2]
    rows, depth = (1, 0) if attrs.get("transA", 0) else (0, 1)
    deep, columns = (1, 0) if attrs.get("transB", 0) else (0, 1)
    groups = [[(a, depth), (b, deep)]]
    if len(names) > 2 and names[2]:
        c = names[2]
        for back, place in ((1, (b, columns)), (2, (a, rows))):
            if len(shapes[c]) >= back and not _is_one(shapes[c][-back]):
                groups.append([place, (c, len(shapes[c]) - back)])
    return groups


def _normalization(names: Sequence[str], shapes: Shapes, attrs: Mapping[str, Any]) -> list[list[Place]]:
    """The scale and the bias fit the last axes of the data."""
    x, *others = [name for name in names if name]
    rank = len(shapes[x])
    return [
        [(x, rank - back), (other, len(shapes[other]) - back)]
        for other in others
        for back in range(1, 1 + len(shapes[other]))
        if not _is_one(shapes[other][-back])
    ]


def _channels(names: Sequence[str], shapes: Shapes, attrs: Mapping[str, Any]) -> list[list[Place]]:
    """A scale, a bias and statistics have an element a channel."""
    x, *others = [name for name in names if name]
    return [[(x, 1), (other, 0)] for other in others]


def _scatter_nd(names: Sequence[str], shapes: Shapes, attrs: Mapping[str, Any]) -> list[list[Place]]:
    data, indices, updates = names
    depth = shapes[indices][-1]
    outer = len(shapes[indices]) - 1
    groups: list[list[Place]] = [[(indices, axis), (updates, axis)] for axis in range(outer)]
    if isinstance(depth, int):
        rest = range(depth, len(shapes[data]))
        groups += [[(data, axis), (updates, outer + axis - depth)] for axis in rest]
    return groups


def _scatter_elements(names: Sequence[str], shapes: Shapes, attrs: Mapping[str, Any]) -> list[list[Place]]:
    _, indices, updates = names
    return [[(indices, axis), (updates, axis)] for axis in range(len(shapes[indices]))]


def _einsum(names: Sequence[str], shapes: Shapes, attrs: Mapping[str, Any]) -> list[list[Place]]:
    equation = text(attrs["equation"]).replace(" ", "").partition("->")[0]
    if "." in equation:
        return []
    groups: dict[str, list[Place]] = {}
    for name, letters in zip(names, equation.split(","), strict=True):
        for axis, letter in enumerate(letters):
            if not _is_one(shapes[name][axis]):
                groups.setdefault(letter, []).append((name, axis))
    return list(groups.values())


_ELEMENTWISE = """
Add Sub Mul Div Pow Max Min Sum Mean Where Equal Less LessOrEqual Greater GreaterOrEqual And Or Xor Mod
PRelu BitwiseAnd BitwiseOr BitwiseXor
""".split()

_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _broadcast),
    "BatchNormalization": _channels,
    "Concat": _concat,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "InstanceNormalization": _channels,
    "LayerNormalization": _normalization,
    "MatMul": _matmul,
    "RMSNormalization": _normalization,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}
