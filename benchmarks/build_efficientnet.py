"""EfficientNet-Lite0 as ONNX, from its PyTorch checkpoint, without PyTorch.

Architecture: Tan and Le, EfficientNet (2019), the B0 stages without squeeze-and-excitation, ReLU6 for swish.
The padding is TensorFlow's SAME for even sizes: at stride 2 the far sides get one more.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx_graph import GraphBuilder

# (repeats, stride of the first); channels and kernel sizes are in the weights.
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
_EPSILON = 1e-3
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def build(weights: Path) -> onnx.ModelProto:
    """``input`` (N, 3, 224, 224), (px - 127) / 128 RGB -> ``logits`` (N, 1000)."""
    state = read_checkpoint(weights)
    graph = GraphBuilder()
    for bound, value in (("zero", 0.0), ("six", 6.0)):
        graph.weight(bound, np.array(value, "float32"))
    x = _conv(graph, state, "input", "_conv_stem", "_bn0", stride=2, clip=True)
    index = 0
    for repeats, first_stride in _STAGES:
        for repeat in range(repeats):
            x = _block(
                graph, state, x, f"_blocks.{index}", first_stride if repeat == 0 else 1, skip=repeat > 0
            )
            index += 1
    x = _conv(graph, state, x, "_conv_head", "_bn1", stride=1, clip=True)
    x = graph.op("GlobalAveragePool", x, name="pool")
    x = graph.op("Flatten", x, name="flat", axis=1)
    weight, bias = (graph.weight(f"_fc.{part}", state[f"_fc.{part}"]) for part in ("weight", "bias"))
    graph.op("Gemm", x, weight, bias, name="logits", transB=1)
    return graph.finish(
        "efficientnet_lite0",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1000])],
    )


def _block(
    graph: GraphBuilder, state: dict[str, np.ndarray], x: str, name: str, stride: int, *, skip: bool
) -> str:
    """Expand (unless the ratio is 1), depthwise, project; a residual between blocks of one stage."""
    y = x
    if f"{name}._expand_conv.weight" in state:
        y = _conv(graph, state, y, f"{name}._expand_conv", f"{name}._bn0", stride=1, clip=True)
    y = _conv(graph, state, y, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, clip=True)
    y = _conv(graph, state, y, f"{name}._project_conv", f"{name}._bn2", stride=1, clip=False)
    return graph.op("Add", y, x, name=f"{name}.add") if skip else y


def _conv(
    graph: GraphBuilder,
    state: dict[str, np.ndarray],
    x: str,
    conv: str,
    norm: str,
    *,
    stride: int,
    clip: bool,
) -> str:
    """Convolution, batch normalisation, and ReLU6 if ``clip``."""
    weight = state[f"{conv}.weight"]
    outputs, per_group, kernel, _ = weight.shape
    groups = outputs if per_group == 1 else 1
    total = max(kernel - stride, 0)
    near, far = total // 2, total - total // 2
    x = graph.op(
        "Conv",
        x,
        graph.weight(f"{conv}.weight", weight),
        name=conv,
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[near, near, far, far],
        group=groups,
    )
    parts = ("weight", "bias", "running_mean", "running_var")
    parameters = [graph.weight(f"{norm}.{part}", state[f"{norm}.{part}"]) for part in parts]
    x = graph.op("BatchNormalization", x, *parameters, name=norm, epsilon=_EPSILON)
    return graph.op("Clip", x, "zero", "six", name=f"{conv}.relu6") if clip else x


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles what a state dict needs and refuses every other name: a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"a checkpoint of tensors does not need {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, count, _ = pid
        return kind, key, count


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The state dict in PyTorch's format before 1.6: five pickles, then the storages in the listed order."""
    with path.open("rb") as file:
        for _ in range(3):  # magic number, protocol version, sizes of C types
            _TensorUnpickler(file).load()
        state = _TensorUnpickler(file).load()
        keys = _TensorUnpickler(file).load()
        kinds = {storage[1]: storage[0] for storage, *_ in state.values()}
        storages = {key: _read_storage(file, _DTYPES[kinds[key]]) for key in keys}
    return {name: _tensor(storages[storage[1]], *rest) for name, (storage, *rest) in state.items()}


def _read_storage(file: BinaryIO, dtype: np.dtype[Any]) -> np.ndarray:
    (count,) = struct.unpack("<q", file.read(8))
    return np.frombuffer(file.read(count * dtype.itemsize), dtype, count)


def _tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    byte_strides = [stride * storage.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(storage[offset:], shape, byte_strides, writeable=False)
    return np.ascontiguousarray(view)
