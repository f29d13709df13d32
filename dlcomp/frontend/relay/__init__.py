"""Networks saved as Relay text, which TVM 0.8 to 0.19 printed, as ONNX networks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

__all__ = ["is_relay", "to_onnx"]


def is_relay(text: bytes) -> bool:
    """Whether a file begins as Relay text does."""
    head = text[:4096].lstrip()
    return head.startswith((b"#[version", b"def @", b"fn (", b"free_var %"))


def to_onnx(text: str, name: str, values: Mapping[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """The network of a Relay module.

    Parameters
    ----------
    text : str
        What ``mod.astext()`` or ``print(mod)`` wrote, with its ``#[metadata]`` section if it has constants.
    name : str
        For messages.
    values : mapping of str to array, optional
        Parameters of ``main`` that are weights, by name.

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
    return convert(module, constants_of(stored, name), values or {}, name)
