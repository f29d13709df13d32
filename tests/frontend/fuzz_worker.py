"""Loads mutants in a process of its own: ``python fuzz_worker.py FIRST LAST`` prints one line for each.

The parent learns which case crashed or hung from the line that did not come.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

_MEMORY_BYTES = 8 << 30


def outcome(case: int) -> str:
    from mutations import mutant

    import dlcomp
    from dlcomp.model import Model

    try:
        result = dlcomp.load(mutant(case))
    except dlcomp.DlcompError as error:
        kind = type(error).__name__
        return "error without a message" if not error.message else f"ok {kind} {error.message}"
    except BaseException as error:
        return f"raw {type(error).__name__} {error}"
    return "ok Model" if isinstance(result, Model) else f"returned {type(result).__name__}"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for case in range(int(sys.argv[1]), int(sys.argv[2])):
        text = outcome(case).replace("\n", " ")
        print(f"case {case} {text[:300]}", flush=True)


if __name__ == "__main__":
    main()
