"""What a network keeps from one run to the next, as inputs and outputs of its own.

Streaming networks read a variable, and assign it for the next run. A compiled network keeps nothing: the
variable is one more input, ``NAME``, and its new value one more output, ``NAME_next``. The value that the
file starts with is noted in the ONNX network's metadata as ``initial NAME``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlcomp.frontend.builder import OPEN, Tensor
from dlcomp.frontend.tflite.builder import Builder
from dlcomp.frontend.tflite.network import Info, Operation

KINDS = frozenset({"ASSIGN_VARIABLE", "CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE"})


class Variables:
    """The variables of one network, by name."""

    def __init__(self, builder: Builder) -> None:
        self._b = builder
        self._names: dict[int, str] = {}
        self._now: dict[str, Tensor] = {}
        self._assigned: list[str] = []

    def handle(self, op: Operation) -> None:
        """``VAR_HANDLE``: a tensor that stands for a variable."""
        self._names[op.outputs[0]] = name_of(op)

    def read(self, op: Operation, result: Info) -> Tensor:
        """The value now: that of the input, unless this run assigned another.

        Raises
        ------
        ValueError
            Its operand is no variable, or its dimensions are open.
        """
        name = self._name(op)
        if name not in self._now:
            if OPEN in result.shape:
                raise ValueError(f"the variable {name!r} has the open shape {list(result.shape)}")
            if name in {value.name for value in self._b.inputs}:
                raise ValueError(f"a variable and an input have the name {name!r}")
            self._now[name] = self._b.input(name, result.shape, result.dtype)
        return self._now[name]

    def assign(self, op: Operation, value: Tensor) -> None:
        name = self._name(op)
        self._now[name] = value
        if name not in self._assigned:
            self._assigned.append(name)

    def outputs(self) -> Iterator[tuple[str, Tensor]]:
        """The values for the next run."""
        for name in self._assigned:
            yield f"{name}_next", self._now[name]

    def _name(self, op: Operation) -> str:
        if not op.inputs or op.inputs[0] not in self._names:
            raise ValueError("its operand is no variable")
        return self._names[op.inputs[0]]


def name_of(op: Operation) -> str:
    """The name that a handle gives."""
    name = op.options.get("SharedName", b"") or b""
    return bytes(name).decode() or f"variable{op.outputs[0]}"


def initial(graph: tuple[Sequence[Info], Sequence[Operation]]) -> dict[str, str] | None:
    """What a graph that runs once assigns, by variable: the one number everywhere, or all of them.

    None if it does more than that.
    """
    tensors, operations = graph
    names: dict[int, str] = {}
    values = {}
    for op in operations:
        if op.kind == "VAR_HANDLE" and len(op.outputs) == 1:
            names[op.outputs[0]] = name_of(op)
        elif op.kind == "ASSIGN_VARIABLE" and len(op.inputs) == 2 and op.inputs[0] in names:
            data = tensors[op.inputs[1]].data
            if data is None or not data.size:
                return None
            alike = bool((data == data.reshape(-1)[0]).all())
            values[names[op.inputs[0]]] = str(data.reshape(-1)[0] if alike else data.tolist())
        else:
            return None
    return values
