"""Which functions fusion may put behind an operator: TVM's analysis, less what it takes for element-wise.

``AnnotateTIROpPattern`` looks at indices alone. Padding behind, or a cut from the first place on, reads at
the indices where it writes, but has more or fewer elements than the operator before it.
"""

from __future__ import annotations

from typing import Any

from tvm import IRModule, relax, tirx

from dlcomp.frontend.symbolic import dim_of, surely_equal

_PATTERN = "op_pattern"
_ELEMENTWISE, _INJECTIVE = 0, 2


def annotated(module: IRModule) -> IRModule:
    """``module`` with a pattern on every function."""
    module = relax.transform.AnnotateTIROpPattern()(module)
    changed = {
        var: func.with_attr(_PATTERN, _INJECTIVE)
        for var, func in module.functions.items()
        if isinstance(func, tirx.PrimFunc)
        and int(func.attrs.get(_PATTERN, _INJECTIVE)) == _ELEMENTWISE
        and not _keeps_a_shape(func)
    }
    return IRModule({**dict(module.functions.items()), **changed}, attrs=module.attrs)


def _keeps_a_shape(func: Any) -> bool:
    """Whether the result of ``func`` has the shape of one of its operands; others may be repeated for it."""
    shapes = [[dim_of(extent) for extent in p.shape] for p in func.params if hasattr(p, "shape")]
    *operands, result = shapes
    return not operands or any(
        len(shape) == len(result) and all(map(surely_equal, shape, result)) for shape in operands
    )
