"""LSTM, GRU and RNN as ordinary operators: one product for the inputs of all steps, then step after step.

Equations and layouts are those of ONNX's LSTM, GRU and RNN (opsets 7 to 22). Every step is written out, so
that a long sequence makes a long program; the shape of a step's operators is the same, and so is their code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from dlcomp.frontend.macs import Shapes
from dlcomp.frontend.writer import Writer, attributes_of, stack

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULT = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
# Those that kernels compute, by their names in small letters.
_IN_KERNELS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
# Operators of ONNX with parameters of the same names, and their defaults.
_PARAMETERS = {
    "LeakyRelu": {"alpha": 0.01},
    "ThresholdedRelu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Elu": {"alpha": 1.0},
}
_PLAIN = frozenset({"Sigmoid", "Tanh", "Relu", "Softsign", "Softplus"})

Activation = Callable[[str], str]


def is_plain(node: onnx.NodeProto) -> bool:
    """Whether the recurrence of ``node`` is one that kernels are written for.

    No clipping, peepholes, coupled gates or sequence lengths, and common activations, the same in both
    directions; others are written out step by step.
    """
    attributes = attributes_of(node)
    operands = [*node.input, *[""] * 8]
    if operands[4] or operands[7] or "clip" in attributes or attributes.get("input_forget", 0):
        return False
    return plain_activations(node.op_type, attributes) is not None


def plain_activations(kind: str, attributes: Mapping[str, Any]) -> tuple[str, ...] | None:
    """ONNX's names for one direction; None if no kernel knows one, or the directions differ."""
    listed = [text(name).lower() for name in attributes.get("activations", [])]
    count = len(_DEFAULT[kind])
    if not listed:
        return _DEFAULT[kind]
    if any(name not in _IN_KERNELS for name in listed) or listed[:count] * (len(listed) // count) != listed:
        return None
    return tuple(_IN_KERNELS[name] for name in listed[:count])


def text(value: Any) -> str:
    """A string attribute as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def write_out(node: onnx.NodeProto, shapes: Shapes, writer: Writer) -> bool:
    """Write ``node`` as other operators; False if its shapes are not known or an activation is not."""
    wanted = [shapes.get(name) for name in node.input[:3]]
    if any(shape is None for shape in wanted):
        return False
    attributes = attributes_of(node)
    layer = _Layer(node, shapes, attributes, writer)
    if layer.activations is None:
        return False
    results = [layer.run(direction) for direction in range(layer.directions)]
    layer.finish(results)
    return True


class _Layer:
    """What all steps of a layer share."""

    def __init__(
        self, node: onnx.NodeProto, shapes: Shapes, attributes: dict[str, Any], writer: Writer
    ) -> None:
        self.node, self.attributes, self.writer = node, attributes, writer
        self.kind = node.op_type
        self.names = [*node.input, *[""] * (8 - len(node.input))]
        self.layout = int(attributes.get("layout", 0))
        x = shapes[node.input[0]]
        self.steps, self.batch = (x[1], x[0]) if self.layout else (x[0], x[1])
        self.directions, rows, _ = shapes[node.input[1]]
        self.hidden = rows // GATES[self.kind]
        self.clip = attributes.get("clip")
        direction = attributes.get("direction", b"forward")
        self.direction = direction.decode() if isinstance(direction, bytes) else str(direction)
        self.activations = self._activations()

    def _activations(self) -> list[list[Activation]] | None:
        default = _DEFAULT[self.kind]
        listed = [n.decode() for n in self.attributes.get("activations", [])] or [*default] * self.directions
        alphas, betas = (
            list(self.attributes.get("activation_alpha", [])),
            list(self.attributes.get("activation_beta", [])),
        )
        made = [self._activation(name, alphas, betas) for name in listed]
        if any(function is None for function in made):
            return None
        count = len(default)
        return [[f for f in made[i * count : (i + 1) * count] if f] for i in range(self.directions)]

    def _activation(self, name: str, alphas: list[float], betas: list[float]) -> Activation | None:
        """One activation; it takes its parameters from the front of the lists."""
        name = next((n for n in (*_PLAIN, *_PARAMETERS) if n.lower() == name.lower()), name)
        op = self.writer.op
        if name in _PLAIN:
            return lambda x: op(name, [x])
        if name in _PARAMETERS:
            values: dict[str, Any] = dict(_PARAMETERS[name])
            if alphas:
                values["alpha"] = alphas.pop(0)
            if "beta" in values and betas:
                values["beta"] = betas.pop(0)
            return lambda x: op(name, [x], **values)
        return None

    # -- small operators -------------------------------------------------------------------------------------

    def number(self, value: float) -> str:
        return self.writer.constant(np.array(value, np.float32), "number")

    def add(self, *terms: str) -> str:
        total = terms[0]
        for term in terms[1:]:
            total = self.writer.op("Add", [total, term])
        return total

    def times(self, a: str, b: str) -> str:
        return self.writer.op("Mul", [a, b])

    def clipped(self, x: str) -> str:
        if self.clip is None:
            return x
        return self.writer.op("Clip", [x, self.number(-self.clip), self.number(self.clip)])

    def part(self, x: str, axis: int, begin: int, end: int) -> str:
        bounds = [self.writer.constant(np.array([v], np.int64), "bound") for v in (begin, end, axis)]
        return self.writer.op("Slice", [x, *bounds])

    def pick(self, x: str, index: int, axis: int = 0) -> str:
        return self.writer.op(
            "Gather", [x, self.writer.constant(np.array(index, np.int64), "index")], axis=axis
        )

    # -- one direction ---------------------------------------------------------------------------------------

    def run(self, direction: int) -> tuple[str, str, str]:
        """(all states (steps, batch, hidden), the last state, the last cell or ``""``)."""
        op = self.writer.op
        backward = self.direction == "reverse" or direction == 1
        x = op("Transpose", [self.names[0]], perm=[1, 0, 2]) if self.layout else self.names[0]
        weight, recurrent = (self.pick(self.names[i], direction) for i in (1, 2))
        lengths = self.names[4]
        if backward and lengths:
            x = op("ReverseSequence", [x, lengths], time_axis=0, batch_axis=1)
        projected = op("MatMul", [x, op("Transpose", [weight], perm=[1, 0])])
        width = GATES[self.kind] * self.hidden
        input_bias = recurrent_bias = ""
        if self.names[3]:
            bias = self.pick(self.names[3], direction)
            input_bias, recurrent_bias = self.part(bias, 0, 0, width), self.part(bias, 0, width, 2 * width)
            projected = self.add(projected, input_bias)
        step = self._stepper(direction, op("Transpose", [recurrent], perm=[1, 0]), recurrent_bias)
        state, cell = self._initial(5, direction), self._initial(6, direction) if self.kind == "LSTM" else ""
        states = []
        for turn in range(self.steps):
            # Sequences that were reversed by their lengths run forward here.
            place = self.steps - 1 - turn if backward and not lengths else turn
            new, new_cell = step(self.pick(projected, place), state, cell)
            shown = new
            if lengths:
                active = self._active(lengths, turn)
                shown = self.times(new, op("Cast", [active], to=onnx.TensorProto.FLOAT))
                new = op("Where", [active, new, state])
                new_cell = op("Where", [active, new_cell, cell]) if cell else ""
            state, cell = new, new_cell
            states.append(shown)
        if backward and not lengths:
            states = states[::-1]
        every = self.writer.name("states")
        stack(self.writer, states, 0, every)
        if backward and lengths:
            every = op("ReverseSequence", [every, lengths], time_axis=0, batch_axis=1)
        return every, state, cell

    def _initial(self, place: int, direction: int) -> str:
        if not self.names[place]:
            return self.writer.constant(np.zeros((self.batch, self.hidden), np.float32), "zeros")
        return self.pick(self.names[place], direction, 1 if self.layout else 0)

    def _active(self, lengths: str, turn: int) -> str:
        """(batch, 1): whether a sequence still goes on."""
        now = self.writer.constant(np.array(turn, np.int32), "turn")
        longer = self.writer.op("Greater", [lengths, now])
        return self.writer.op(
            "Reshape", [longer, self.writer.constant(np.array([-1, 1], np.int64), "column")]
        )

    def _stepper(
        self, direction: int, recurrent: str, bias: str
    ) -> Callable[[str, str, str], tuple[str, str]]:
        assert self.activations is not None
        functions = self.activations[direction]
        if self.kind == "RNN":
            return lambda x, state, cell: (self._rnn(functions, recurrent, bias, x, state), "")
        if self.kind == "GRU":
            return lambda x, state, cell: (self._gru(functions, recurrent, bias, x, state), "")
        peepholes = self.pick(self.names[7], direction) if self.names[7] else ""
        return lambda x, state, cell: self._lstm(functions, recurrent, bias, peepholes, x, state, cell)

    def _recurred(self, state: str, recurrent: str, bias: str) -> str:
        product = self.writer.op("MatMul", [state, recurrent])
        return self.add(product, bias) if bias else product

    def _rnn(self, functions: Sequence[Activation], recurrent: str, bias: str, x: str, state: str) -> str:
        return functions[0](self.clipped(self.add(x, self._recurred(state, recurrent, bias))))

    def _gru(self, functions: Sequence[Activation], recurrent: str, bias: str, x: str, state: str) -> str:
        """Gates in ONNX's order: update, reset, hidden."""
        size, (gate, hidden) = self.hidden, functions
        before = bool(self.attributes.get("linear_before_reset", 0))
        if before:
            past = self._recurred(state, recurrent, bias)
        else:
            columns = self.part(recurrent, 1, 0, 2 * size)
            past = self._recurred(state, columns, self.part(bias, 0, 0, 2 * size) if bias else "")
        both = self.add(self.part(x, 1, 0, 2 * size), self.part(past, 1, 0, 2 * size) if before else past)
        both = gate(self.clipped(both))
        update, reset = self.part(both, 1, 0, size), self.part(both, 1, size, 2 * size)
        if before:
            inner = self.times(reset, self.part(past, 1, 2 * size, 3 * size))
        else:
            columns = self.part(recurrent, 1, 2 * size, 3 * size)
            last = self.part(bias, 0, 2 * size, 3 * size) if bias else ""
            inner = self._recurred(self.times(reset, state), columns, last)
        new = hidden(self.clipped(self.add(self.part(x, 1, 2 * size, 3 * size), inner)))
        rest = self.writer.op("Sub", [self.number(1.0), update])
        return self.add(self.times(rest, new), self.times(update, state))

    def _lstm(
        self,
        functions: Sequence[Activation],
        recurrent: str,
        bias: str,
        peepholes: str,
        x: str,
        state: str,
        cell: str,
    ) -> tuple[str, str]:
        """Gates in ONNX's order: input, output, forget, cell."""
        gate, candidate, output = functions
        total = self.add(x, self._recurred(state, recurrent, bias))
        i, o, f, c = (self.part(total, 1, k * self.hidden, (k + 1) * self.hidden) for k in range(4))

        def seen(value: str, place: int, by: str) -> str:
            """``value`` with what the gate sees of the cell."""
            if not peepholes:
                return value
            weight = self.part(peepholes, 0, place * self.hidden, (place + 1) * self.hidden)
            return self.add(value, self.times(weight, by))

        enter = gate(self.clipped(seen(i, 0, cell)))
        if self.attributes.get("input_forget", 0):
            keep = self.writer.op("Sub", [self.number(1.0), enter])
        else:
            keep = gate(self.clipped(seen(f, 2, cell)))
        new_cell = self.add(self.times(keep, cell), self.times(enter, candidate(self.clipped(c))))
        leave = gate(self.clipped(seen(o, 1, new_cell)))
        return self.times(leave, output(new_cell)), new_cell

    # -- outputs ---------------------------------------------------------------------------------------------

    def finish(self, results: Sequence[tuple[str, str, str]]) -> None:
        """Y (steps, directions, batch, hidden), Y_h and Y_c; with the batch first in layout 1."""
        outputs = [*self.node.output, "", "", ""][:3]
        axis = 1 if not self.layout else 2
        for place, output in enumerate(outputs):
            if not output:
                continue
            parts = [result[place] for result in results]
            if place == 0:
                if self.layout:
                    parts = [self.writer.op("Transpose", [part], perm=[1, 0, 2]) for part in parts]
                stack(self.writer, parts, axis, output)
            else:
                stack(self.writer, parts, 1 if self.layout else 0, output)
