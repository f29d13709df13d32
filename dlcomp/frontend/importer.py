"""TVM's ONNX importer, asking dlcomp's own converters first, and knowing shapes with open dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax, tirx
from tvm.ir.expr import GenericConst
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from dlcomp.frontend import host, symbolic
from dlcomp.frontend.check import dtype_name
from dlcomp.frontend.equal_dims import equal_places
from dlcomp.frontend.inference import inferred
from dlcomp.frontend.operators import deciding, runs_on_host, taken
from dlcomp.frontend.ops import CONVERTERS, open_shapes
from dlcomp.frontend.ops.arithmetic import shape_of
from dlcomp.frontend.stored import array_of


def to_relax(network: onnx.ModelProto) -> tuple[Any, dict[str, Any]]:
    """The IRModule of a checked network (one function ``main``, weights as constants), and the Relax
    expression of each ONNX value by name.

    Whatever TVM's converters raise comes out as it is.
    """
    opset = next((o.version for o in network.opset_import if o.domain in ("", "ai.onnx")), 1)
    symbols: dict[str, Any] = {}

    def extent(dim: Any) -> Any:
        if not dim.dim_param:
            return dim.dim_value
        return symbols.setdefault(dim.dim_param, tirx.Var(_identifier(dim.dim_param, len(symbols)), "int64"))

    # Without them TVM takes a size of zero for an unknown one.
    shapes = {v.name: [extent(dim) for dim in v.type.tensor_type.shape.dim] for v in network.graph.input}
    importer = _Importer(shapes, "float32")
    stored = {tensor.name for tensor in network.graph.initializer}
    if symbols or any(runs_on_host(n) or not stored.issuperset(deciding(n)) for n in network.graph.node):
        graph = inferred(network)
        importer = _OpenImporter(shapes, "float32")
        importer.opsets = list(network.opset_import)
        importer.types = {v.name: v for v in (*graph.value_info, *graph.output)}
    module = importer.from_onnx(network.graph, opset)
    return module, dict(importer._nodes)


def _identifier(name: str, number: int) -> str:
    text = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return text if text[:1].isalpha() else f"d{number}_{text}"


class _Importer(ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer asking ``CONVERTERS`` first."""

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        """Unsupported operators are refused before, all at once, and ours are not in TVM's table."""

    def _parse_array(self, tensor_proto: onnx.TensorProto) -> Any:
        return tvm.runtime.tensor(array_of(tensor_proto).reshape(tuple(tensor_proto.dims)))

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


class _OpenImporter(_Importer):
    """The importer of networks with open dimensions.

    What the network computes of its shapes is kept as expressions of them (``dlcomp.frontend.symbolic``),
    and becomes a tensor only where an operator takes it as data.
    """

    types: Mapping[str, onnx.ValueInfoProto]
    opsets: list[onnx.OperatorSetIdProto]

    def _construct_nodes(self, graph: Any) -> None:
        self._known = {
            tensor.name: symbolic.array(array_of(tensor))
            for tensor in graph.initializer
            if np.prod(tensor.dims, dtype=int) <= 64 and tensor.data_type != onnx.TensorProto.STRING
        }
        for node in graph.node:
            self._one(node)
        self._materialise(value.name for value in graph.output)

    def _one(self, node: onnx.NodeProto) -> None:
        known = [self._known.get(name) if name else None for name in node.input]
        first: Any = self._nodes.get(node.input[0]) if node.input else None
        of_data = isinstance(getattr(first, "ty", None), relax.TensorType) and first.ty.shape is not None
        result = symbolic.evaluate(node, known, shape_of(first) if of_data else None)
        if result is not None and (
            node.op_type in ("Shape", "Size") or symbolic.is_open(result.reshape(-1).tolist())
        ):
            self._known[node.output[0]] = result
            self._nodes[node.output[0]] = None
            return
        own = open_shapes.CONVERTERS.get(node.op_type)
        names = taken(node)
        self._materialise(names)
        if own is not None:
            attrs = {**self._parse_attr(node.attribute), "outputs": len(node.output)}
            inputs = [self._nodes[name] if name else None for name in node.input]
            expr = own(self.bb, inputs, known, attrs)
            if expr is not None:
                results = expr if isinstance(expr, list) else [expr]
                made = zip(node.output, results, strict=False)
                self._nodes.update({name: self.bb.normalize(result) for name, result in made})
                return
        if runs_on_host(node) or any(not self._is_known(name) for name in deciding(node)):
            operands = {name: self._nodes[name] for name in names}
            results = host.call(self.bb, node, operands, self.types, self.opsets)
            self._nodes.update({name: r for name, r in zip(node.output, results, strict=True) if name})
            return
        self._agree(node)
        super()._construct_nodes(SimpleNamespace(node=[node]))
        if result is not None:
            self._known[node.output[0]] = result

    def _materialise(self, names: Iterable[str]) -> None:
        """Tensors of those that are known but for now only as expressions."""
        for name in names:
            if self._nodes.get(name) is None and name in self._known:
                self._nodes[name] = self.bb.normalize(self._tensor(name))

    def _is_known(self, name: str) -> bool:
        return name in self._known or isinstance(self._nodes.get(name), GenericConst)

    def _tensor(self, name: str) -> Any:
        value = self.types.get(name)
        kind = dtype_name(value.type.tensor_type.elem_type) if value is not None else "int64"
        return open_shapes.tensor_of(self._known[name], kind)

    def _agree(self, node: onnx.NodeProto) -> None:
        """Makes dimensions that must be equal, but cannot be seen to be, the same expression.

        That they are is checked when the network runs.
        """
        values = {name: self._nodes.get(name) for name in node.input if name}
        if any(not isinstance(v, relax.Expr) or v.ty.shape is None for v in values.values()):
            return
        given = {name: shape_of(value) for name, value in values.items()}
        wanted = {name: list(dims) for name, dims in given.items()}
        for group in equal_places(node, given, self._parse_attr(node.attribute)):
            dims = [wanted[name][axis] for name, axis in group]
            one = next((d for d in dims if isinstance(d, int)), dims[0])
            for name, axis in group:
                if not isinstance(wanted[name][axis], int):
                    wanted[name][axis] = one
        for name, value in values.items():
            if all(symbolic.surely_equal(a, b) for a, b in zip(wanted[name], given[name], strict=True)):
                continue
            dtype = str(value.ty.dtype.dtype)
            value = self.bb.emit(value)
            if any(not isinstance(dim, int | tirx.Var) for dim in given[name]):
                # TVM takes the cast for a definition; one such as S = min(S, 512) makes its passes recurse
                # without end: a value of unknown shape in between leaves a check of it.
                value = self.bb.match_cast(value, relax.TensorType(None, dtype, ndim=len(wanted[name])))
            self._nodes[name] = self.bb.match_cast(value, relax.TensorType(wanted[name], dtype))
