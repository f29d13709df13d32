"""Operations of TensorIR that TVM lacks, or leaves scalar: its vectorizer takes none that it does not know.

Each is an operator that becomes an intrinsic of LLVM's once loops are vectors.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx


def _operator(name: str, intrinsic: str) -> Any:
    def lower(call: Any) -> Any:
        return tirx.call_llvm_pure_intrin(call.ty, intrinsic, *call.args)

    attributes = {
        "TVectorizable": True,
        "TCallEffectKind": tvm.ir.Op.get("tirx.nearbyint").get_attr("TCallEffectKind"),
        "TScriptPrinterName": name,
        "llvm.FLowerIntrinsic": lower,
    }
    for key, attribute in attributes.items():
        tvm.ir.register_op_attr(f"tirx.{name}", key, attribute)
    return tvm.ir.Op.get(f"tirx.{name}")


_ROUNDED = _operator("dlcomp_rounded", "llvm.arithmetic.fence")
_NEAREST = _operator("dlcomp_nearest", "llvm.nearbyint")


def rounded(value: Any) -> Any:
    """``value``, rounded to float32 before anything else is done with it.

    LLVM makes a multiplication and the addition behind it one instruction, which rounds once, wherever the
    processor has it.
    """
    return tirx.call_intrin("float32", _ROUNDED, value)


def nearest(value: Any) -> Any:
    """The nearest whole number to a float32, the even one of two."""
    return tirx.call_intrin("float32", _NEAREST, value)
