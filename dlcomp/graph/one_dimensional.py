"""1-D convolutions as 2-D ones over images of one row, which have layouts and kernels."""

from __future__ import annotations

from typing import Any

from tvm import IRModule, relax

from dlcomp.graph.walk import array_of, constant, dtype_of, op_name, rebuild, static_shape_of


def rows_as_images(module: IRModule) -> IRModule:
    """``module`` with every ``conv1d`` in NCW and OIW written as a ``conv2d``."""
    return rebuild(module, _step)


def _step(builder: relax.BlockBuilder, value: Any) -> Any:
    if op_name(value) != "relax.nn.conv1d":
        return value
    data, weight = value.args
    attrs, shape, array = value.attrs, static_shape_of(data), array_of(weight)
    if shape is None or array is None or dtype_of(data) not in ("float32", "uint8", "int8"):
        return value
    if str(attrs.data_layout) != "NCW" or str(attrs.kernel_layout) != "OIW" or array.ndim != 3:
        return value
    left, right = (int(p) for p in attrs.padding)
    image = builder.emit(relax.op.reshape(data, [shape[0], shape[1], 1, shape[2]]))
    result = builder.emit(
        relax.op.nn.conv2d(
            image,
            constant(array[:, :, None, :]),
            strides=[1, int(attrs.strides[0])],
            padding=[0, left, 0, right],
            dilation=[1, int(attrs.dilation[0])],
            groups=int(attrs.groups),
            out_dtype="float32" if dtype_of(data) == "float32" else "int32",
        )
    )
    made = static_shape_of(result)
    assert made is not None
    return relax.op.reshape(result, [made[0], made[1], made[3]])
