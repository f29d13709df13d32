"""The compilation of a model, phase by phase, top to bottom."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from tvm import IRModule, tirx

from dlcomp.codegen.cpu import build_cpu
from dlcomp.codegen.link import objects_of
from dlcomp.codegen.program import KernelInfo, Program
from dlcomp.errors import DlcompError, InternalError, UsageError
from dlcomp.frontend import load
from dlcomp.graph.coded import keep_coded
from dlcomp.graph.fold import fold_constants
from dlcomp.graph.layout import channels_last
from dlcomp.graph.lower import lower
from dlcomp.graph.one_dimensional import rows_as_images
from dlcomp.graph.prepare import prepare
from dlcomp.graph.recurrence import with_kernels, written_out
from dlcomp.graph.weights import lift_weights
from dlcomp.model import Model
from dlcomp.runtime.artifact import Artifact
from dlcomp.schedules import ON_REQUEST, SPARSE, WINOGRAD, Records, schedule
from dlcomp.target import Target
from dlcomp.tune.candidates import choices
from dlcomp.tune.database import Database

_LOG = logging.getLogger(__name__)


def compile_model(
    model: Model,
    target: str | Mapping[str, Any] | Target = "host",
    *,
    winograd: bool = True,
    strassen: bool = False,
    sparse: bool = True,
    db: str | os.PathLike[str] | None = None,
) -> Artifact:
    """``model`` as a runnable artifact for ``target``.

    Parameters
    ----------
    model : Model
    target : str, mapping or Target
    winograd : bool
        Whether 3x3 convolutions may be computed by minimal filtering: two to three times as fast, three bits
        less exact, and a NaN or infinity in the image spreads over the whole tile of 4 x 4 outputs.
    strassen : bool
        Whether large products of two run-time operands may be computed by Strassen's algorithm where that is
        expected to be faster: from about 3,000 rows and columns on, some bits less exact.
    sparse : bool
        Whether zeros of weights may be skipped where that is faster: then a NaN or infinity in an input that
        meets only zeros does not reach the output.
    db : path, optional
        What :func:`dlcomp.tune` measured on this target; workloads without a record are estimated.

    Raises
    ------
    UsageError
        An unknown target.
    ToolMissing
        The target needs something that this machine lacks.
    InternalError
        A phase failed; the message names it and the cause is attached.
    """
    resolved = Target.parse(target)
    if resolved.kind == "vta":
        _require_sizes(model)
        program = _vta(model, resolved, db)
    elif resolved.kind == "cuda":
        _require_sizes(model)
        program = _cuda(model, resolved)
    else:
        records = choices(Database.open(db), resolved) if db is not None else None
        wanted = dict.fromkeys(ON_REQUEST, False) | dict.fromkeys(SPARSE, sparse)
        wanted |= dict.fromkeys(WINOGRAD, winograd) | {"matmul.strassen": strassen}
        program = _cpu(model, resolved, [name for name, taken in wanted.items() if not taken], records)
    with _phase("package"):
        return Artifact.build(
            program,
            options={"winograd": winograd, "strassen": strassen, "sparse": sparse},
            model_name=model.name,
            history=model.history,
            source=model.path,
            text=model.text,
        )


def _require_sizes(model: Model) -> None:
    for spec in model.signature.inputs:
        if spec.is_open:
            raise UsageError(
                f"input {spec.name!r} has open dimensions, {spec}; this target takes known sizes only",
                hint=f"{spec.shape_option()}, or shapes={{...}} when the model is loaded",
            )


def _cpu(model: Model, target: Target, without: Collection[str], records: Records | None) -> Program:
    # 1. The graph: same numbers, better form.
    with _phase("graph"):
        module = keep_coded(rows_as_images(prepare(model.module)))
        module = fold_constants(module)
        module = channels_last(module)
        module = fold_constants(module)
    # 2. Operators become TensorIR definitions over packed weights, with their epilogues fused.
    with _phase("lower"):
        module = lower(with_kernels(module, target), target, without, records)
    # 3. Every kernel gets its schedule.
    with _phase("schedule"):
        module, kernels = _schedule_all(module, target, records)
    # 4. Weights leave the program.
    with _phase("weights"):
        module, weights = lift_weights(module)
    # 5. Machine code.
    with _phase("codegen"):
        objects = build_cpu(module, target)
    return Program(model.signature, target, objects, weights, kernels)


def _cuda(model: Model, target: Target) -> Program:
    from dlcomp.codegen.cuda import SCHEDULE_ATTR, build_cuda, schedule_cuda

    with _phase("graph"):
        module = fold_constants(prepare(written_out(model.module)))
        module, weights = lift_weights(module)
    with _phase("schedule"):
        module = schedule_cuda(module, target)
        kernels = tuple(
            _account(var, func, str(func.attrs.get(SCHEDULE_ATTR, "none")))
            for var, func in module.functions.items()
            if isinstance(func, tirx.PrimFunc)
        )
    with _phase("codegen"):
        executable, sources = build_cuda(module, target)
        objects = objects_of(executable, target)
    return Program(model.signature, target, objects, weights, kernels, sources)


def _vta(model: Model, target: Target, db: str | os.PathLike[str] | None) -> Program:
    from dlcomp.codegen.vta import compile_network
    from dlcomp.codegen.vta.stored import packaged
    from dlcomp.tune.vta import tilings

    with _phase("accelerator"):
        tuned = tilings(Database.open(db), target) if db is not None else None
        network = compile_network(model, target.arch, tuned=tuned)
    # What stays on the host is compiled for this machine, where the simulators run.
    host = Target.host()
    return packaged(network, target, lambda part: _cpu(load(part), host, (), None))


def _schedule_all(
    module: IRModule, target: Target, records: Records | None
) -> tuple[IRModule, tuple[KernelInfo, ...]]:
    """Every PrimFunc scheduled, and the account of each."""
    kernels = []
    updated = {}
    for var, func in module.functions.items():
        if not isinstance(func, tirx.PrimFunc):
            updated[var] = func
            continue
        scheduled = schedule(func, target, records)
        updated[var] = scheduled.schedule.mod["main"]
        kernels.append(_account(var, func, scheduled.label, scheduled.flops))
    return IRModule(updated, attrs=module.attrs), tuple(kernels)


def _account(var: Any, func: Any, label: str, flops: int = 0) -> KernelInfo:
    """What a kernel costs; bytes of dimensions that only the run knows are not counted."""
    name = str(var.name_hint)
    moved = sum(_bytes(param) for param in func.params)
    return KernelInfo(name, name.removeprefix("fused_"), flops, moved, label)


def _bytes(param: Any) -> int:
    if not hasattr(param, "shape"):
        return 0
    extents = [int(extent) if isinstance(extent, int | tirx.IntImm) else 0 for extent in param.shape]
    return int(np.prod(extents or [1])) * _item_size(param)


def _item_size(buffer: Any) -> int:
    return max(1, np.dtype(str(buffer.dtype)).itemsize)


@contextmanager
def _phase(name: str) -> Iterator[None]:
    """Times a phase, and turns what escapes from TVM into an error that names it."""
    begin = time.perf_counter()
    try:
        yield
    except DlcompError:
        raise
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InternalError(
            f"the phase {name!r} failed: {first}",
            hint="this is a fault of dlcomp; please report it with the model",
        ) from error
    _LOG.info("%-10s %.2f s", name, time.perf_counter() - begin)
