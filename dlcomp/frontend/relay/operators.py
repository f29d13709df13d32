"""Relay operators by name: those that ONNX has under another name, and converters for the rest.

A converter takes the builder, the operands (tensors, or tuples of them) and the attributes as they were
printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dlcomp.frontend.relay import layers, quantized, shapes

Converter = Callable[[Any, list[Any], Mapping[str, Any]], Any]

# Same operands, same meaning, no attributes that matter.
PLAIN: Mapping[str, str] = {
    "abs": "Abs", "acos": "Acos", "acosh": "Acosh", "asin": "Asin", "asinh": "Asinh", "atan": "Atan",
    "atanh": "Atanh", "ceil": "Ceil", "copy": "Identity", "cos": "Cos", "cosh": "Cosh", "equal": "Equal",
    "erf": "Erf", "exp": "Exp", "floor": "Floor", "greater": "Greater", "greater_equal": "GreaterOrEqual",
    "isfinite": "IsInf", "less": "Less", "less_equal": "LessOrEqual", "log": "Log", "logical_and": "And",
    "logical_not": "Not", "logical_or": "Or", "logical_xor": "Xor", "add": "Add", "subtract": "Sub",
    "multiply": "Mul", "maximum": "Max", "minimum": "Min", "negative": "Neg", "nn.relu": "Relu",
    "power": "Pow", "sigmoid": "Sigmoid", "sign": "Sign", "sin": "Sin", "sinh": "Sinh", "sqrt": "Sqrt",
    "tan": "Tan", "tanh": "Tanh", "where": "Where", "annotation.stop_fusion": "Identity",
    "fast_exp": "Exp", "fast_tanh": "Tanh", "fast_erf": "Erf", "isinf": "IsInf", "isnan": "IsNaN",
    "nn.batch_flatten": "Flatten", "round": "Round", "nn.instance_norm": "InstanceNormalization",
    "device_copy": "Identity", "annotation.on_device": "Identity", "on_device": "Identity",
}  # fmt: skip

OPERATORS: Mapping[str, Converter] = {**layers.OPERATORS, **shapes.OPERATORS, **quantized.OPERATORS}
