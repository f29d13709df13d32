"""Resize in the forms that TVM's importer refuses or gets wrong: one matrix an axis.

Every mode of Resize but the crop's filling is linear and works on each axis alone. The matrix of an axis is
what ONNX's reference evaluator makes of the unit vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from tvm import relax

from dlcomp.frontend.ops.arithmetic import constant_of, dtype_of, number, shape_of

# Where TVM's importer is right: enlarging images by two or four rows of weights, or by repetition.
_SIMPLE = frozenset({"half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"})


def _resize(inputs: Any, attrs: dict[str, Any]) -> Any:
    x, dims = inputs[0], shape_of(inputs[0])
    named = ((1, "roi"), (2, "scales"), (3, "sizes"))
    roi, scales, sizes = (_known(inputs, place, name) for place, name in named)
    if scales is None and sizes is None:
        return None
    axes = [int(a) % len(dims) for a in attrs.get("axes", range(len(dims)))]
    mode = _text(attrs, "mode", "nearest")
    coordinates = _text(attrs, "coordinate_transformation_mode", "half_pixel")
    policy = _text(attrs, "keep_aspect_ratio_policy", "stretch")
    ratios = _ratios(dims, axes, scales, sizes, policy)
    if (
        len(dims) == 4
        and len(axes) == 4
        and coordinates in _SIMPLE
        and policy == "stretch"
        and not attrs.get("antialias", 0)
        and not attrs.get("exclude_outside", 0)
        and (mode == "nearest" or (mode == "linear" and min(ratios) >= 1))
    ):
        return None
    wanted = None if sizes is None else [int(s) for s in sizes]
    if wanted is not None and policy != "stretch":
        wanted = [round(ratio * dims[axis]) for ratio, axis in zip(ratios, axes, strict=True)]
    kept: dict[str, Any] = {
        name: attrs[name]
        for name in ("cubic_coeff_a", "exclude_outside", "antialias", "nearest_mode")
        if name in attrs
    }
    kept |= {"mode": mode, "coordinate_transformation_mode": coordinates}
    result, inside = x, np.ones([1] * len(dims), bool)
    for place, axis in enumerate(axes):
        span = None if roi is None else [float(roi[place]), float(roi[place + len(axes)])]
        size = None if wanted is None else wanted[place]
        if coordinates != "tf_crop_and_resize" and ratios[place] == 1.0 and size in (None, dims[axis]):
            continue
        matrix = _matrix(dims[axis], float(ratios[place]), size, span, kept)
        result = _along(result, matrix.astype(dtype_of(x)), axis, len(dims))
        valid = np.abs(matrix.sum(axis=1)) > 1e-3
        inside = inside & valid.reshape([-1 if d == axis else 1 for d in range(len(dims))])
    if coordinates == "tf_crop_and_resize" and not inside.all():
        filling = number(attrs.get("extrapolation_value", 0.0), x)
        result = relax.op.where(relax.const(inside, "bool"), result, filling)
    return result


def _known(inputs: Any, place: int, name: str) -> np.ndarray | None:
    if len(inputs) <= place or inputs[place] is None:
        return None
    value = constant_of(inputs[place])
    if value is None:
        raise ValueError(f"{name} must be known when the model is loaded: values={{{name!r}: ...}}")
    return value.reshape(-1) if value.size else None


def _text(attrs: Mapping[str, Any], name: str, default: str) -> str:
    value = attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _ratios(
    dims: Sequence[int], axes: Sequence[int], scales: np.ndarray | None, sizes: np.ndarray | None, policy: str
) -> list[float]:
    if sizes is None:
        assert scales is not None
        return [float(scale) for scale in scales]
    found = [float(size) / dims[axis] for size, axis in zip(sizes, axes, strict=True)]
    if policy == "not_larger":
        return [min(found)] * len(found)
    if policy == "not_smaller":
        return [max(found)] * len(found)
    return found


def _matrix(
    count: int, ratio: float, size: int | None, span: list[float] | None, attributes: Mapping[str, Any]
) -> np.ndarray:
    """(out, in): each column is the resized unit vector."""
    from onnx.reference import ReferenceEvaluator

    names = [
        "x",
        "roi" if span else "",
        "scales" if size is None else "",
        "sizes" if size is not None else "",
    ]
    node = helper.make_node("Resize", names, ["y"], axes=[1], **attributes)
    feeds: dict[str, np.ndarray] = {"x": np.eye(count, dtype=np.float32)}
    real, whole = TensorProto.FLOAT, TensorProto.INT64
    kinds = {"x": real, "roi": real, "scales": real, "sizes": whole}
    if span:
        feeds["roi"] = np.array(span, np.float32)
    if size is None:
        feeds["scales"] = np.array([ratio], np.float32)
    else:
        feeds["sizes"] = np.array([size], np.int64)
    given = [helper.make_tensor_value_info(name, kinds[name], list(feeds[name].shape)) for name in feeds]
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "axis", given, [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    (rows,) = ReferenceEvaluator(model).run(None, feeds)
    matrix: np.ndarray = np.asarray(rows).T
    return matrix


def _along(x: Any, matrix: np.ndarray, axis: int, rank: int) -> Any:
    order = [d for d in range(rank) if d != axis] + [axis]
    moved = relax.op.permute_dims(x, order)
    product = relax.op.matmul(moved, relax.const(np.ascontiguousarray(matrix.T), str(matrix.dtype)))
    return relax.op.permute_dims(product, [order.index(d) for d in range(rank)])


CONVERTERS: Mapping[str, Any] = {"Resize": _resize}
