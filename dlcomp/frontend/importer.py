"""TVM's ONNX importer, asking dlcomp's own converters first."""

from __future__ import annotations

from typing import Any

import onnx
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from dlcomp.frontend.ops import CONVERTERS


def to_relax(network: onnx.ModelProto) -> tuple[Any, dict[str, Any]]:
    """The IRModule of a checked network (one function ``main``, weights as constants), and the Relax
    expression of each ONNX value by name.

    Whatever TVM's converters raise comes out as it is.
    """
    opset = next((o.version for o in network.opset_import if o.domain in ("", "ai.onnx")), 1)
    # Without them TVM takes a size of zero for an unknown one.
    shapes = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in network.graph.input}
    importer = _Importer(shapes, "float32")
    module = importer.from_onnx(network.graph, opset)
    return module, dict(importer._nodes)


class _Importer(ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer asking ``CONVERTERS`` first."""

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        """Unsupported operators are refused before, all at once, and ours are not in TVM's table."""

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> Any:
        own: Any = CONVERTERS.get(op_name)
        expr = None
        if own is not None and getattr(own, "takes_builder", False):
            expr = own(self.bb, inputs, attrs)
        elif own is not None:
            expr = own(inputs, attrs)
        if expr is None:
            return super()._convert_operator(op_name, inputs, attrs, opset)
        return self.bb.normalize(expr)
