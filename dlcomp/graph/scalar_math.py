"""Elementary functions as plain float32 arithmetic, so that they vectorize.

LLVM turns ``exp`` of a vector into one call of the C library a lane. These use the range reductions
and minimax polynomials of Cephes (Moshier, "Methods and Programs for Mathematical Functions", 1989)
and Abramowitz & Stegun 7.1.26's successors for erf; NaN stays NaN and infinities give their limits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

Expr = Any
_LOG2E = 1.4426950408889634
# log(2) in two parts: the first has few bits, so that n * LN2_HIGH is exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
# exp(r) = 1 + r + r^2 * P(r) on |r| <= log(2)/2, highest power first.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_FLOAT_MOST = float(np.finfo("float32").max)
_EXP_MOST, _EXP_LEAST = 88.72283, -87.33654


def f32(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(value, "float32")


def polynomial(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """Horner's rule, highest power first."""
    result = f32(coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + f32(coefficient)
    return result


# A comparison with NaN is false, so the inner choice gives ``b`` if that is NaN. ``a`` is NaN where it
# does not compare with infinity; TVM takes ``a != a`` for false, and does not vectorize its own test.
def maximum(a: Expr, b: Expr) -> Expr:
    """The larger; NaN if either is NaN."""
    return tirx.Select(a <= f32(np.inf), tirx.Select(a > b, a, b), a)


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller; NaN if either is NaN."""
    return tirx.Select(a >= f32(-np.inf), tirx.Select(a < b, a, b), a)


def sign(x: Expr) -> Expr:
    """-1, 0 or 1; NaN stays NaN."""
    return tirx.Select(x > f32(0.0), f32(1.0), tirx.Select(x < f32(0.0), f32(-1.0), x))


def square_root(x: Expr) -> Expr:
    """x^0.5 as a power: infinite for minus infinity."""
    return tirx.Select(x < f32(-_FLOAT_MOST), f32(np.inf), tirx.sqrt(x))


def clip(x: Expr, low: Expr, high: Expr) -> Expr:
    """``x`` held between constants; NaN stays NaN."""

    def lowered(raised: Expr) -> Expr:
        return tirx.Select(raised > high, high, raised)

    # Named: written out, a chain of them would double with every use of its operand.
    return shared("x", x, lambda x: shared("x", tirx.Select(x < low, low, x), lowered))


def relu(x: Expr) -> Expr:
    """The larger of ``x`` and zero; NaN stays NaN."""
    return shared("x", x, lambda x: tirx.Select(x < f32(0.0), f32(0.0), x))


def shared(name: str, value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """``body(value)`` with ``value`` computed once, however often ``body`` uses it."""
    var = tirx.Var(name, "float32")
    return tirx.Let(var, value, body(var))


def exp(x: Expr) -> Expr:
    """e^x, within 2 units in the last place; results below the normal range become 0."""

    def whole(x: Expr) -> Expr:
        # NaN is held at the lower end too: its power of two must not come from NaN, as r does.
        low, high = f32(_EXP_LEAST), f32(_EXP_MOST)
        held = tirx.Select(x > low, tirx.Select(x < high, x, high), low)
        n = tirx.floor(held * f32(_LOG2E) + f32(0.5))
        return shared("n", n, lambda n: limits(x, n))

    def limits(x: Expr, n: Expr) -> Expr:
        finite = tirx.Select(x < f32(_EXP_LEAST), f32(0.0), scaled(x, n))
        return tirx.Select(x > f32(_EXP_MOST), f32(np.inf), finite)

    def scaled(x: Expr, n: Expr) -> Expr:
        r = x - n * f32(_LN2_HIGH) - n * f32(_LN2_LOW)
        mantissa = shared("r", r, lambda r: polynomial(r, _EXP) * (r * r) + r + f32(1.0))
        # 2^n as two factors, because n may be 128.
        half = tirx.floor(n * f32(0.5))
        return shared("half", half, lambda half: mantissa * _power_of_two(half) * _power_of_two(n - half))

    return shared("x", x, whole)


def _power_of_two(n: Expr) -> Expr:
    whole = tirx.Cast("int32", n)
    return tirx.reinterpret("float32", (whole + tirx.const(127, "int32")) << tirx.const(23, "int32"))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x)."""
    return f32(1.0) / (f32(1.0) + exp(f32(0.0) - x))


def tanh(x: Expr) -> Expr:
    """Cephes: an odd polynomial for |x| < 0.625, else 1 - 2 / (e^2x + 1)."""

    def small(x: Expr) -> Expr:
        return shared("square", x * x, lambda square: x + x * square * polynomial(square, _TANH))

    def whole(x: Expr) -> Expr:
        size = tirx.abs(x)
        large = f32(1.0) - f32(2.0) / (exp(size + size) + f32(1.0))
        return tirx.Select(size < f32(0.625), small(x), _with_sign(x, large))

    return shared("x", x, whole)


Quotient = Callable[[Expr, Callable[[Expr, Expr], Expr]], Expr]


def sigmoid_quotient(x: Expr, body: Callable[[Expr, Expr], Expr]) -> Expr:
    """``body(numerator, denominator)`` of 1 / (1 + e^-x), for gates that share a division.

    Below -87 the value stays at 1.6e-38.
    """
    x = f32(0.0) - x
    bound = f32(-_EXP_LEAST)

    def whole(x: Expr) -> Expr:
        n = tirx.floor(x * f32(_LOG2E) + f32(0.5))
        return shared("n", n, lambda n: power(x - n * f32(_LN2_HIGH) - n * f32(_LN2_LOW), n))

    def power(r: Expr, n: Expr) -> Expr:
        mantissa = shared("r", r, lambda r: polynomial(r, _EXP) * (r * r) + r + f32(1.0))
        return body(f32(1.0), f32(1.0) + mantissa * _power_of_two(n))

    return shared("x", x, lambda x: shared("x", clip(x, f32(0.0) - bound, bound), whole))


def tanh_quotient(x: Expr, body: Callable[[Expr, Expr], Expr]) -> Expr:
    """``body(numerator, denominator)`` of tanh(x) as x P(x^2) / Q(x^2), within 4e-7.

    Minimax of the relative error on |x| < 8 (6e-9 in exact arithmetic), found by Lawson's iteration on
    the linearised problem; beyond, the value stays at tanh(8).
    """

    def whole(x: Expr) -> Expr:
        return shared("y", x * x, lambda y: body(x * polynomial(y, _TANH_ABOVE), polynomial(y, _TANH_BELOW)))

    return shared("x", x, lambda x: shared("x", clip(x, f32(-8.0), f32(8.0)), whole))


_TANH_ABOVE = (
    1.52306800292893e-08, 2.189484561181431e-05, 3.571609009406344e-03, 0.13444507188054391, 0.9999999936,
)  # fmt: skip
_TANH_BELOW = (
    8.522552182657403e-07, 3.411310093751392e-04, 0.02616448459161734, 0.46777834510675925, 1.0,
)  # fmt: skip


def cosh(x: Expr) -> Expr:
    """(e^x + e^-x) / 2, by e^(|x|/2) so that it overflows no earlier than its result."""
    return shared("half", exp(f32(0.5) * tirx.abs(x)), lambda h: f32(0.5) * h * h + f32(0.5) / h / h)


def sinh(x: Expr) -> Expr:
    """(e^x - e^-x) / 2; Cephes: an odd polynomial for |x| < 1."""

    def whole(x: Expr) -> Expr:
        small = shared("square", x * x, lambda square: x + x * square * polynomial(square, _SINH))
        half = exp(f32(0.5) * tirx.abs(x))
        large = shared("half", half, lambda h: f32(0.5) * h * h - f32(0.5) / h / h)
        return tirx.Select(tirx.abs(x) < f32(1.0), small, _with_sign(x, large))

    return shared("x", x, whole)


def erf(x: Expr) -> Expr:
    """Error function: x * P(x^2) for |x| < 1, else 1 - t * e^(Q(t) - x^2), t = 1 / (1 + |x| / 2)."""

    def whole(x: Expr) -> Expr:
        size = tirx.abs(x)
        small = shared("square", x * x, lambda square: x * polynomial(square, _ERF))
        t = f32(1.0) / (f32(1.0) + f32(0.5) * size)
        large = shared("t", t, lambda t: f32(1.0) - t * exp(polynomial(t, _ERFC) - x * x))
        return tirx.Select(size < f32(1.0), small, _with_sign(x, large))

    return shared("x", x, whole)


def gelu(x: Expr) -> Expr:
    """x * Phi(x), by erf."""
    half = f32(0.5)
    return shared("x", x, lambda x: half * x * (f32(1.0) + erf(x * f32(0.7071067811865476))))


def silu(x: Expr) -> Expr:
    """x * sigmoid(x)."""
    return shared("x", x, lambda x: x * sigmoid(x))


def _with_sign(x: Expr, magnitude: Expr) -> Expr:
    return shared("m", magnitude, lambda m: tirx.Select(x < f32(0.0), f32(0.0) - m, m))


_SINH = (2.03721912945e-4, 8.33028376239e-3, 1.66667160211e-1)
_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
# Maclaurin series of erf by powers of x^2 (converges below 1e-8 for |x| < 1 with ten terms).
_ERF = tuple(
    float(2 / np.sqrt(np.pi) * (-1) ** n / (np.prod(np.arange(1, n + 1, dtype=np.float64)) * (2 * n + 1)))
    for n in range(10, -1, -1)
)
# log(erfc(x) * e^(x^2) / t) as a polynomial in t: W. H. Press et al., Numerical Recipes, section 6.2.
_ERFC = (
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807,
    -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223,
)  # fmt: skip
