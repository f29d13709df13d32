"""Casts from and to the 8-bit floats: by a table one way, by comparison with the midpoints the other.

TVM computes such casts in other ways for each type, some of them wrong; here every type is the list of its
256 values, as ``ml_dtypes`` has them, rounded to nearest even and saturated as ONNX's Cast says.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import helper
from tvm import relax, te, tirx

from dlcomp.frontend.ops.arithmetic import dtype_of
from dlcomp.frontend.ops.kernels import with_builder

# Powers of two without a sign, which Cast rounds up unless told otherwise.
_SCALE = "float8_e8m0fnu"


def is_float8(kind: str) -> bool:
    """Whether ``kind`` names an 8-bit float."""
    return kind.startswith("float8_")


def _numpy(kind: str) -> np.dtype[Any]:
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, kind))
    return found


def decoded(builder: Any, x: Any, kind: str) -> Any:
    """A tensor of 8-bit floats as ``kind``."""
    values = np.arange(256, dtype="uint8").view(_numpy(dtype_of(x))).astype("float32")

    def bits(t: Any) -> Any:
        return te.compute(t.shape, lambda *i: tirx.reinterpret("uint8", t(*i)), name="bits")

    code = builder.emit_te(bits, x, primfunc_name_hint="float8_bits")
    wide = relax.op.take(relax.const(values, "float32"), relax.op.astype(code, "int32"), mode="clip")
    return wide if kind == "float32" else relax.op.astype(wide, kind)


def encoded(builder: Any, x: Any, kind: str, saturate: bool, rounding: str = "nearest") -> Any:
    """``x`` as 8-bit floats; ``rounding`` is nearest (to even), up or down."""
    wide = x if dtype_of(x) == "float32" else builder.normalize(relax.op.astype(x, "float32"))
    numpy_kind = _numpy(kind)
    codes = np.arange(256, dtype="uint8")
    values = codes.view(numpy_kind).astype("float32")
    finite = np.isfinite(values)
    signed = bool((values[finite] < 0).any())
    positive = sorted((float(values[c]), int(c)) for c in codes[finite] if values[c] > 0 or c == 0)
    nan = int(codes[np.isnan(values)][0])
    infinite = [int(c) for c in codes[np.isposinf(values)]]
    largest = positive[-1][1]
    # Past the largest value: itself if saturated, else infinity where there is one, else NaN.
    beyond = largest if saturate else (infinite[0] if infinite else nan)

    def define(t: Any) -> Any:
        def at(*i: Any) -> Any:
            value = t(*i)
            magnitude = tirx.Select(value < 0, -value, value) if signed else value
            code: Any = tirx.const(positive[0][1], "uint8")
            for (low, low_code), (high, high_code) in itertools.pairwise(positive):
                # Half way goes to the even code.
                if rounding == "nearest":
                    middle = tirx.const((low + high) / 2, "float32")
                    to_high = high_code % 2 == 0 and low_code % 2 == 1
                    above = magnitude >= middle if to_high else magnitude > middle
                elif rounding == "up":
                    above = magnitude > tirx.const(low, "float32")
                else:
                    above = magnitude >= tirx.const(high, "float32")
                code = tirx.Select(above, tirx.const(high_code, "uint8"), code)
            last, before = positive[-1][0], positive[-2][0]
            limit = tirx.const(last + (last - before) / 2, "float32")
            code = tirx.Select(magnitude > limit, tirx.const(beyond, "uint8"), code)
            if saturate is False or infinite:
                endless = tirx.const(largest if saturate else beyond, "uint8")
                code = tirx.Select(magnitude >= tirx.infinity("float32"), endless, code)
            if signed:
                negative = tirx.any(value < 0, tirx.all(value == 0, 1.0 / value < 0))
                minus = tirx.const(128, "uint8")
                has_minus_zero = bool(values[128] == 0)
                flip = negative if has_minus_zero else tirx.all(negative, code != tirx.const(0, "uint8"))
                code = tirx.Select(flip, code | minus, code)
            # TVM takes ``value != value`` for false.
            number = tirx.any(value <= tirx.infinity("float32"), value >= tirx.infinity("float32"))
            return tirx.Select(number, code, tirx.const(nan, "uint8"))

        return te.compute(t.shape, at, name="float8_code")

    def as_float8(t: Any) -> Any:
        return te.compute(t.shape, lambda *i: tirx.reinterpret(kind, t(*i)), name="float8")

    code = builder.emit_te(define, wide, primfunc_name_hint="float8_code")
    return builder.emit_te(as_float8, code, primfunc_name_hint="float8")


def _cast(builder: Any, x: Any, wanted: str, attrs: dict[str, Any]) -> Any:
    have = dtype_of(x)
    if have == wanted or not (is_float8(have) or is_float8(wanted)):
        return None
    if is_float8(have) and not is_float8(wanted):
        return decoded(builder, x, wanted)
    if is_float8(have):
        x = builder.normalize(decoded(builder, x, "float32"))
    rounding = "nearest"
    if wanted == _SCALE:
        mode = attrs.get("round_mode", b"up")
        rounding = mode.decode() if isinstance(mode, bytes) else mode
    return encoded(builder, x, wanted, bool(attrs.get("saturate", 1)), rounding)


@with_builder
def _cast_to(builder: Any, inputs: Any, attrs: dict[str, Any]) -> Any:
    wanted = str(helper.tensor_dtype_to_np_dtype(int(attrs["to"])))
    return _cast(builder, inputs[0], wanted, attrs)


@with_builder
def _cast_like(builder: Any, inputs: Any, attrs: dict[str, Any]) -> Any:
    return _cast(builder, inputs[0], dtype_of(inputs[1]), attrs)


CONVERTERS: Mapping[str, Any] = {"Cast": _cast_to, "CastLike": _cast_like}
