"""Networks saved as Relay text, which TVM 0.8 to 0.19 printed, as ONNX networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

__all__ = ["PRODUCER", "is_relay", "to_onnx"]

# How an ONNX network says that it was Relay text.
PRODUCER = "Relay text"


def is_relay(text: bytes) -> bool:
    """Whether a file begins as Relay text does."""
    head = text[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    return re.match(rb"#\[version|def @|fn ?\(|free_var %|type \w+ ?[\[{]", head) is not None


def to_onnx(
    text: str,
    name: str,
    values: Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, Sequence[Any]] | None = None,
) -> onnx.ModelProto:
    """The network of a Relay module.

    Parameters
    ----------
    text : str
        What ``mod.astext()`` or ``print(mod)`` wrote, with its ``#[metadata]`` section if it has constants.
    name : str
        For messages.
    values : mapping of str to array, optional
        Parameters of ``main`` that are weights, by name.
    shapes : mapping of str to sequence of int, optional
        Of parameters that were printed with open dimensions (``?``), by name.

    Raises
    ------
    ModelError
        With the line and column: text that is no Relay, operators that are not known (all at once), operands
        that do not fit, constants whose metadata is missing.
    """
    from dlcomp.frontend.relay.convert import convert
    from dlcomp.frontend.relay.metadata import constants_of
    from dlcomp.frontend.relay.parse import parse

    code, _, stored = text.partition("#[metadata]")
    module = parse(code, name)
    first = code.count("\n") + 1
    return convert(module, constants_of(stored, name, first), values or {}, shapes or {}, name)
