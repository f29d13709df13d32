"""Recurrent layers: their call in Relax to a kernel, or written out for a target without one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import IRModule, relax

from dlcomp.frontend.ops.recurrent import RECURRENCE
from dlcomp.graph.walk import array_of, constant, op_name, rebuild
from dlcomp.schedules.cpu.recurrence import kernel
from dlcomp.schedules.cpu.recurrence_blocking import blocking, passes, short_width
from dlcomp.schedules.workload import Recurrence
from dlcomp.target import Target

Expr = Any


def layer_of(call: Expr) -> tuple[Recurrence, list[Expr]] | None:
    """The layer and its operands, if ``call`` is the call of a recurrence."""
    if op_name(call) != "relax.call_pure_packed" or str(call.args[0].global_symbol) != RECURRENCE:
        return None
    return Recurrence(**json.loads(call.args[-1].value)), list(call.args[1:-1])


def with_kernels(module: IRModule, target: Target) -> IRModule:
    """``module`` with the kernel of every recurrence in its place."""

    def step(builder: relax.BlockBuilder, call: Expr) -> Expr:
        found = layer_of(call)
        if found is None:
            return call
        layer, (x, weight, *others) = found
        blocks = blocking(layer, target)
        columns = layer.rank or layer.hidden
        whole = (layer.gates, layer.hidden, columns)
        packed = [_packed(builder, weight, whole, group, blocks.width) for group in passes(layer)]
        if layer.rank:
            first, *others = others
            short = (1, layer.rank, layer.hidden)
            packed.append(_packed(builder, first, short, (0,), short_width(layer, blocks.rows, target)))
        function = builder.add_func(kernel(layer, blocks, target), layer.kind.lower())
        (returned,) = call.ty_args
        types = list(returned.fields)
        return relax.call_tir(function, [x, *packed, *others], types)

    return rebuild(module, step)


def _packed(
    builder: relax.BlockBuilder, weight: Expr, shape: tuple[int, int, int], group: Sequence[int], width: int
) -> Expr:
    """(directions, gates * units, columns) to (directions, blocks, columns, len(group) * width).

    ``shape`` are gates, units and columns.
    """
    gates, units, columns = shape
    directions = int(weight.ty.shape[0])
    blocks = -(-units // width)
    array = array_of(weight)
    if array is not None:
        parts = array.reshape(directions, gates, units, columns)[:, list(group)]
        parts = np.pad(parts, ((0, 0), (0, 0), (0, blocks * width - units), (0, 0)))
        parts = parts.reshape(directions, len(group), blocks, width, columns).transpose(0, 2, 4, 1, 3)
        return constant(parts.reshape(directions, blocks, columns, len(group) * width))

    def emit(expr: Expr) -> Expr:
        return builder.emit(expr)

    parts = emit(relax.op.reshape(weight, (directions, gates, units, columns)))
    parts = emit(relax.op.strided_slice(parts, [1], [group[0]], [group[-1] + 1]))
    if blocks * width != units:
        parts = emit(relax.op.nn.pad(parts, [0, 0, 0, 0, 0, blocks * width - units, 0, 0]))
    parts = emit(relax.op.reshape(parts, (directions, len(group), blocks, width, columns)))
    parts = emit(relax.op.permute_dims(parts, [0, 2, 4, 1, 3]))
    return emit(relax.op.reshape(parts, (directions, blocks, columns, len(group) * width)))


def written_out(module: IRModule) -> IRModule:
    """``module`` with every recurrence as ordinary operators, step by step."""

    def step(builder: relax.BlockBuilder, call: Expr) -> Expr:
        found = layer_of(call)
        return call if found is None else _Steps(builder, *found).run()

    return rebuild(module, step)


_FUNCTIONS = {"Sigmoid": relax.op.sigmoid, "Tanh": relax.op.tanh, "Relu": relax.op.nn.relu}


class _Steps:
    """The equations of ONNX's LSTM, GRU and RNN in Relax; gates in ONNX's order."""

    def __init__(self, builder: relax.BlockBuilder, layer: Recurrence, operands: list[Expr]) -> None:
        self.builder, self.layer = builder, layer
        self.x, self.weight, *others = operands
        self.short = others.pop(0) if layer.rank else None
        self.first, *others = others
        self.cell = others[0] if layer.kind == "LSTM" else None
        self.inside = others[0] if layer.reset_after else None
        self.functions = [_FUNCTIONS[name] for name in layer.activations.split(",")]

    def emit(self, expr: Expr) -> Expr:
        return self.builder.emit(expr)

    def run(self) -> Expr:
        layer = self.layer
        runs = [self._direction(d) for d in range(layer.directions)]
        axes = (1, 0, 0) if layer.kind == "LSTM" else (1, 0)
        parts = [[run[place] for run in runs] for place in range(len(axes))]
        return relax.Tuple(
            [self.emit(relax.op.concat(part, axis=axis)) for part, axis in zip(parts, axes, strict=True)]
        )

    def _direction(self, direction: int) -> list[Expr]:
        """All states (steps, 1, batch, hidden), the last one and, for an LSTM, the last cell."""
        layer = self.layer
        shape = (layer.batch, layer.hidden)
        weight = self._turned(self.weight, direction)
        short = self._turned(self.short, direction) if self.short is not None else None
        state = self._pick(self.first, direction)
        cell = self._pick(self.cell, direction) if self.cell is not None else None
        inside = self._pick(self.inside, direction) if self.inside is not None else None
        order = range(layer.steps)
        if layer.backward or direction == 1:
            order = order[::-1]
        states: dict[int, Expr] = {}
        columns = layer.gates * layer.hidden
        for place in order:
            x = self._pick(self._part(self.x, 2, direction * columns, (direction + 1) * columns), place)
            seen = state if short is None else self.emit(relax.op.matmul(state, short))
            if layer.kind == "LSTM":
                state, cell = self._lstm(x, seen, cell, weight)
            elif layer.kind == "GRU":
                state = self._gru(x, state, seen, weight, inside)
            else:
                state = self.emit(self.functions[0](self._sum(x, self.emit(relax.op.matmul(seen, weight)))))
            states[place] = state
        every = [self.emit(relax.op.reshape(states[place], (1, 1, *shape))) for place in range(layer.steps)]
        ends = [state] if cell is None else [state, cell]
        return [
            self.emit(relax.op.concat(every, axis=0)),
            *(self.emit(relax.op.reshape(end, (1, *shape))) for end in ends),
        ]

    def _turned(self, weight: Expr, direction: int) -> Expr:
        """The weight of one direction, inputs by outputs."""
        return self.emit(relax.op.permute_dims(self._pick(weight, direction), [1, 0]))

    def _pick(self, value: Expr, index: int) -> Expr:
        part = self.emit(relax.op.strided_slice(value, [0], [index], [index + 1]))
        return self.emit(relax.op.squeeze(part, [0]))

    def _part(self, value: Expr, axis: int, begin: int, end: int) -> Expr:
        return self.emit(relax.op.strided_slice(value, [axis], [begin], [end]))

    def _gate(self, value: Expr, gate: int) -> Expr:
        return self._part(value, 1, gate * self.layer.hidden, (gate + 1) * self.layer.hidden)

    def _sum(self, a: Expr, b: Expr) -> Expr:
        return self.emit(relax.op.add(a, b))

    def _times(self, a: Expr, b: Expr) -> Expr:
        return self.emit(relax.op.multiply(a, b))

    def _lstm(self, x: Expr, seen: Expr, cell: Expr, weight: Expr) -> tuple[Expr, Expr]:
        gate, candidate, output = self.functions
        total = self._sum(x, self.emit(relax.op.matmul(seen, weight)))
        enter, leave, keep = (self.emit(gate(self._gate(total, g))) for g in (0, 1, 2))
        new = self.emit(candidate(self._gate(total, 3)))
        cell = self._sum(self._times(keep, cell), self._times(enter, new))
        return self._times(leave, self.emit(output(cell))), cell

    def _gru(self, x: Expr, state: Expr, seen: Expr, weight: Expr, inside: Expr | None) -> Expr:
        """``seen`` is the state as the weight reads it: itself, or shortened."""
        gate, candidate = self.functions
        hidden = self.layer.hidden
        both = self._part(weight, 1, 0, 2 * hidden)
        total = self._sum(self._part(x, 1, 0, 2 * hidden), self.emit(relax.op.matmul(seen, both)))
        update, reset = (self.emit(gate(self._gate(total, g))) for g in (0, 1))
        last = self._part(weight, 1, 2 * hidden, 3 * hidden)
        if inside is not None:
            past = self._sum(self.emit(relax.op.matmul(seen, last)), inside)
            past = self._times(reset, past)
        else:
            past = self.emit(relax.op.matmul(self._times(reset, state), last))
        new = self.emit(candidate(self._sum(self._gate(x, 2), past)))
        rest = self.emit(relax.op.subtract(relax.const(1.0, "float32"), update))
        return self._sum(self._times(rest, new), self._times(update, state))
