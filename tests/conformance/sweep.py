"""Runs cases in worker processes; a crash or a hang costs one case and one worker."""

from __future__ import annotations

import json
import queue
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

Verdict = tuple[str, str]

_WORKER = Path(__file__).parent / "worker.py"
# Importing TVM and collecting the cases comes before the first answer.
_START_S, _CASE_S = 90.0, 60.0
# Processes of many compilations grow; a new one now and then keeps the memory bounded.
_CASES_A_PROCESS = 150


def sweep(
    names: Iterable[str], backend: str, workers: int = 2, note: Callable[[str, Verdict], None] | None = None
) -> dict[str, Verdict]:
    """What came of each case: (``pass``, ``wrong``, ``refused``, ``crashed`` or ``hung``; why)."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    found: dict[str, Verdict] = {}

    def work() -> None:
        worker: _Worker | None = None
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                break
            if worker is None or worker.count >= _CASES_A_PROCESS:
                if worker:
                    worker.stop()
                worker = _Worker(backend)
            answer = worker.ask(name)
            if answer[0] in ("crashed", "hung"):
                worker = None
            found[name] = answer
            if note:
                note(name, answer)
        if worker:
            worker.stop()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(sorted(found.items()))


class _Worker:
    def __init__(self, backend: str) -> None:
        self.count = 0
        self.process = subprocess.Popen(
            [sys.executable, str(_WORKER), backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def ask(self, name: str) -> Verdict:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        limit = _START_S if self.count == 0 else _CASE_S
        self.count += 1
        try:
            self.process.stdin.write(name + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return "crashed", "the process was gone"
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                self.process.kill()
                self.process.wait()
                return "hung", f"no answer within {limit:.0f} s"
        line = self.process.stdout.readline()
        if not line:
            return "crashed", f"the process ended with code {self.process.wait()}"
        _, status, reason = json.loads(line)
        return status, reason

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
