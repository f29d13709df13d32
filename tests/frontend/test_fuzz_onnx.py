"""500 damaged networks: each a clean error or a model, never a crash, a hang or a raw exception."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

CASES = 500
_SECONDS_PER_CASE = 30.0
_WORKER = Path(__file__).parent / "fuzz_worker.py"


def test_mutated_networks() -> None:
    outcomes = dict(run_cases(0, CASES))
    assert sorted(outcomes) == list(range(CASES))
    bad = {case: text for case, text in outcomes.items() if not text.startswith("ok")}
    assert not bad
    # The damage is neither so heavy nor so light that one side is never seen.
    kinds = Counter(text.split()[1] for text in outcomes.values())
    assert kinds["Model"] >= 20
    assert kinds["ModelError"] >= 100


def run_cases(first: int, last: int) -> Iterator[tuple[int, str]]:
    """Outcome of every case; a worker that dies or stops answering is replaced after the culprit."""
    while first < last:
        with subprocess.Popen(
            [sys.executable, str(_WORKER), str(first), str(last)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as worker:
            for line in lines(worker):
                if not line.startswith("case "):
                    yield first, f"printed to stdout: {line}"
                    continue
                _, case, text = line.split(" ", 2)
                assert int(case) == first
                yield first, text
                first += 1
            worker.kill()
            code = worker.wait()
        if first < last:
            yield first, f"crashed or hung (exit code {code})"
            first += 1


def lines(worker: subprocess.Popen[bytes]) -> Iterator[str]:
    """Lines of the worker's output until it ends or is silent for too long."""
    assert worker.stdout is not None
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        deadline = time.monotonic() + _SECONDS_PER_CASE
        while selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(worker.stdout.fileno(), 1 << 16)
            if not data:
                return
            *whole, buffer = (buffer + data).split(b"\n")
            for line in whole:
                deadline = time.monotonic() + _SECONDS_PER_CASE
                yield line.decode(errors="replace")
