"""ONNX networks in a few words, and their comparison with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, shape_inference

import dlcomp
from dlcomp.runtime.artifact import Artifact
from dlcomp.runtime.metric import difference
from dlcomp.target import Target

_HOST = Target.parse("host")
# A machine with AVX-512 runs AVX2 code as well: then both vector widths are tested.
TARGETS = ("host", "x86_64-linux-gnu:znver3") if "avx512f" in _HOST.features else ("host",)


class Net:
    """A network under construction; every method returns the name of the value that it makes."""

    def __init__(self, seed: int = 0, opset: int = 18) -> None:
        self.rng = np.random.default_rng(seed)
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[str] = []

    def input(self, *shape: int, dtype: str = "float32") -> str:
        name = f"x{len(self._inputs)}"
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """Random normal; scaled so that a sum over all but the first dimension keeps its size."""
        factor = 1 / np.sqrt(max(1, np.prod(shape[1:]))) if scale is None else scale
        return self.constant(self.rng.standard_normal(shape).astype("float32") * np.float32(factor))

    def constant(self, value: Any, dtype: str | None = None) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values), "int64")

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with ``count`` results."""
        names = [f"v{len(self._nodes)}_{i}" for i in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def conv(self, x: str, ci: int, co: int, k: int | tuple[int, int], **attributes: Any) -> str:
        """A convolution with bias; padded to keep the size unless ``pads`` are given."""
        kh, kw = (k, k) if isinstance(k, int) else k
        attributes.setdefault("pads", [kh // 2, kw // 2, kh // 2, kw // 2])
        weight = self.weight(co, ci // attributes.get("group", 1), kh, kw)
        return self.op("Conv", x, weight, self.weight(co, scale=0.1), **attributes)

    def output(self, *names: str) -> None:
        self._outputs += names

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, "net", self._inputs, [], self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=8)
        inferred = {v.name: v for v in shape_inference.infer_shapes(model).graph.value_info}
        model.graph.output.extend(inferred[name] for name in self._outputs)
        return model

    def random_inputs(self) -> dict[str, np.ndarray]:
        return {v.name: self._random(v) for v in self._inputs}

    def _random(self, info: onnx.ValueInfoProto) -> np.ndarray:
        kind = info.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        if kind.elem_type == TensorProto.FLOAT:
            return self.rng.standard_normal(shape).astype("float32")
        return self.rng.integers(0, 2, shape).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))


def reference(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(inputs))


def compile_for(net: Net, targets: Sequence[str] = TARGETS) -> list[Artifact]:
    """One artifact a target."""
    model = dlcomp.load(net.model())
    return [model.compile(target) for target in targets]


def check(
    net: Net,
    inputs: Mapping[str, np.ndarray] | None = None,
    expected: Sequence[np.ndarray] | None = None,
    tolerance: float = 1e-5,
    targets: Sequence[str] = TARGETS,
) -> list[Artifact]:
    """Every output within ``tolerance`` of its range of onnxruntime's (or ``expected``), on every target."""
    fed = net.random_inputs() if inputs is None else inputs
    want = reference(net.model(), fed) if expected is None else expected
    artifacts = compile_for(net, targets)
    for artifact in artifacts:
        compare(artifact, fed, want, tolerance)
    return artifacts


def compare(
    artifact: Artifact, inputs: Mapping[str, np.ndarray], want: Sequence[np.ndarray], tolerance: float = 1e-5
) -> None:
    found = artifact.run(inputs)
    wrong = {
        name: str(distance)
        for (name, value), right in zip(found.items(), want, strict=True)
        if not (distance := difference(value, right)).within(tolerance)
    }
    assert not wrong, f"{artifact.target.cpu}: {wrong}"


def schedules(artifact: Artifact, op: str) -> list[str]:
    """The templates that took the kernels whose name has ``op`` in it."""
    return [k.schedule.split("{")[0] for k in artifact.kernels if op in k.name]
