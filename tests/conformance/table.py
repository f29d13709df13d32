"""The committed results: what became of every case, for dlcomp and its peers, and the table by operator."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from cases import NODE, operator

RESULTS = Path(__file__).parent / "results.json"
TABLE = Path(__file__).parent / "TABLE.md"
BACKENDS = ("dlcomp", "onnxruntime", "tvm")

# Status and, for dlcomp, the reason of what does not pass.
Results = dict[str, dict[str, str]]


def read() -> Results:
    """Case -> {backend: status, "why": reason}."""
    found: Results = json.loads(RESULTS.read_text())
    return found


def write(results: Results) -> None:
    """Both files, one case a line, so that a change is a line of the diff."""
    lines = [f"{json.dumps(name)}: {json.dumps(results[name], sort_keys=True)}" for name in sorted(results)]
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    TABLE.write_text(markdown(results))


def merged(found: Mapping[str, Mapping[str, tuple[str, str]]]) -> Results:
    """Results out of the sweeps of the backends."""
    results: Results = defaultdict(dict)
    for backend, verdicts in found.items():
        for name, (status, why) in verdicts.items():
            results[name][backend] = status
            if backend == "dlcomp" and status != "pass":
                results[name]["why"] = why
    return dict(results)


def totals(results: Results, node: bool) -> dict[str, int]:
    """Passes by backend, of the operator tests or of the model sets; and how many there are."""
    chosen = [row for name, row in results.items() if name.startswith(f"{NODE}/") == node]
    counts = {backend: sum(row.get(backend) == "pass" for row in chosen) for backend in BACKENDS}
    return {**counts, "all": len(chosen)}


def markdown(results: Results) -> str:
    """Passes by operator, worst first."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for name, row in results.items():
        rows[operator(name)].append(row)
    lines = [
        "# ONNX backend tests by operator",
        "",
        "Written by `make conformance`. All three get every input when the network runs; dlcomp and TVM's",
        "own frontend get the shapes before.",
        "",
        "| operator | tests | dlcomp | onnxruntime | TVM |",
        "|---|---:|---:|---:|---:|",
    ]

    def line(title: str, counts: Mapping[str, int]) -> str:
        return (
            f"| {title} | {counts['all']} | {counts['dlcomp']} | {counts['onnxruntime']} | {counts['tvm']} |"
        )

    lines.append(line("**all operator tests**", totals(results, True)))
    lines.append(line("**all model sets**", totals(results, False)))

    def lost(name: str) -> int:
        return sum(row["dlcomp"] != "pass" for row in rows[name])

    for name in sorted(rows, key=lambda name: (-lost(name), name)):
        counts = {backend: sum(row.get(backend) == "pass" for row in rows[name]) for backend in BACKENDS}
        lines.append(line(name, {**counts, "all": len(rows[name])}))
    return "\n".join(lines) + "\n"
