"""Opens and runs mutated artifacts, one line of outcome each; test_fuzz_dlc.py runs it in its own process.

python fuzz_worker.py DENSE.dlc FIRST LAST
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from mutations_dlc import mutate

import dlcomp
from dlcomp.errors import DlcompError
from dlcomp.runtime.metric import difference


def outcome(path: Path, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> str:
    """``refused``, ``right``, or what went wrong."""
    try:
        found = dlcomp.open(path).run(inputs)
    except DlcompError as err:
        return "refused" if err.exit_code in (3, 4) and err.hint else f"error {err}".replace("\n", " ")
    except BaseException as err:
        return f"crash {type(err).__name__}: {err}"
    if set(found) != set(expected):
        return f"other outputs {sorted(found)}"
    same = all(difference(found[name], expected[name]).within(1e-6) for name in expected)
    return "right" if same else "wrong answer"


def main() -> None:
    original = Path(sys.argv[1])
    inputs = dlcomp.open(original).check_inputs()
    assert inputs is not None
    expected = dlcomp.open(original).run(inputs)
    data = original.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(int(sys.argv[2]), int(sys.argv[3])):
            path = Path(folder) / f"{seed}.dlc"
            kind, mutated = mutate(data, seed)
            path.write_bytes(mutated)
            print(seed, kind, outcome(path, inputs, expected), flush=True)
            path.unlink()


main()
