"""The parts of a Relay module, each with its place in the text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, order=True)
class Place:
    """Line and column, from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


@dataclass(frozen=True)
class TensorType:
    """Shape (None for ``?``) and the name of the element type."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Node:
    place: Place


@dataclass(frozen=True)
class Variable(Node):
    name: str


@dataclass(frozen=True)
class Global(Node):
    name: str


@dataclass(frozen=True)
class Operator(Node):
    name: str


@dataclass(frozen=True)
class Number(Node):
    value: Any
    dtype: str


@dataclass(frozen=True)
class Constant(Node):
    """``meta[relay.Constant][index]``."""

    kind: str
    index: int


@dataclass(frozen=True)
class TupleOf(Node):
    fields: tuple[Any, ...]


@dataclass(frozen=True)
class Projection(Node):
    value: Any
    index: int


@dataclass(frozen=True)
class Call(Node):
    callee: Any
    arguments: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Branch(Node):
    condition: Any
    then: Any
    other: Any


@dataclass(frozen=True)
class Block(Node):
    """Bindings in order, then the value."""

    bindings: tuple[tuple[str, Any], ...]
    value: Any


@dataclass(frozen=True)
class Function(Node):
    parameters: tuple[tuple[str, Any], ...]
    body: Block


@dataclass(frozen=True)
class Module:
    functions: dict[str, Function]
