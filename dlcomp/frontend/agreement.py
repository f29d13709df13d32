"""Does the imported Relax module have the shapes and types that ONNX's own inference gives?

TVM's converters are lenient where ONNX is not (broadcasts, flags, axes); a shape that differs here would be a
wrong answer later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx

from dlcomp.errors import ModelError
from dlcomp.frontend.check import dtype_name
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.macs import static_shapes
from dlcomp.frontend.operators import describe_node


def require_agreement(network: onnx.ModelProto, values: Mapping[str, Any], name: str) -> None:
    """Compare the Relax expressions ``values`` (by ONNX name) with ONNX's inference of ``network``.

    Outputs must have the same shape; an inner value must have as many elements (converters may hold a
    scalar as one element), and both the same type.

    Raises
    ------
    ModelError
        Naming the first node whose result differs.
    """
    from tvm import relax

    try:
        graph = inferred(network)
    except Exception:  # already checked before it was simplified
        return
    shapes = static_shapes(graph)
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        for result in node.output:
            ty = getattr(values.get(result), "ty", None)
            if not isinstance(ty, relax.TensorType) or ty.shape is None or result not in shapes:
                continue
            try:
                found = tuple(int(dim) for dim in ty.shape)
            except TypeError:
                continue
            expected = shapes[result]
            same = found == expected if result in outputs else math.prod(found) == math.prod(expected)
            dtype, wanted = str(ty.dtype.dtype), dtype_name(types.get(result, 0))
            if not same or (result in types and dtype != wanted):
                ours, theirs = f"{dtype}{list(found)}", f"{wanted}{list(expected)}"
                raise ModelError(
                    f"{describe_node(node, graph)} gives {ours}, ONNX says {theirs}",
                    where=name,
                    hint="the node's attributes or operands are malformed, or TVM's converter of it is wrong",
                )
