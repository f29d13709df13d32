"""Nodes that compiled code leaves to the host, by ONNX's reference evaluator or by a function here."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlcomp.runtime import dlpack

NAME = "dlcomp.host"
# Begins the message of a node whose operands do not fit; the session finds it in what the machine raises.
FAILED = "a node on the host cannot be computed: "


def register() -> None:
    """Make ``dlcomp.host`` known to the virtual machine."""
    import tvm_ffi

    tvm_ffi.register_global_func(NAME, _call, override=True)


def _call(text: str, *tensors: Any) -> Any:
    operator, names, evaluate = _evaluator(text)
    arrays = [_array(tensor) for tensor in tensors]
    try:
        found = evaluate(dict(zip(names, arrays, strict=True)))
    except Exception as err:  # whatever NumPy says of operands that do not fit
        raise ValueError(f"{FAILED}{operator}: {err}") from err
    results = [_tensor(np.asarray(result)) for result in found]
    return results[0] if len(results) == 1 else results


@functools.lru_cache(maxsize=64)
def _evaluator(
    text: str,
) -> tuple[str, list[str], Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]]:
    """A node's operator, the names of its operands, and what computes its results."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.ModelProto.FromString(base64.b64decode(text))
    names = [value.name for value in model.graph.input]
    node = model.graph.node[0]
    if node.op_type == "Loop":
        return node.op_type, names, _loop(model)
    own = _OWN.get(node.op_type)
    if own is not None:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs = list(node.input)

        def direct(feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            return own([feed.get(name) for name in inputs], attributes)

        return node.op_type, names, direct
    evaluator = ReferenceEvaluator(model)
    return node.op_type, names, lambda feed: list(evaluator.run(None, dict(feed)))


def _loop(model: Any) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
    """A Loop: its body, evaluated by ONNX's reference, as often as the operands and the body say."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    node = model.graph.node[0]
    body = node.attribute[0].g
    outside = [value for value in model.graph.input if value.name not in {v.name for v in body.input}]
    graph = onnx.GraphProto()
    graph.CopyFrom(body)
    graph.input.extend(outside)
    evaluator = ReferenceEvaluator(
        onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    )
    states = len(node.input) - 2
    scans = [value.type.tensor_type for value in body.output[1 + states :]]
    nothing = [
        np.zeros(
            (0, *(dim.dim_value for dim in tensor.shape.dim)),
            onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type),
        )
        for tensor in scans
    ]

    def run(feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        most = int(feed[node.input[0]].reshape(-1)[0]) if node.input[0] else None
        go = bool(feed[node.input[1]].reshape(-1)[0]) if node.input[1] else True
        carried = [feed[name] for name in node.input[2:]]
        seen = {value.name: feed[value.name] for value in outside}
        collected: list[list[np.ndarray]] = [[] for _ in scans]
        turn = 0
        while go and (most is None or turn < most):
            given = [np.array(turn, np.int64), np.array(go), *carried]
            names = [value.name for value in body.input]
            results = evaluator.run(None, {**seen, **dict(zip(names, given, strict=True))})
            go, carried = bool(results[0].reshape(-1)[0]), list(results[1 : 1 + states])
            for place, result in enumerate(results[1 + states :]):
                collected[place].append(result)
            turn += 1
        stacked = [
            np.stack(parts) if parts else empty for parts, empty in zip(collected, nothing, strict=True)
        ]
        every = [*carried, *stacked]
        return [result for name, result in zip(node.output, every, strict=True) if name]

    return run


def _array(tensor: Any) -> np.ndarray:
    if str(tensor.dtype) in dlpack.FOREIGN:
        return dlpack.imported(tensor, str(tensor.dtype))
    return np.from_dlpack(tensor)


def _tensor(array: np.ndarray) -> Any:
    """A tensor of a copy: the result may be a view of an operand, whose memory is used again."""
    import tvm_ffi

    from dlcomp.runtime.session import aligned_empty

    copy = aligned_empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return tvm_ffi.from_dlpack(
        dlpack.Export(copy) if dlpack.is_foreign(copy.dtype) or not copy.size else copy
    )


def _non_max_suppression(operands: list[Any], attributes: Mapping[str, Any]) -> list[np.ndarray]:
    """(selected, 3): batch, class, box, by falling score; ties keep the order of the boxes.

    A box is dropped if it overlaps one that was kept by more than the threshold (intersection over union).
    """
    boxes, scores, *rest = operands
    numbers = [float(np.asarray(r).reshape(-1)[0]) if r is not None and np.size(r) else None for r in rest]
    most, threshold, least = [*numbers, *[None] * 3][:3]
    if not most:
        return [np.zeros((0, 3), np.int64)]
    corners = _corners(boxes.astype(np.float32), bool(attributes.get("center_point_box", 0)))
    found = []
    for batch in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            kept = _kept(corners[batch], scores[batch, kind], int(most), threshold or 0.0, least)
            found += [(batch, kind, box) for box in kept]
    return [np.array(found, np.int64).reshape(-1, 3)]


def _corners(boxes: np.ndarray, centred: bool) -> np.ndarray:
    """(batch, boxes, 4) as low y, low x, high y, high x; the corners may come in any order."""
    if centred:
        x, y, w, h = np.moveaxis(boxes, -1, 0)
        return np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    a, b = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(a, b), np.maximum(a, b)], -1)


def _kept(
    boxes: np.ndarray, scores: np.ndarray, most: int, threshold: float, least: float | None
) -> list[int]:
    order = np.argsort(-scores, kind="stable")
    if least is not None:
        order = order[scores[order] > np.float32(least)]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    while order.size and len(kept) < most:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        low = np.maximum(boxes[order, :2], boxes[best, :2])
        high = np.minimum(boxes[order, 2:], boxes[best, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[order] + areas[best] - common
        share = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        order = order[share <= np.float32(threshold)]
    return kept


_OWN: Mapping[str, Callable[[list[Any], Mapping[str, Any]], list[np.ndarray]]] = {
    "NonMaxSuppression": _non_max_suppression,
}
