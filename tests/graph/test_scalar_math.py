"""Accuracy of the elementary functions over all of float32, against double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from nets import TARGETS, Net, compile_for

# Below this, float32 loses digits; results there may be flushed to zero.
_TINY = 2.0**-126
_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


# The measured worst is in the comment; units in the last place of the result.
FUNCTIONS = {
    "Exp": (np.exp, 1.0),  # 0.98
    "Sigmoid": (_sigmoid, 2.5),  # 2.10
    "Tanh": (np.tanh, 1.5),  # 1.24
    "Erf": (_erf, 2.5),  # 2.34
    "Cosh": (np.cosh, 3.0),  # 2.55
    "Sinh": (np.sinh, 3.0),  # 2.63
}


def _samples() -> np.ndarray:
    """Bit patterns at equal distances (all exponents, denormals), and the interesting ranges densely."""
    bits = np.linspace(0, 0x7F7FFFFF, 50_000).astype(np.uint32)
    every = bits.view(np.float32)
    rng = np.random.default_rng(0)
    dense = [rng.uniform(-r, r, 50_000).astype(np.float32) for r in (1, 12, 104)]
    return np.concatenate([every, -every, *dense])


@pytest.fixture(scope="module")
def computed() -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """The samples, and each function's values on every target."""
    x = _samples()
    net = Net(opset=20)
    operand = net.input(len(x))
    names = [*FUNCTIONS, "Gelu", "Silu"]
    net.output(*[net.op(kind, operand) for kind in names[:-1]])
    net.output(net.op("Mul", operand, net.op("Sigmoid", operand)))
    artifacts = compile_for(net)
    return x, [dict(zip(names, a.run({"x0": x}).values(), strict=True)) for a in artifacts]


@pytest.mark.parametrize("target", range(len(TARGETS)))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_in_units_in_the_last_place(name: str, target: int, computed) -> None:
    x, results = computed
    function, most = FUNCTIONS[name]
    with np.errstate(over="ignore"):
        exact = function(x.astype(np.float64))
        rounded = exact.astype(np.float32)
    found = results[target][name]
    np.testing.assert_array_equal(np.isinf(found), np.isinf(rounded))
    finite = np.isfinite(rounded)
    error = np.abs(found[finite].astype(np.float64) - exact[finite])
    unit = np.spacing(np.abs(rounded[finite]), dtype=np.float32).astype(np.float64)
    normal = np.abs(exact[finite]) >= _TINY
    assert (error[normal] / unit[normal]).max() <= most
    assert error[~normal].max(initial=0.0) <= _TINY


@pytest.mark.parametrize("target", range(len(TARGETS)))
def test_gelu_and_silu_to_the_size_of_their_argument(target: int, computed) -> None:
    """x times a factor below one that is exact to about 2^-22: far below zero the digits cancel, as they do
    in the formulas that ONNX gives."""
    x, results = computed
    wide = x.astype(np.float64)
    exact = {"Gelu": 0.5 * wide * _erfc(-wide / math.sqrt(2)), "Silu": wide * _sigmoid(wide)}
    for name, right in exact.items():
        error = np.abs(results[target][name].astype(np.float64) - right)
        assert (error / (np.abs(wide) * 2.0**-23 + _TINY)).max() <= 2.0, name


def test_small_arguments_keep_their_digits(computed) -> None:
    """tanh(x) and erf(x) are x and 2x/sqrt(pi) for denormal x, not zero."""
    x, results = computed
    small = (np.abs(x) < 1e-38) & (np.abs(x) > 1e-44)
    assert small.any()
    np.testing.assert_allclose(results[0]["Tanh"][small], x[small], rtol=0, atol=1e-44)
    np.testing.assert_allclose(results[0]["Erf"][small], x[small] * 1.1283791670955126, rtol=0, atol=3e-45)
