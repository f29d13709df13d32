"""The ONNX backend tests through dlcomp, onnxruntime and TVM's own frontend; ``--write`` renews the table."""

from __future__ import annotations

import sys
from pathlib import Path

from common import finish, header, options, run, table_row

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "conformance"))

import cases
import table
from sweep import sweep

# Every tenth case, so that all families are in it.
_STEP = 10


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="renew the committed results and table")
    arguments = parser.parse_args()
    names = cases.names()[::_STEP] if arguments.quick else cases.names()
    backends = ("dlcomp", "onnxruntime") if arguments.quick else table.BACKENDS
    results = table.merged({backend: sweep(names, backend) for backend in backends})
    nodes, models = table.totals(results, True), table.totals(results, False)
    print(header("tests", "all", *backends))
    print(table_row(["operators", nodes["all"], *(nodes[backend] for backend in backends)]))
    print(table_row(["models", models["all"], *(models[backend] for backend in backends)]))
    if arguments.write and not arguments.quick:
        table.write(results)
    summary = {
        "node_tests_passed": nodes["dlcomp"],
        "node_tests_total": nodes["all"],
        "onnxruntime_passed": nodes["onnxruntime"],
        "model_tests_passed": models["dlcomp"],
        "model_tests_total": models["all"],
    }
    finish([{"case": name, **row} for name, row in results.items()], summary, arguments.json)


if __name__ == "__main__":
    run(main)
