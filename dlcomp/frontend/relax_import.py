"""A simplified ONNX network to a Relax module, through TVM's importer.

TVM's importer prints, warns and raises whatever its converters trip on; here that becomes silence and one
ModelError that names the node.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from typing import Any

import onnx

from dlcomp.errors import ModelError
from dlcomp.frontend.agreement import require_agreement
from dlcomp.frontend.operators import describe_node, require_supported
from dlcomp.model import Model, Signature, Step, TensorSpec

# Generated loops count with 32 bits.
_MOST_ELEMENTS = 2**31 - 1

# Operators that pass a window over an image.
_WINDOWED = ("relax.nn.conv", "relax.nn.max_pool", "relax.nn.avg_pool")

_LOG = logging.getLogger(__name__)


def import_network(network: onnx.ModelProto, *, source: onnx.ModelProto, name: str) -> Model:
    """The Model of ``network`` (shapes bound, simplified); ``source`` is kept as the reference.

    Raises
    ------
    ModelError
        Unsupported operators (all at once), a node that TVM cannot convert, or shapes that depend on data.
    """
    require_supported(network.graph, name)
    from tvm import relax

    module, values = _from_onnx(network, name)
    main = module["main"]
    _require_known(main, name)
    require_agreement(network, values, name)
    inputs = tuple(
        TensorSpec(value.name, _shown(param.ty), str(param.ty.dtype.dtype))
        for value, param in zip(network.graph.input, main.params, strict=True)
    )
    # The type of what is returned, not of the function: that one forgets what the run finds out.
    returned = main.body.body.ty
    types = list(returned.fields) if isinstance(returned, relax.TupleType) else [returned]
    outputs = tuple(
        TensorSpec(value.name, _shown(ty), str(ty.dtype.dtype))
        for value, ty in zip(network.graph.output, types, strict=True)
    )
    effect = {"nodes": len(source.graph.node), "simplified": len(network.graph.node)}
    return Model(module, Signature(inputs, outputs), name, (Step("import", {}, effect),), source)


def _from_onnx(network: onnx.ModelProto, name: str) -> tuple[Any, dict[str, Any]]:
    from dlcomp.frontend.importer import to_relax

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return to_relax(network)
    except Exception as error:
        _LOG.debug("TVM's importer printed: %s", printed.getvalue())
        node = _culprit(error)
        text = _first_line(error)
        if node is None:
            raise ModelError(f"TVM cannot import the network: {text}", where=name) from error
        raise ModelError(
            f"cannot import {describe_node(node, network.graph)}: {text}",
            where=name,
            hint="this form of the operator is not supported; export the model with a simpler one",
        ) from error


def _culprit(error: BaseException) -> onnx.NodeProto | None:
    """The node that TVM's importer was converting, found in the frames of the traceback."""
    found = None
    trace = error.__traceback__
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node")
        if isinstance(node, onnx.NodeProto):
            found = node
        trace = trace.tb_next
    return found


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # TVM's own checks put the reason on the last line, after a C++ location.
    text = next((line for line in reversed(lines) if "Check failed" in line or "Error:" in line), lines[0])
    return text[:300]


def _require_known(main: Any, name: str) -> None:
    """Refuse huge values, and those whose shape is no expression of the inputs' dimensions."""
    from tvm import relax

    values: list[Any] = []
    windows: list[Any] = []

    # Collected first: an exception must not pass through the C++ of the visitor.
    def note(expr: Any) -> None:
        if isinstance(expr, relax.Var):
            values.append(expr)
        elif isinstance(expr, relax.Call) and str(getattr(expr.op, "name", "")).startswith(_WINDOWED):
            windows.append(expr)

    relax.analysis.post_order_visit(main, note)
    for call in windows:
        given, made = call.args[0].ty, call.ty
        if _is_static(given) and _is_static(made) and min(_static(made)) < 1 <= min(_static(given)):
            raise ModelError(
                f"a tensor is empty: a window over {_static(given)} gives {_static(made)}",
                where=name,
                hint="the input is too small for this network; give a larger shape",
            )
    # What the host gives has a shape only after it was cast to one.
    uncast = set()
    for block in main.body.blocks:
        for binding in block.bindings:
            if isinstance(binding, relax.MatchCast):
                uncast.add(binding.value)
            elif str(getattr(getattr(binding.value, "op", None), "name", "")) == "relax.call_pure_packed":
                uncast.add(binding.var)
    for value in values:
        if value in uncast:
            continue
        if not _is_known(value.ty):
            raise ModelError(
                f"the shape of {value.name!r} depends on the data ({value.ty})",
                where=name,
                hint="NonZero, Unique, NonMaxSuppression and the like make such shapes; cut the model there",
            )
        if not isinstance(value.ty, relax.TensorType) or not _is_static(value.ty):
            continue
        elements = math.prod(_static(value.ty))
        if elements > _MOST_ELEMENTS:
            raise ModelError(
                f"a tensor is too large: {value.name!r} has the shape {_static(value.ty)}",
                where=name,
                hint=f"at most {_MOST_ELEMENTS} elements; give a smaller shape",
            )


def _is_known(ty: Any) -> bool:
    from tvm import relax

    if isinstance(ty, relax.TupleType):
        return all(_is_known(field) for field in ty.fields)
    return not isinstance(ty, relax.TensorType) or isinstance(ty.shape, relax.ShapeExpr)


def _is_static(ty: Any) -> bool:
    from tvm import tirx

    return _is_known(ty) and all(isinstance(dim, tirx.IntImm) for dim in ty.shape)


def _shown(ty: Any) -> tuple[int | str, ...]:
    """The shape of a tensor; open dimensions as text."""
    from dlcomp.frontend.symbolic import dim_of, text_of

    return tuple(dim if isinstance(dim, int) else text_of(dim) for dim in map(dim_of, ty.shape))


def _static(ty: Any) -> tuple[int, ...]:
    return tuple(int(dim) for dim in ty.shape)
