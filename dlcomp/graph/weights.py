"""Moves weights out of the program: constants become elements of one tuple, the last parameter of main.

The weights then live in a file of their own that is mapped into memory and shared by processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import IRModule, relax
from tvm.ir.expr import GenericConst


def lift_weights(module: IRModule) -> tuple[IRModule, tuple[np.ndarray, ...]]:
    """``module`` with constants replaced by parameters, and the constants in order.

    Equal constants are passed once. Single numbers are no weights and stay. Without any weights,
    ``main`` keeps its signature.
    """
    main = module["main"]
    arrays: list[np.ndarray] = []
    seen: dict[tuple[str, tuple[int, ...], bytes], int] = {}  # by a digest: the bytes would be a second copy
    order: dict[Any, int] = {}

    def collect(expr: Any) -> None:
        if isinstance(expr, GenericConst) and expr not in order:
            array = _shared(expr.value)
            if array.ndim == 0:
                return
            digest = hashlib.blake2b(np.ascontiguousarray(array).data).digest()
            key = (str(array.dtype), array.shape, digest)
            if key not in seen:
                seen[key] = len(arrays)
                arrays.append(array)
            order[expr] = seen[key]

    relax.analysis.post_order_visit(main, collect)
    if not arrays:
        return module, ()
    types = [relax.TensorType(a.shape, str(a.dtype)) for a in arrays]
    weights = relax.Var("weights", relax.TupleType(types))

    body = _replace_constants(main.body, lambda c: relax.TupleGetItem(weights, order[c]) if c in order else c)
    lifted = relax.Function([*main.params, weights], body, main.ret_ty, attrs=main.attrs)
    module = IRModule({**module.functions, module.get_global_var("main"): lifted})
    return relax.transform.Normalize()(module), tuple(arrays)


def _shared(tensor: Any) -> np.ndarray:
    """The elements of a TVM tensor, in its own memory where NumPy knows the type."""
    try:
        return np.from_dlpack(tensor)
    except (BufferError, RuntimeError, TypeError):  # float8, bfloat16 and the like
        return np.asarray(tensor.numpy())


def _replace_constants(body: Any, new: Callable[[Any], Any]) -> Any:
    """``body`` with every constant replaced."""

    def visit(self: Any, constant: Any) -> Any:
        return new(constant)

    # Built by hand: the mutator's base class is untyped, so mypy refuses a class statement.
    mutator = relax.expr_functor.mutator(
        type("_Lift", (relax.PyExprMutator,), {"visit_generic_const_": visit})
    )
    return mutator().visit_expr(body)
