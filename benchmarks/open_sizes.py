"""One artifact for all sizes against one for each size, and against onnxruntime: MiniLM and PP-OCR.

Both sides of a ratio are timed in turn in one process; above 1 the artifact for all sizes is the faster.
"""

from __future__ import annotations

import time
from typing import Any

from common import finish, geomean, header, options, run, table_row
from models import SUITE, fetch

import dlcomp
from dlcomp.runtime import threads
from dlcomp.runtime.bench import in_turn
from dlcomp.runtime.inputs import ordered

# Sizes that these networks meet: texts of 16 to 256 tokens, lines and pages as they are cut out.
SIZES: dict[str, tuple[tuple[int, ...], ...]] = {
    "minilm": ((1, 16), (1, 64), (1, 256), (4, 64)),
    "ppocr_rec": ((1, 3, 48, 160), (1, 3, 48, 320), (1, 3, 48, 640), (4, 3, 48, 320)),
    "ppocr_det": ((1, 3, 320, 320), (1, 3, 480, 640)),
}
QUICK = {"minilm": SIZES["minilm"][:2]}


def main() -> None:
    arguments = options(__doc__.splitlines()[0]).parse_args()
    counts = sorted({1, min(2, threads.available())})
    columns = [f"{name} {n}t" for n in counts for name in ("to one for the size", "to onnxruntime")]
    print(header("network", "input", *columns, "error"))
    rows: list[dict[str, Any]] = []
    compile_s: dict[str, float] = {}
    for name, sizes in (QUICK if arguments.quick else SIZES).items():
        path = fetch(name)
        begin = time.perf_counter()
        model = dlcomp.load(path)
        artifact = model.compile("host")
        compile_s[name] = time.perf_counter() - begin
        rows += [{"network": name, **measure(name, size, model, artifact, counts)} for size in sizes]
    summary = {
        f"geomean_vs_{peer}_{n}t": geomean(row[f"{peer}_{n}t"][1] for row in rows)
        for n in counts
        for peer in ("fixed", "onnxruntime")
    }
    summary |= {f"min_vs_onnxruntime_{n}t": min(row[f"onnxruntime_{n}t"][1] for row in rows) for n in counts}
    finish(rows, summary | {f"compile_{name}_s": s for name, s in compile_s.items()}, arguments.json)


def measure(name: str, size: tuple[int, ...], model: Any, artifact: Any, counts: list[int]) -> dict[str, Any]:
    """One size's row, printed as soon as it is known."""
    entry, path = SUITE[name], fetch(name)
    feed = entry.example({key: size for key in entry.shapes})
    fixed = dlcomp.load(path, {key: value.shape for key, value in feed.items()}).compile("host")
    error = dlcomp.verify(model, artifact, feed).max_error
    row: dict[str, Any] = {"size": size, "error": error}
    cells = []
    for n in counts:
        ours = artifact.session().staged(ordered(feed, artifact.signature), n)
        one = fixed.session().staged(ordered(feed, fixed.signature), n)
        _, _, ratio = in_turn(ours, one, min_time_s=1.0)
        row[f"fixed_{n}t"] = [ratio.low, ratio.median, ratio.high]
        result = artifact.bench(feed, threads=n, compare="onnxruntime", model=path, min_time_s=1.0)
        assert result.ratio is not None
        row[f"onnxruntime_{n}t"] = [result.ratio.low, result.ratio.median, result.ratio.high]
        cells += [
            f"{median:.2f} ({low:.2f}-{high:.2f})"
            for low, median, high in (row[f"fixed_{n}t"], row[f"onnxruntime_{n}t"])
        ]
    print(table_row([name, "x".join(map(str, size)), *cells, f"{error:.1e}"]), flush=True)
    return row


if __name__ == "__main__":
    run(main)
