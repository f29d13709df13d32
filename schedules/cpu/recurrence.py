"""A recurrent layer as one kernel: all steps, states in cache, gates computed on the accumulators.

Per step and block of hidden units the kernel multiplies the state by the block's columns of all gates, so
that the gates of a unit meet in registers, applies the activations and writes the new state. Weights are
packed by block: (directions, blocks, hidden, gates * width). Batch rows and directions are shared among
the cores for the whole sequence; a single large sequence shares the blocks of each step instead.

Where the weight is a product of two, the state is first multiplied by the right one, once for all gates, and
blocks read what that gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from dlcomp.graph import scalar_math
from dlcomp.schedules.cpu.emit import (
    Expr,
    Stmt,
    alloc,
    const,
    loop,
    open_loop,
    scratch,
    seq,
    splat,
    vload,
    vstore,
)
from dlcomp.schedules.cpu.recurrence_blocking import Blocking, passes
from dlcomp.schedules.cpu.recurrence_short import Short
from dlcomp.schedules.cpu.tile import Accumulators, by_block, lanes_of, multiply_accumulate, pieces
from dlcomp.schedules.parallel import parallel_kind
from dlcomp.schedules.workload import ANNOTATION, KNOBS, Recurrence, to_text
from dlcomp.target import Target

_ONE = scalar_math.f32(1.0)
# Operations that an open number of steps or rows is taken for.
_LARGE = 1 << 30
# As quotients, so that the product of two takes one division.
ACTIVATIONS: dict[str, scalar_math.Quotient] = {
    "Sigmoid": scalar_math.sigmoid_quotient,
    "Tanh": scalar_math.tanh_quotient,
    "Relu": lambda x, body: body(scalar_math.maximum(x, scalar_math.f32(0.0)), _ONE),
}


def _value(function: scalar_math.Quotient, x: Expr, factor: Expr | None = None) -> Expr:
    """``function(x)``, times a factor."""
    return function(x, lambda n, d: (n if factor is None else n * factor) / d)


def _product(f: scalar_math.Quotient, x: Expr, g: scalar_math.Quotient, y: Expr) -> Expr:
    """``f(x) * g(y)``."""
    return f(x, lambda n, d: g(y, lambda m, e: (n * m) / (d * e)))


def _over(name: str, extent: Any, body: Callable[[Expr], Stmt], kind: str = "serial") -> Stmt:
    return loop(name, extent, body, kind) if isinstance(extent, int) else open_loop(name, extent, body, kind)


def kernel(layer: Recurrence, blocks: Blocking, target: Target) -> Any:
    """The PrimFunc of ``layer``.

    Parameters of the function, all float32: the projected inputs (steps, batch, directions * gates *
    hidden) with biases added, a packed weight for each of :func:`passes` (with a ``rank`` the left factor,
    then the right one, both packed), the first states (directions, batch, hidden), for an LSTM the first
    cells, for a GRU with ``reset_after`` the bias (directions, hidden) inside the reset; then the results:
    states (steps, directions, batch, hidden), the last of each direction (directions, batch, hidden) and,
    for an LSTM, the last cells in the same form.
    """
    return _Kernel(layer, blocks, target).function()


class _Kernel:
    def __init__(self, layer: Recurrence, blocks: Blocking, target: Target) -> None:
        self.layer, self.lanes = layer, lanes_of(target)
        self.rows, self.width = blocks.rows, blocks.width
        self.blocks = -(-layer.hidden // self.width)
        # What is open is a variable of the function, bound by the shape of its operands.
        self.steps: Any = layer.steps or tirx.Var("steps", "int64")
        self.batch: Any = layer.batch or tirx.Var("batch", "int64")
        self.tiles = self.batch if not layer.batch else -(-layer.batch // self.rows)
        tasks = layer.directions * (self.tiles if layer.batch else max(2, target.cores))
        whole = parallel_kind(layer.flops or _LARGE, target)
        self.outer = whole if tasks > 1 else "serial"
        per_step = layer.flops // (max(1, layer.steps) * tasks)
        self.inner = parallel_kind(per_step, target) if tasks == 1 and self.blocks > 1 else "serial"
        self.functions = [ACTIVATIONS[name] for name in layer.activations.split(",")]
        # What the gates multiply: the state, or what is left of it.
        self.columns = layer.rank or layer.hidden
        self.short = Short(layer, self.rows, target) if layer.rank else None
        self._declare()

    def _declare(self) -> None:
        layer = self.layer

        def buffer(name: str, *shape: Any) -> Any:
            return tirx.decl_buffer(shape, "float32", name=name)

        states = (layer.directions, self.batch, layer.hidden)
        self.x = buffer("x", self.steps, self.batch, layer.directions * layer.gates * layer.hidden)
        self.weights = [
            buffer(f"w{i}", layer.directions, self.blocks, self.columns, len(group) * self.width)
            for i, group in enumerate(passes(layer))
        ]
        self.first = buffer("first", *states)
        self.first_cell = buffer("first_cell", *states)
        self.inside = buffer("inside", layer.directions, layer.hidden)
        self.y = buffer("y", self.steps, *states)
        self.last = buffer("last", *states)
        self.last_cell = buffer("last_cell", *states)
        # Of one task: the states that a step begins with and those that it makes, and what else it hands on.
        self.state = scratch("state", (self.rows, layer.hidden))
        self.new = scratch("new", (self.rows, layer.hidden))
        self.cell = scratch("cell", (self.rows, layer.hidden))
        self.held = scratch("held", (self.rows, layer.hidden))

    def function(self) -> Any:
        lstm = self.layer.kind == "LSTM"
        operands = [self.x, *self.weights, *([self.short.right] if self.short else []), self.first]
        operands += [self.first_cell] if lstm else []
        operands += [self.inside] if self.layer.reset_after else []
        results = [self.y, self.last, *([self.last_cell] if lstm else [])]
        body = _over("task", self.layer.directions * self.tiles, self._task, self.outer)
        knobs = f"recurrence{{rows={self.rows},width={self.width}}}"
        return tirx.PrimFunc([*operands, *results], body).with_attr(
            {"tirx.noalias": True, "op_pattern": 8, ANNOTATION: to_text(self.layer), KNOBS: knobs}
        )

    def _task(self, index: Expr) -> Stmt:
        direction = index // self.tiles
        first = index % self.tiles
        if self.layer.batch:
            first = tirx.min(first * self.rows, const(self.layer.batch - self.rows))
        lstm = self.layer.kind == "LSTM"
        statements = [alloc(self.state), alloc(self.new)]
        statements += [alloc(self.cell)] if lstm else []
        statements += [alloc(self.held)] if len(self.weights) > 1 else []
        statements += [alloc(self.short.result)] if self.short else []
        statements.append(self._copied(self.first, [direction], first, self.state))
        if lstm:
            statements.append(self._copied(self.first_cell, [direction], first, self.cell))
        step = self._gru_step if len(self.weights) > 1 else self._step
        statements.append(_over("turn", self.steps, lambda turn: step(turn, direction, first)))
        kept = [(self.state, self.last)] + ([(self.cell, self.last_cell)] if lstm else [])
        for source, result in kept:
            statements.append(
                self._rows(
                    lambda row, unit, size, source=source, result=result: vstore(
                        result, vload(source, [row, unit], size), [direction, first + row, unit], size
                    )
                )
            )
        return seq(statements)

    def _rows(self, body: Callable[[Expr, Expr, int], Stmt]) -> Stmt:
        """``body(row, unit, size)`` over all rows and units."""
        whole, rest = divmod(self.layer.hidden, self.lanes)

        def row(r: Expr) -> Stmt:
            parts = []
            if whole:
                parts.append(loop("v", whole, lambda v: body(r, v * self.lanes, self.lanes)))
            parts += [
                body(r, const(whole * self.lanes + offset), size) for offset, size in pieces(rest, self.lanes)
            ]
            return seq(parts)

        return loop("row", self.rows, row)

    def _copied(self, source: Any, lead: Sequence[Expr], first: Expr, target: Any) -> Stmt:
        return self._rows(
            lambda row, unit, size: vstore(
                target, vload(source, [*lead, first + row, unit], size), [row, unit], size
            )
        )

    # -- one step --------------------------------------------------------------------------------------------

    def _step(self, turn: Expr, direction: Expr, first: Expr) -> Stmt:
        gates = range(self.layer.gates)
        seen = self._seen(turn, direction)

        def new(row: Expr, unit: Expr, gate: Callable[[int], Expr], lane: Any) -> list[Stmt]:
            at = [row, unit]
            past = tirx.BufferLoad(self.state, at)
            inputs = {g: self._input(seen, first + row, direction, g, unit) for g in gates}
            stored: list[Stmt] = []
            if self.layer.kind == "LSTM":
                value = self._lstm(at, gate, stored)
            elif self.layer.kind == "GRU":
                value = self._gru_after(gate, inputs, past)
            else:
                value = _value(self.functions[0], gate(0))
            return [*stored, *self._store_state(value, seen, direction, first, at)]

        # The gate of a GRU inside the reset starts from its own bias, not from the inputs.
        starts = [None if self.layer.reset_after and g == 2 else g for g in gates]
        short = self.short
        shortened = [short.product(self.state, direction, self.inner)] if short else []
        source = short.result if short else self.state
        whole = self._block_loop(0, starts, new, turn, seen, direction, first, source)
        return seq([*shortened, whole, self._copied(self.new, [], const(0), self.state)])

    def _gru_step(self, turn: Expr, direction: Expr, first: Expr) -> Stmt:
        """Update and reset, then the candidate from the state that was reset."""
        seen = self._seen(turn, direction)
        gate_of, candidate_of = self.functions

        def gates(row: Expr, unit: Expr, gate: Callable[[int], Expr], lane: Any) -> list[Stmt]:
            """The update stays in the place of the state to come, the reset goes to ``held``."""
            past = tirx.BufferLoad(self.state, [row, unit])
            return [
                tirx.BufferStore(self.new, _value(gate_of, gate(0)), [row, unit]),
                tirx.BufferStore(self.held, _value(gate_of, gate(1), past), [row, unit]),
            ]

        def candidate(row: Expr, unit: Expr, gate: Callable[[int], Expr], lane: Any) -> list[Stmt]:
            past = tirx.BufferLoad(self.state, [row, unit])
            update = tirx.BufferLoad(self.new, [row, unit])
            value = self._mixed(update, _value(candidate_of, gate(0)), past)
            return self._store_state(value, seen, direction, first, [row, unit])

        return seq(
            [
                self._block_loop(0, [0, 1], gates, turn, seen, direction, first, self.state),
                self._block_loop(1, [2], candidate, turn, seen, direction, first, self.held),
                self._copied(self.new, [], const(0), self.state),
            ]
        )

    def _seen(self, turn: Expr, direction: Expr) -> Expr:
        """The place in the sequence of step ``turn``."""
        if self.layer.directions == 2:
            return turn + direction * (self.steps - 1 - turn * 2)
        return self.steps - 1 - turn if self.layer.backward else turn

    def _input(self, seen: Expr, batch: Expr, direction: Expr, gate: int, unit: Expr) -> Expr:
        column = direction * (self.layer.gates * self.layer.hidden) + gate * self.layer.hidden + unit
        return tirx.BufferLoad(self.x, [seen, batch, column])

    def _block_loop(
        self,
        group: int,
        starts: Sequence[int | None],
        finish: Callable[[Expr, Expr, Callable[[int], Expr], Any], list[Stmt]],
        turn: Expr,
        seen: Expr,
        direction: Expr,
        first: Expr,
        source: Any,
    ) -> Stmt:
        """``source[row]`` by a group's weights, block after block; ``finish`` takes the sums.

        ``starts`` are the gates whose inputs the sums begin with; None begins with the bias inside.
        """
        layer, lanes, width = self.layer, self.lanes, self.width
        columns = len(starts) * width

        def there_and_back(index: Expr) -> Stmt:
            var = tirx.Var("at", "int64")
            return seq([tirx.Bind(var, index + turn % 2 * (self.blocks - 1 - index * 2)), block(var)])

        def block(index: Expr) -> Stmt:
            acc = Accumulators(self.rows, columns)
            sums = scratch("sums", (self.rows, columns)) if self.rows > 1 else None

            def begin(valid: int) -> Stmt:
                stores = []
                for row in range(self.rows):
                    for place_of, gate in enumerate(starts):
                        at = place_of * width
                        for offset, size in pieces(valid, lanes):
                            unit = index * width + offset
                            if gate is None:
                                value = vload(self.inside, [direction, unit], size)
                            else:
                                column = direction * (layer.gates * layer.hidden) + gate * layer.hidden + unit
                                value = vload(self.x, [seen, first + row, column], size)
                            stores.append(acc.store(row, value, at + offset, size))
                        for offset, size in pieces(width - valid, lanes):
                            zero = splat(tirx.const(0, "float32"), size)
                            stores.append(acc.store(row, zero, at + valid + offset, size))
                return seq(stores)

            def step(k: Expr) -> Stmt:
                weight = self.weights[group]
                return multiply_accumulate(
                    acc,
                    range(self.rows),
                    lanes,
                    lambda offset, size: vload(weight, [direction, index, k, const(offset)], size),
                    lambda r: tirx.BufferLoad(source, [const(r), k]),
                )

            def end(valid: int) -> Stmt:
                def row(r: Expr) -> Stmt:
                    done = []
                    for offset, size in pieces(valid, lanes):

                        def lane(v: Expr, offset: int = offset) -> Stmt:
                            def gate(g: int) -> Expr:
                                if sums is None:
                                    buffer, place = acc.at(0, g * width + offset)
                                    return tirx.BufferLoad(buffer, [place + v])
                                return tirx.BufferLoad(sums, [r, const(g * width + offset) + v])

                            return seq(finish(r, index * width + offset + v, gate, v))

                        done.append(loop("v", size, lane, "vectorized"))
                    return seq(done)

                return loop("row", self.rows, row)

            spilled = []
            if sums is not None:
                spilled = [
                    vstore(sums, acc.load(r, o, s), [const(r), const(o)], s)
                    for r in range(self.rows)
                    for o, s in pieces(columns, lanes)
                ]
            return seq(
                [
                    acc.alloc(),
                    *([alloc(sums)] if sums is not None else []),
                    by_block(index, self.layer.hidden, self.width, begin),
                    loop("k", self.columns, step),
                    *spilled,
                    by_block(index, self.layer.hidden, self.width, end),
                ]
            )

        return loop("block", self.blocks, there_and_back if self.blocks > 1 else block, self.inner)

    # -- equations -------------------------------------------------------------------------------------------

    def _lstm(self, at: list[Expr], gate: Callable[[int], Expr], stored: list[Stmt]) -> Expr:
        """Gates in ONNX's order: input, output, forget, cell."""
        sigmoid, candidate, output = self.functions
        kept = _value(sigmoid, gate(2), tirx.BufferLoad(self.cell, at))
        stored.append(tirx.BufferStore(self.cell, kept + _product(sigmoid, gate(0), candidate, gate(3)), at))
        return _product(sigmoid, gate(1), output, tirx.BufferLoad(self.cell, at))

    def _gru_after(self, gate: Callable[[int], Expr], inputs: dict[int, Expr], past: Expr) -> Expr:
        """Gates in ONNX's order: update, reset, candidate; the reset multiplies what the state gave."""
        sigmoid, candidate = self.functions
        new = _value(candidate, inputs[2] + _value(sigmoid, gate(1), gate(2)))
        return self._mixed(_value(sigmoid, gate(0)), new, past)

    @staticmethod
    def _mixed(update: Expr, candidate: Expr, past: Expr) -> Expr:
        """(1 - update) * candidate + update * past."""
        return scalar_math.shared("z", update, lambda z: (_ONE - z) * candidate + z * past)

    def _store_state(
        self, value: Expr, seen: Expr, direction: Expr, first: Expr, at: list[Expr]
    ) -> list[Stmt]:
        row, unit = at
        return [
            tirx.BufferStore(self.new, value, at),
            tirx.BufferStore(self.y, tirx.BufferLoad(self.new, at), [seen, direction, first + row, unit]),
        ]
