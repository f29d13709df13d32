"""Tuning: what no trials, 32 and an exhaustive search find on five workloads, and MetaSchedule beside it.

Every search has its own database. At the end the kernels that they chose are timed in turn in one
process, so the ratios do not depend on what else the machine did while one of them searched.
MetaSchedule searches its default space on the same loops over unpacked operands, in a process of its own
and with its builder's time limit raised.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import finish, header, options, run, table_row

EXHAUSTIVE = 1000
METASCHEDULE = (64, 256)


def workloads() -> dict[str, Any]:
    """Two products, a 3x3 and a strided convolution of ResNet, a depthwise one of EfficientNet."""
    from dlcomp.schedules.workload import Conv2d, Gemm, Window2d

    return {
        "gemm 512": Gemm(512, 512, 512),
        "gemm 16x1024x1024": Gemm(16, 1024, 1024),
        "conv 28x28x128 k3": Conv2d(1, 28, 28, 128, 28, 28, 128, 3, 3, 1, 1, 1, 1, 1, 1, 1),
        "conv 56x56x64 k3 s2": Conv2d(1, 56, 56, 64, 28, 28, 128, 3, 3, 2, 2, 1, 1, 1, 1, 1),
        "depthwise 56x56x144 k3": Window2d("depthwise", 1, 56, 56, 144, 56, 56, 3, 3, 1, 1, 1, 1, 1, 1),
    }


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--no-metaschedule", action="store_true")
    arguments = parser.parse_args()
    chosen = workloads()
    budgets, peers = (0, 32, EXHAUSTIVE), METASCHEDULE
    if arguments.quick:
        names = ("gemm 512", "depthwise 56x56x144 k3")
        chosen, budgets, peers = {name: chosen[name] for name in names}, (0, 8, 16), ()
    if arguments.no_metaschedule:
        peers = ()
    columns = [f"{count} trials" for count in budgets] + [f"MetaSchedule {count}" for count in peers]
    print(header("workload", "space", *(f"{c}, ms" for c in columns), f"seconds of {budgets[1]} trials"))
    rows = []
    for name, workload in chosen.items():
        found = row(name, workload, budgets, peers)
        rows.append(found)
        cells = [f"{1e3 * s:.4f}" if s else "failed" for s in found["seconds"].values()]
        print(table_row([name, found["space"], *cells, f"{found['tuning_seconds'][str(budgets[1])]:.0f}"]))
    last = str(budgets[-1])
    losses = {
        count: max(100 * (r["seconds"][str(count)] / r["seconds"][last] - 1) for r in rows)
        for count in budgets[:-1]
    }
    summary = {f"worst_percent_behind_at_{count}_trials": loss for count, loss in losses.items()}
    for count in peers:
        gains = [r["seconds"][f"ms{count}"] / r["seconds"][str(budgets[1])] for r in rows]
        summary[f"min_gain_over_metaschedule_{count}"] = min(gains)
    finish(rows, summary, arguments.json)


def row(name: str, workload: Any, budgets: tuple[int, ...], peers: tuple[int, ...]) -> dict[str, Any]:
    import dlcomp
    from dlcomp.schedules.workload import to_text
    from dlcomp.target import Target
    from dlcomp.tune.candidates import candidates
    from dlcomp.tune.pool import Pool

    target = Target.host()
    space = candidates(workload, target)
    picked, spent, curves = {0: space[0]}, {}, {}
    for count in budgets[1:]:
        with tempfile.TemporaryDirectory() as folder:
            result = dlcomp.tune(workload, target, count, db=folder)
        (state,) = result.states
        assert state.best is not None
        picked[count], spent[str(count)], curves[str(count)] = state.best, result.seconds, state.curve
    seconds: dict[str, float] = {}
    with Pool(target) as pool:
        text = to_text(workload)
        built = pool.build(text, [picked[count] for count in budgets])
        base = built[-1][0]
        for count, (path, outcome) in zip(budgets, built, strict=True):
            assert outcome.status == "ok", outcome
            ratios, base_s = [], []
            timed = pool.run(text, path, base, turns=11, loads=5)
            assert timed.status == "ok", timed
            for ours, theirs in zip(*timed.value, strict=True):
                ratios.append(ours / theirs)
                base_s.append(theirs)
            # Each in turn with the last: times are ratios to one common median.
            seconds[str(count)] = median(ratios)
        common = median(base_s)
    seconds = {key: ratio * common for key, ratio in seconds.items()}
    for count in peers:
        seconds[f"ms{count}"] = metaschedule(to_text(workload), count)
    return {
        "workload": name,
        "space": len(space),
        "seconds": seconds,
        "picked": {str(count): str(candidate) for count, candidate in picked.items()},
        "tuning_seconds": spent,
        "curves": curves,
    }


def median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def metaschedule(workload: str, trials: int) -> float:
    """Seconds of a run of what MetaSchedule found; 0 if its search died."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("metaschedule.py")), workload, str(trials)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"MetaSchedule ended with {done.returncode} after {time.perf_counter() - begin:.0f} s")
        return 0.0
    return float(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    run(main)
