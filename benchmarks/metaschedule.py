"""MetaSchedule's default search on one of our workloads: ``metaschedule.py WORKLOAD TRIALS`` prints seconds.

A process of its own: its worker pools do not always end, and a candidate can take the process along.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from itertools import cycle, islice
from typing import Any

import numpy as np

WEIGHT_BYTES = 48 << 20
TURN_S = 0.02


def definition(workload: Any) -> Any:
    """The workload as a plain PrimFunc called ``main``: NHWC, weights (kh, kw, ci, co), nothing packed."""
    from tvm import te, topi

    from dlcomp.schedules.workload import Conv2d, Gemm

    if isinstance(workload, Gemm):
        a = te.placeholder((workload.m, workload.k), name="a")
        b = te.placeholder((workload.k, workload.n), name="b")
        result = topi.matmul(a, b)
    else:
        wl = workload
        below = (wl.oh - 1) * wl.sh + (wl.kh - 1) * wl.dh + 1 - wl.h - wl.top
        right = (wl.ow - 1) * wl.sw + (wl.kw - 1) * wl.dw + 1 - wl.w - wl.left
        pads = (wl.top, wl.left, max(0, below), max(0, right))
        if isinstance(wl, Conv2d):
            a = te.placeholder((wl.n, wl.h, wl.w, wl.ci), name="a")
            b = te.placeholder((wl.kh, wl.kw, wl.ci, wl.co), name="b")
            result = topi.nn.conv2d_nhwc(a, b, (wl.sh, wl.sw), pads, (wl.dh, wl.dw), "float32")
        else:
            a = te.placeholder((wl.n, wl.h, wl.w, wl.c), name="a")
            b = te.placeholder((wl.kh, wl.kw, wl.c, 1), name="b")
            result = topi.nn.depthwise_conv2d_nhwc(a, b, (wl.sh, wl.sw), pads, (wl.dh, wl.dw), "float32")
    return te.create_prim_func([a, b, result]).with_attr("global_symbol", "main")


def build(module: Any, target: Any, _: Any) -> Any:
    """For the builder's processes; its own default spends its time limit on importing tensor intrinsics."""
    from tvm.driver import build as build_module
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    return build_module(RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module), target=target)


def best_seconds(text: str, trials: int) -> float:
    """Seconds of one run (the median of 51) of the best that ``trials`` trials find."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    from dlcomp.runtime import threads
    from dlcomp.schedules.workload import from_text
    from dlcomp.target import Target

    host = Target.host()
    target, function = host.to_tvm(), definition(from_text(text))
    evaluator = ms.runner.EvaluatorConfig(number=3, repeat=1, min_repeat_ms=20)
    with tempfile.TemporaryDirectory() as folder:
        database = ms.tune_tir(
            mod=function,
            target=target,
            work_dir=folder,
            max_trials_global=trials,
            num_trials_per_iter=16,
            builder=ms.builder.LocalBuilder(max_workers=host.cores, f_build=build, timeout_sec=120),
            runner=ms.runner.LocalRunner(timeout_sec=30, evaluator_config=evaluator),
            cost_model="xgb",
            num_tuning_cores=host.cores,
            seed=0,
        )
        found = ms.tir_integration.compile_tir(database, function, target)
    if found is None:
        raise SystemExit("MetaSchedule found nothing")
    executable = tvm.compile(found.mod, target=target)
    data, weights, result = ([int(d) for d in parameter.shape] for parameter in function.params)
    rng = np.random.default_rng(0)
    # Weights come from memory, as in a network and as the tuner times its own candidates.
    copies = max(1, WEIGHT_BYTES // (4 * math.prod(weights)))
    given = tvm.runtime.tensor(rng.standard_normal(data, dtype=np.float32))
    taken = [
        tvm.runtime.tensor(rng.standard_normal(weights, dtype=np.float32)) for _ in range(min(64, copies))
    ]
    made = tvm.runtime.empty(result, "float32")
    threads.use(host.cores)
    run = executable["main"]
    begin = time.perf_counter()
    run(given, taken[0], made)
    count = max(1, int(TURN_S / (time.perf_counter() - begin)))
    turn = list(islice(cycle(taken), count))
    seconds = []
    for _ in range(51):
        begin = time.perf_counter()
        for weight in turn:
            run(given, weight, made)
        seconds.append((time.perf_counter() - begin) / count)
    return float(np.median(seconds))


if __name__ == "__main__":
    print(json.dumps(best_seconds(sys.argv[1], int(sys.argv[2]))))
