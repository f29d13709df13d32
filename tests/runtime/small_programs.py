"""Small compiled programs for the runtime's tests, made without dlcomp's own pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from dlcomp.codegen.link import objects_of
from dlcomp.codegen.program import KernelInfo, Program
from dlcomp.model import Signature, TensorSpec
from dlcomp.target import Target

Body = Callable[[relax.BlockBuilder, list[relax.Var], list[relax.Expr]], Sequence[relax.Expr]]


def build(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    weights: Sequence[np.ndarray],
    body: Body,
    target: Target | None = None,
    kernels: Sequence[KernelInfo] = (),
) -> Program:
    """Compile ``body``, which emits the network from its inputs and weights, as the compiler would."""
    target = target or Target.host()
    builder = relax.BlockBuilder()
    params = [relax.Var(f"input{i}", relax.TensorType(s.shape, s.dtype)) for i, s in enumerate(inputs)]
    infos = [relax.TensorType(w.shape, w.dtype.name) for w in weights]
    bundle = relax.Var("weights", relax.TupleType(infos))
    with builder.function("main", [*params, bundle] if weights else params):
        with builder.dataflow():
            fields = [builder.emit(relax.TupleGetItem(bundle, i)) for i in range(len(weights))]
            found = list(body(builder, params, fields))
            result = builder.emit_output(found[0] if len(found) == 1 else relax.Tuple(found))
        builder.emit_func_output(result)
    executable = tvm.compile(builder.get(), target=target.to_tvm())
    return Program(
        Signature(tuple(inputs), tuple(outputs)),
        target,
        objects_of(executable),
        tuple(weights),
        tuple(kernels),
    )


def dense(
    rows: int = 4, inner: int = 64, columns: int = 32, seed: int = 0, target: Target | None = None
) -> Program:
    """``y = relu(x @ w + b)``."""
    generator = np.random.default_rng(seed)
    weights = [
        generator.standard_normal((inner, columns), dtype=np.float32),
        generator.standard_normal((columns,), dtype=np.float32),
    ]

    def body(builder: relax.BlockBuilder, x: list[relax.Var], w: list[relax.Expr]) -> list[relax.Expr]:
        product = builder.emit(relax.op.matmul(x[0], w[0]))
        return [builder.emit(relax.op.nn.relu(builder.emit(relax.op.add(product, w[1]))))]

    flops = 2 * rows * inner * columns
    moved = 4 * (rows * inner + inner * columns + rows * columns)
    return build(
        [TensorSpec("x", (rows, inner), "float32")],
        [TensorSpec("y", (rows, columns), "float32")],
        weights,
        body,
        target=target,
        kernels=[KernelInfo("matmul", "matmul", flops, moved, "default")],
    )


def x_of(artifact: Any, seed: int = 1) -> np.ndarray:
    """Random values for the first input."""
    return np.random.default_rng(seed).standard_normal(artifact.signature.inputs[0].shape, dtype=np.float32)
