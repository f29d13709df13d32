"""Templates that fail in every way a candidate can: registered in the workers by ``faulty:Class``."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from tvm import IRModule, s_tir, tirx

from dlcomp.schedules.cpu.gemm import PackedGemm
from dlcomp.schedules.template import Knobs
from dlcomp.schedules.workload import Workload
from dlcomp.target import Target


class _Faulty(PackedGemm):
    """One candidate, which the estimate likes better than the second best and less than the default."""

    def space(self, workload: Workload, target: Target) -> Sequence[Knobs]:
        return [PackedGemm().choose(workload, target)]

    def estimate(self, workload: Workload, knobs: Knobs, target: Target) -> float:
        return 1.0001 * PackedGemm().estimate(workload, knobs, target)


class HangsInBuild(_Faulty):
    name: ClassVar[str] = "faulty.hangs_in_build"

    def schedule(self, *args: Any) -> Any:
        time.sleep(3600)


class CrashesInBuild(_Faulty):
    name: ClassVar[str] = "faulty.crashes_in_build"

    def schedule(self, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGSEGV)


class RaisesInBuild(_Faulty):
    name: ClassVar[str] = "faulty.raises_in_build"

    def schedule(self, *args: Any) -> Any:
        raise RuntimeError("no such thing")


class _Calls(_Faulty):
    """The right kernel, behind the call of a C function."""

    function: ClassVar[str]

    def schedule(self, *args: Any) -> Any:
        func = super().schedule(*args).mod["main"]
        block = func.body.block
        call = tirx.Evaluate(tirx.call_extern("int32", self.function))
        body = tirx.SeqStmt([call, block.body])
        root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))
        return s_tir.Schedule(IRModule({"main": tirx.PrimFunc(func.params, root, func.ret_type, func.attrs)}))


class HangsInRun(_Calls):
    name: ClassVar[str] = "faulty.hangs_in_run"
    function = "pause"


class CrashesInRun(_Calls):
    name: ClassVar[str] = "faulty.crashes_in_run"
    function = "abort"


class Wrong(_Faulty):
    name: ClassVar[str] = "faulty.wrong"

    def schedule(self, anchor: Any, *rest: Any) -> Any:
        right, two = anchor.epilogue, tirx.const(2.0, "float32")
        doubled = dataclasses.replace(
            anchor,
            epilogue=lambda indices, value, load: right(indices, value * two, load),
        )
        return super().schedule(doubled, *rest)


class Invalid(_Faulty):
    """Claims a workload in the tuner that it refuses in the builder."""

    name: ClassVar[str] = "faulty.invalid"

    def accepts(self, workload: Workload, target: Target) -> bool:
        return "DLCOMP_TEST_TUNER" in os.environ and super().accepts(workload, target)
