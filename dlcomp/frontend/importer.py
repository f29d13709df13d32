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
    importer = _Importer({}, "float32")
    module = importer.from_onnx(network.graph, opset)
    return module, dict(importer._nodes)


class _Importer(ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer asking ``CONVERTERS`` first."""

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> Any:
        own = CONVERTERS.get(op_name)
        expr = own(inputs, attrs) if own else None
        if expr is None:
            return super()._convert_operator(op_name, inputs, attrs, opset)
        return self.bb.normalize(expr)
