"""8-bit networks: dlcomp's against its own float32 and against onnxruntime's.

The suite's networks are quantized by dlcomp (``Quantize()``) and by onnxruntime (QDQ, a scale for each
channel), both after three inputs. dlcomp runs its file; onnxruntime its own, and dlcomp's, of which it
computes in float32 what it does not take for integer operators. Errors are those of dlcomp's file against
its nodes evaluated in float32 one by one. The products of matrices are set against the rate at which the
processor repeats the instruction that they are made of, measured on registers alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, geomean, header, options, run, table_row
from models import SUITE, fetch
from peer_quantizer import by_onnxruntime

import dlcomp
from dlcomp.runtime import peer, threads
from dlcomp.runtime.bench import Ratio, in_turn
from dlcomp.runtime.inputs import ordered
from dlcomp.runtime.integer_peak import repeated

QUICK = ("ppocr_cls", "resnet50_thin")
# Whose layers are convolutions.
CONVOLUTIONS = ("efficientnet_lite0", "yolox_det", "ppocr_det", "ppocr_rec", "ppocr_cls", "resnet50_thin")
PRODUCTS = (
    (128, 768, 768),
    (196, 1024, 256),
    (784, 512, 512),
    (1024, 1024, 1024),
    (3136, 64, 256),
    (16, 1024, 1024),
)


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(SUITE)}; all by default")
    parser.add_argument("--target", default="host", help="compile for this; it must run here")
    arguments = parser.parse_args()
    chosen = arguments.models or (QUICK if arguments.quick else tuple(SUITE))
    seconds = 0.5 if arguments.quick else 2.0
    counts = sorted({1, min(2, threads.available())})
    columns = [
        f"{name} {n}t"
        for n in counts
        for name in ("int8 ms", "vs float32", "vs onnxruntime", "on the same file")
    ]
    print(header("network", *columns, "error", "onnxruntime's"))
    rows = [network(name, counts, seconds, arguments.target) for name in chosen]
    products: list[dict[str, Any]] = []
    if arguments.target == "host":  # the ceiling is that of this processor's instructions
        print("\n" + header("product of u8 and s8", "GOP/s", "% of the ceiling"))
        products = [product(shape, seconds) for shape in (PRODUCTS[2:3] if arguments.quick else PRODUCTS)]
    summary = {}
    for n in counts:
        own = [row[f"own_{n}t"][1] for row in rows if row["network"] in CONVOLUTIONS]
        other = [row[f"onnxruntime_{n}t"][1] for row in rows]
        summary |= {
            f"geomean_vs_own_fp32_{n}t": geomean(own),
            f"geomean_vs_onnxruntime_int8_{n}t": geomean(other),
        }
    if products:
        summary["gemm_percent_of_ceiling"] = max(row["percent"] for row in products)
    finish([*rows, *products], summary, arguments.json)


def network(name: str, counts: list[int], seconds: float, target: str) -> dict[str, Any]:
    """One network's row, printed as soon as it is known."""
    entry = SUITE[name]
    model = dlcomp.load(fetch(name), shapes=entry.shapes)
    examples = [entry.example(seed=seed) for seed in range(3)]
    calibration = {key: np.concatenate([example[key] for example in examples]) for key in examples[0]}
    small = model.compress(dlcomp.Quantize(), calibration=calibration)
    inputs = entry.example(seed=7)
    row: dict[str, Any] = {"network": name}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.onnx"
        small.save(file)
        network = file.read_bytes()
        quantized_there = by_onnxruntime(fetch(name).read_bytes(), examples, Path(folder))
        whole, wide = dlcomp.load(file, entry.shapes).compile(target), model.compile(target)
    right = peer.session(network, 1, optimize=False).run(None, inputs)
    found = peer.session(network, 1, optimize=True).run(None, inputs)
    row["error"] = distance(list(whole.run(inputs).values()), right)
    row["onnxruntime_error"] = distance(found, right)
    cells = []
    for n in counts:
        ours = whole.session().staged(ordered(inputs, whole.signature), n)
        floats = wide.session().staged(ordered(inputs, wide.signature), n)
        latency, _, own = in_turn(ours, floats, min_time_s=seconds)
        row |= {f"own_{n}t": quartiles(own), f"{n}t_s": latency.median}
        cells += [f"{latency.median * 1e3:.2f}", spread(own)]
        for key, content in (("onnxruntime", quantized_there), ("same_file", network)):
            theirs = peer.runner(peer.session(content, n), inputs)
            _, _, ratio = in_turn(ours, theirs, min_time_s=seconds)
            row[f"{key}_{n}t"] = quartiles(ratio)
            cells.append(spread(ratio))
    print(table_row([name, *cells, f"{row['error']:.1e}", f"{row['onnxruntime_error']:.1e}"]), flush=True)
    return row


def distance(found: list[np.ndarray], right: list[np.ndarray]) -> float:
    """The largest root mean square of the differences of an output, in its range."""
    return max(
        float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)) / (np.ptp(b) or 1))
        for a, b in zip(found, right, strict=True)
    )


def product(shape: tuple[int, int, int], seconds: float) -> dict[str, Any]:
    """One product of matrices with a stored operand, on one thread, its sums equal to NumPy's."""
    from onnx import TensorProto, helper, numpy_helper

    m, n, k = shape
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (m, k)).astype(np.uint8), rng.integers(-128, 128, (k, n)).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [m, k])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [m, n])],
        [numpy_helper.from_array(b, "b")],
    )
    artifact = dlcomp.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).compile(
        "host"
    )
    np.testing.assert_array_equal(artifact.run({"a": a})["y"], a.astype(np.int64) @ b.astype(np.int64))
    ours = artifact.session().staged(ordered({"a": a}, artifact.signature), 1)
    registers, operations = repeated(1)
    latency, alone, _ = in_turn(ours, registers, min_time_s=seconds)
    rate, most = 2 * m * n * k / latency.median, operations / alone.median
    row = {"product": "x".join(map(str, shape)), "gops": rate / 1e9, "percent": 100 * rate / most}
    print(table_row([row["product"], f"{row['gops']:.0f}", f"{row['percent']:.0f}"]), flush=True)
    return row


def quartiles(ratio: Ratio) -> list[float]:
    return [ratio.low, ratio.median, ratio.high]


def spread(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


if __name__ == "__main__":
    run(main)
