"""LSTM, GRU and RNN: one product for the inputs of all steps, then the recurrence as one call.

The recurrence stays one expression in the graph, ``call_pure_packed("dlcomp.recurrence", projected inputs,
recurrent weight, first states, [first cells], [bias inside the reset], text)``, whose text has the fields of
``schedules.workload.Recurrence``; ``graph.recurrence`` gives it a kernel. A recurrent weight that is the
product of two stored ones is both of them, where the state is multiplied once by the whole of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import StringImm

from dlcomp.frontend.ops.arithmetic import constant_of, shape_of
from dlcomp.frontend.ops.kernels import with_builder
from dlcomp.frontend.recurrent import GATES, plain_activations, text

RECURRENCE = "dlcomp.recurrence"


def _converter(kind: str) -> Any:
    @with_builder
    def convert(builder: Any, inputs: Any, attrs: dict[str, Any]) -> Any:
        return _Layer(kind, builder, inputs, attrs).convert()

    return convert


class _Layer:
    """One node on its way into Relax."""

    def __init__(self, kind: str, builder: Any, inputs: Any, attrs: dict[str, Any]) -> None:
        self.kind, self.builder, self.gates = kind, builder, GATES[kind]
        count = len(inputs)
        self.operands = [inputs[i] if i < count else None for i in range(8)]
        self.batch_first = bool(attrs.get("layout", 0))
        self.direction = text(attrs.get("direction", "forward"))
        activations = plain_activations(kind, attrs)
        assert activations is not None
        self.activations = activations
        self.reset_after = kind == "GRU" and bool(attrs.get("linear_before_reset", 0))
        x = self.operands[0]
        if self.batch_first:
            x = self.emit(relax.op.permute_dims(x, [1, 0, 2]))
        self.x = x
        self.steps, self.batch, self.size = shape_of(x)
        self.directions, rows, _ = shape_of(self.operands[1])
        self.hidden = rows // self.gates

    def emit(self, expr: Any) -> Any:
        return self.builder.emit(expr)

    def convert(self) -> Any:
        states = (self.directions, self.batch, self.hidden)
        weights = self._factors() or [self.operands[2]]
        arguments = [self._projected(), *weights, self._first(5, states)]
        types = [relax.TensorType((self.steps, *states), "float32"), relax.TensorType(states, "float32")]
        if self.kind == "LSTM":
            arguments.append(self._first(6, states))
            types.append(relax.TensorType(states, "float32"))
        if self.reset_after:
            arguments.append(self._inside())
        fields = {
            "kind": self.kind,
            "steps": self.steps if isinstance(self.steps, int) else 0,
            "batch": self.batch if isinstance(self.batch, int) else 0,
            "hidden": self.hidden,
            "directions": self.directions,
            "backward": self.direction == "reverse",
            "reset_after": self.reset_after,
            "activations": ",".join(self.activations),
            "rank": shape_of(weights[0])[2] if len(weights) > 1 else 0,
        }
        returned = relax.TupleType(types)
        call = relax.call_pure_packed(
            RECURRENCE, *arguments, StringImm(json.dumps(fields)), ty_args=[returned]
        )
        result = self.emit(call)
        y, *last = [self.emit(result[place]) for place in range(len(types))]
        outputs = [self._ordered(y, [2, 0, 1, 3]), *(self._ordered(state, [1, 0, 2]) for state in last)]
        return relax.Tuple([self.emit(output) for output in outputs])

    def _factors(self) -> list[Any]:
        """The two stored weights (directions, gates * hidden, rank) and (directions, rank, hidden), or none.

        A GRU that resets its state before the product multiplies two different ones.
        """
        product = self.operands[2]
        if isinstance(product, relax.Var):
            product = self.builder.lookup_binding(product)
        if not isinstance(product, relax.Call) or product.op.name != "relax.matmul":
            return []
        if self.kind == "GRU" and not self.reset_after:
            return []
        factors = list(product.args)
        stored = all(constant_of(factor) is not None and len(shape_of(factor)) == 3 for factor in factors)
        return factors if stored else []

    def _ordered(self, value: Any, order: list[int]) -> Any:
        return relax.op.permute_dims(value, order) if self.batch_first else value

    def _projected(self) -> Any:
        """(steps, batch, directions * gates * hidden): what the inputs add to the gates, biases included."""
        width = self.directions * self.gates * self.hidden
        weight = self.emit(relax.op.reshape(self.operands[1], (width, self.size)))
        product = self.emit(relax.op.matmul(self.x, self.emit(relax.op.permute_dims(weight, [1, 0]))))
        if self.operands[3] is None:
            return product
        return self.emit(relax.op.add(product, self._bias()))

    def _columns(self, value: Any, begin: int, end: int) -> Any:
        """``value[:, begin:end]``."""
        array = constant_of(value)
        if array is not None:
            return relax.const(np.ascontiguousarray(array[:, begin:end]))
        return self.emit(relax.op.strided_slice(value, [1], [begin], [end]))

    def _halves(self) -> tuple[Any, Any]:
        """The biases of inputs and of states, (directions, gates * hidden) each."""
        rows, bias = self.gates * self.hidden, self.operands[3]
        return self._columns(bias, 0, rows), self._columns(bias, rows, 2 * rows)

    def _bias(self) -> Any:
        """(directions * gates * hidden,): both biases, but for the one inside the reset."""
        given, recurrent = self._halves()
        if self.reset_after:
            mask = np.ones((1, self.gates * self.hidden), "float32")
            mask[:, 2 * self.hidden :] = 0
            recurrent = self.emit(relax.op.multiply(recurrent, relax.const(mask)))
        total = self.emit(relax.op.add(given, recurrent))
        return self.emit(relax.op.reshape(total, (self.directions * self.gates * self.hidden,)))

    def _inside(self) -> Any:
        """(directions, hidden): the recurrent bias of a GRU's candidate."""
        if self.operands[3] is None:
            return relax.const(np.zeros((self.directions, self.hidden), "float32"))
        return self._columns(self._halves()[1], 2 * self.hidden, 3 * self.hidden)

    def _first(self, place: int, states: Sequence[Any]) -> Any:
        given = self.operands[place]
        if given is None and not isinstance(self.batch, int):
            return self.emit(relax.op.zeros(relax.ShapeExpr(list(states)), "float32"))
        if given is None:
            return relax.const(np.zeros(states, "float32"))
        return self.emit(relax.op.permute_dims(given, [1, 0, 2])) if self.batch_first else given


CONVERTERS: Mapping[str, Any] = {kind: _converter(kind) for kind in GATES}
