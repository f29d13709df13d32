"""A fused function taken apart: the operator that was annotated, and the expression behind it.

Fusion leaves one block for the operator and one for each element-wise step after it. The steps
are inlined into each other until a single one is left; the template then evaluates that step on
the values in its registers, whatever it is (bias, activation, residual, clip, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import IRModule, s_tir, tirx
from tvm.ir.expr import TensorLoad

from dlcomp.frontend.symbolic import dim_of, surely_equal
from dlcomp.schedules.rewrite import UnknownExpression, loads, rewrite, same_index
from dlcomp.schedules.workload import ANNOTATION, KNOBS

Load = Callable[[Any, Sequence[Any]], Any]


@dataclass(frozen=True)
class Anchor:
    """An annotated operator and its epilogue.

    Attributes
    ----------
    func : tirx.PrimFunc
        The fused function: its parameters and attributes are those of the result.
    template, workload, knobs : str
        Who is to schedule what, and how, as written on the block.
    inputs : sequence of buffers
        What the operator reads, in the order of its ``compute``.
    output : buffer
        What the function writes.
    operations : int
        Nodes of the epilogue's expression, those of indices not counted.
    kept : buffer or None
        Where the operator's own result goes too, if the function gives that as well.
    epilogue : callable
        ``epilogue(indices, value, load) -> expression``: what to store at ``indices`` (one for
        each output dimension) when the operator's own result there is ``value``; every other
        operand is read by ``load(buffer, indices)``.
    """

    func: Any
    workload: str
    knobs: str
    inputs: Sequence[Any]
    output: Any
    epilogue: Callable[[Sequence[Any], Any, Load], Any]
    operations: int = 0
    kept: Any = None

    def schedule_of(self, body: Any) -> Any:
        """The function with ``body``, as a ``tvm.s_tir.Schedule``."""
        root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))
        func = tirx.PrimFunc(self.func.params, root, self.func.ret_type, self.func.attrs)
        return s_tir.Schedule(IRModule({"main": func}))


def find(func: Any) -> Anchor | None:
    """The anchor of ``func``; None if it has none, or more around it than an element-wise epilogue."""
    sch = s_tir.Schedule(IRModule({"main": func}))
    refs = sch.get_child_blocks(sch.get_sblock("root"))
    anchors = [r for r in refs if ANNOTATION in sch.get(r).annotations]
    if len(anchors) != 1:
        return None
    steps = [r for r in refs if r != anchors[0]]
    read = [r.source for r in sch.get(anchors[0]).reads]
    # Steps may compute another operand of the epilogue, but none of the operator.
    if any(w.source.same_as(r) for step in steps for w in sch.get(step).writes for r in read):
        return None
    try:
        for ref in steps[:-1]:
            sch.compute_inline(ref)
    except s_tir.ScheduleError:
        return None
    operator = sch.get(anchors[0])
    result = operator.writes[0].source
    parts: dict[str, Any] = {
        "func": sch.mod["main"],
        "workload": str(operator.annotations[ANNOTATION]),
        "knobs": str(operator.annotations[KNOBS]),
        "inputs": [r.source for r in operator.reads if not r.source.same_as(result)],
    }
    if not steps:
        return Anchor(**parts, output=result, epilogue=lambda indices, value, load: value)
    last = sch.get(steps[-1])
    variables = [v.var for v in last.iter_vars]
    store = last.body
    if any(int(v.iter_type) != 0 for v in last.iter_vars) or not isinstance(store, tirx.BufferStore):
        return None
    try:
        reads = [r for r in loads(store.value) if r.source.same_as(result)]
    except UnknownExpression:
        return None
    if not all(
        same_index(indices, last.iter_vars) for indices in [store.indices, *(r.indices for r in reads)]
    ):
        return None
    # Padding behind, or a cut from the first place on, reads at the same indices too.
    if not all(
        surely_equal(dim_of(a), dim_of(b)) for a, b in zip(store.buffer.shape, result.shape, strict=True)
    ):
        return None

    def epilogue(indices: Sequence[Any], value: Any, load: Load) -> Any:
        def replace(node: Any) -> Any:
            if isinstance(node, TensorLoad):
                if node.source.same_as(result):
                    return value
                return load(node.source, [rewrite(i, replace) for i in node.indices])
            if isinstance(node, tirx.Var):
                return next((i for v, i in zip(variables, indices, strict=True) if node.same_as(v)), None)
            return None

        return rewrite(store.value, replace)

    # FuseOps does not see that a cast of the result reads it.
    kept = result if any(p.same_as(result) for p in parts["func"].params) else None
    return Anchor(**parts, output=store.buffer, epilogue=epilogue, operations=_nodes(store.value), kept=kept)


def _nodes(expr: Any) -> int:
    """The nodes of an expression, indices not counted."""
    count = 0

    def note(node: Any) -> Any:
        nonlocal count
        count += 1
        return node if isinstance(node, TensorLoad) else None

    rewrite(expr, note)
    return count
