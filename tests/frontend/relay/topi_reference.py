"""TVM's operator library, whose kernels Relay called, as the reference for what its operators mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def compute(operator: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    """The one result of ``operator`` (on placeholders) for ``arrays``, compiled without a schedule."""
    import tvm
    from tvm import te

    operands = [te.placeholder(a.shape, str(a.dtype), f"x{i}") for i, a in enumerate(arrays)]
    made = operator(*operands)
    function = tvm.compile(te.create_prim_func([*operands, made]), target="llvm")
    result = tvm.runtime.empty(tuple(int(d) for d in made.shape), made.dtype)
    function(*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays), result)
    found: np.ndarray = result.numpy()
    return found
