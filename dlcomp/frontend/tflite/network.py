"""What a TFLite file says, as plain values: tensors, operators in their order, inputs and outputs."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Quantization:
    """The numbers behind integers: ``(q - zero) * scale``.

    Attributes
    ----------
    scales : array of float32, (1,) or (channels,)
    zeros : array of int64, as many
    axis : int
        Of the channels.
    """

    scales: np.ndarray
    zeros: np.ndarray
    axis: int

    def same(self, other: Quantization) -> bool:
        return np.array_equal(self.scales, other.scales) and np.array_equal(self.zeros, other.zeros)


@dataclass(frozen=True)
class Info:
    """One tensor of the file.

    Attributes
    ----------
    shape : tuple of int
        -1 where the file leaves a dimension open.
    dtype : str
        NumPy's name, or the format's own where NumPy has none (``string``, ``resource``).
    data : array, optional
        Of a constant, in ``shape``.
    variable : bool
        Whether an operator changes it in place; it begins with zeros.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None
    data: np.ndarray | None
    variable: bool = False


class Options:
    """The options of one operator by name; what the file leaves out has the schema's default.

    ``table`` is the schema's class for them, None if the operator has none.
    """

    def __init__(self, table: Any = None, custom: bytes = b"") -> None:
        self._table, self.custom = table, custom

    def get(self, name: str, default: Any = 0) -> Any:
        """``default`` counts only for an operator that has no options at all.

        Raises
        ------
        ValueError
            The options are of another operator's kind.
        """
        if self._table is None:
            return default
        read = getattr(self._table, name, None)
        if read is None:
            raise ValueError(f"its options ({type(self._table).__name__}) have no {name}")
        try:
            return read()
        except (struct.error, TypeError) as error:
            raise ValueError(f"its option {name} lies outside the file: {error}") from error

    def whole(self, name: str, default: int = 0) -> int:
        return int(self.get(name, default))

    def real(self, name: str, default: float = 0.0) -> float:
        return float(self.get(name, default))

    def flag(self, name: str) -> bool:
        return bool(self.get(name, False))

    def wholes(self, name: str) -> list[int]:
        """A vector of whole numbers; empty if there is none."""
        found = self.get(f"{name}AsNumpy", None)
        return [] if found is None or isinstance(found, int) else [int(v) for v in found]


@dataclass(frozen=True)
class Operation:
    """One operator: its kind is the schema's name, or ``CUSTOM`` and the custom one's name; -1 is an operand
    that is left out."""

    place: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Options


@dataclass(frozen=True)
class Network:
    """The first subgraph of a file.

    Attributes
    ----------
    inputs, outputs : sequence of (str, int)
        The name for the user, and the tensor.
    before : sequence of (tensors, operators)
        Graphs that run once, before all else.
    """

    tensors: tuple[Info, ...]
    operations: tuple[Operation, ...]
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    before: tuple[tuple[tuple[Info, ...], tuple[Operation, ...]], ...] = ()
