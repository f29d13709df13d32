"""Convolutions by each algorithm that dlcomp has: direct, Winograd, and im2col as the baseline.

Kernels alone, in NHWC, each with the settings that its estimate likes best, timed in turn with the one that
dlcomp takes; a number is that one's time over the algorithm's (below 1 it is the slower).
"""

from __future__ import annotations

from typing import Any

from common import finish, geomean, header, options, run, table_row
from conv import MOBILE, PPOCR, RESNET, YOLOX, Shape

from dlcomp.schedules import select, templates
from dlcomp.schedules.workload import Conv2d, to_text
from dlcomp.target import Target
from dlcomp.tune.candidates import Candidate
from dlcomp.tune.pool import Pool

ALGORITHMS = ("conv2d.direct", "conv2d.winograd", "conv2d.im2col")


def main() -> None:
    arguments = options(__doc__.splitlines()[0]).parse_args()
    shapes = [s for s in (*RESNET, *MOBILE, *YOLOX, *PPOCR) if s.k > 1 and s.groups == 1]
    target = Target.host()
    print(header("convolution", "taken", *ALGORITHMS, "winner"))
    rows: list[dict[str, Any]] = []
    with Pool(target) as pool:
        for shape in shapes[:3] if arguments.quick else shapes:
            rows.append(measure(shape, target, pool))
            found = rows[-1]["ratios"]
            cells = [f"{found[name]:.2f}" if name in found else "-" for name in ALGORITHMS]
            print(table_row([str(shape), rows[-1]["taken"], *cells, rows[-1]["winner"]]), flush=True)
    losses = [max(row["ratios"].values()) for row in rows]
    summary = {
        "geomean_vs_im2col": 1 / geomean([row["ratios"]["conv2d.im2col"] for row in rows]),
        "right_choices": sum(loss < 1.03 for loss in losses) / len(losses),
        "worst_choice": 1 / max(losses),
    }
    finish(rows, summary, arguments.json)


def measure(shape: Shape, target: Target, pool: Pool) -> dict[str, Any]:
    pad = shape.k // 2
    oh, ow = ((size + 2 * pad - shape.k) // shape.s + 1 for size in (shape.h, shape.w))
    workload = Conv2d(
        1, shape.h, shape.w, shape.ci, oh, ow, shape.co, shape.k, shape.k, shape.s, shape.s, 1, 1, pad, pad, 1
    )
    chosen = select(workload, target)
    assert chosen is not None
    candidates = [_candidate(chosen[0].name, chosen[1])]
    for template in templates():
        if template.name in ALGORITHMS and template.accepts(workload, target):
            candidates.append(_candidate(template.name, template.choose(workload, target)))
    text = to_text(workload)
    built = pool.build(text, candidates)
    base = built[0][0]
    ratios = {}
    for candidate, (path, outcome) in zip(candidates[1:], built[1:], strict=True):
        assert outcome.status == "ok", outcome
        timed = pool.run(text, path, base, turns=31)
        assert timed.status == "ok", timed
        turns = sorted(theirs / ours for ours, theirs in zip(*timed.value, strict=True))
        ratios[candidate.template] = turns[len(turns) // 2]
        pool.forget(path)
    return {
        "convolution": str(shape),
        "taken": candidates[0].template,
        "ratios": ratios,
        "winner": max(ratios, key=lambda name: ratios[name]),
    }


def _candidate(name: str, knobs: Any) -> Candidate:
    return Candidate(name, tuple(knobs.items()))


if __name__ == "__main__":
    run(main)
