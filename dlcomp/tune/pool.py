"""Worker processes that may die: builders side by side, and one runner that has the machine to itself.

MetaSchedule's local builder and runner start a pool anew for every batch (about two seconds of imports
each, thirty with tensor intrinsics), and a candidate that crashes ends the tuning. Here a worker is
started once, and again only after it was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dlcomp.target import Target
from dlcomp.tune.candidates import Candidate
from dlcomp.tune.kernel import reference_path

# Importing TVM on a busy machine; no part of any candidate's limit.
_START_S = 60.0
# Code that was loaded once stays in the process, so the runner is replaced (0.3 s) after this many.
_RUNS = 300
_PREFIX, _LOCK = "dlcomp-tune-", "lock"


@dataclass(frozen=True)
class Outcome:
    """``ok`` with a value, or a reason (``build``, ``timeout``, ``crash``, ``wrong``, ``invalid``)."""

    status: str
    value: Any = None
    message: str = ""


class _Worker:
    """One process; started by the first request and again after a death."""

    def __init__(self, templates: Sequence[str]) -> None:
        self._templates = templates
        self._process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection | None = None
        self._deadline = 0.0

    def send(self, kind: str, request: dict[str, Any], limit_s: float) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self.pipe is not None
        with contextlib.suppress(OSError):  # it died meanwhile: the answer will say so
            self.pipe.send((kind, request))
        self._deadline = time.monotonic() + limit_s

    def left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def answer(self) -> Outcome:
        """The answer to what was sent last; ends the process if that is late."""
        assert self.pipe is not None
        assert self._process is not None
        try:
            if not self.pipe.poll(self.left()):
                self.stop()
                return Outcome("timeout", message="ran into the time limit")
            status, value = self.pipe.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            self.stop()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return Outcome("crash", message=f"the process died: {how}")
        return Outcome("ok", value) if status == "ok" else Outcome(status, message=str(value))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self.pipe is not None:
            self.pipe.close()
        self._process = self.pipe = None

    def _start(self) -> None:
        self.stop()
        mine, theirs = Pipe()
        command = [sys.executable, "-m", "dlcomp.tune.worker", str(theirs.fileno()), *self._templates]
        # A session of its own: Ctrl-C is for the tuner, which ends its workers itself.
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self.pipe = mine
        mine.send(("ping", {}))
        with contextlib.suppress(EOFError, OSError):
            if mine.poll(_START_S):
                mine.recv()


def _remove_abandoned() -> None:
    """Folders of tuners that were killed: nobody holds the lock in them any more."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):
            handle = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(handle)


class Pool:
    """Builds and runs candidates of one target; a context manager.

    Parameters
    ----------
    target : Target
    templates : sequence of str
        ``module:Class`` of templates to register in the workers.
    build_s, run_s : float
        Time limits of one candidate.
    """

    def __init__(
        self, target: Target, templates: Sequence[str] = (), build_s: float = 30.0, run_s: float = 20.0
    ) -> None:
        self._target = target
        self._limits = {"build": build_s, "run": run_s}
        self._builders = [_Worker(templates) for _ in range(len(os.sched_getaffinity(0)))]
        self._runner = _Worker(())
        _remove_abandoned()
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        self._lock = os.open(Path(self._folder.name) / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._count = self._runs = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._builders, self._runner):
            worker.stop()
        os.close(self._lock)
        self._folder.cleanup()

    @property
    def folder(self) -> str:
        """Where the candidates' files lie while this is open."""
        return self._folder.name

    def build(self, workload: str, batch: Sequence[Candidate]) -> list[tuple[str, Outcome]]:
        """For each candidate the path of its files and whether they were made."""
        found: list[tuple[str, Outcome]] = [("", Outcome("build"))] * len(batch)
        waiting = list(enumerate(batch))[::-1]
        busy: dict[Any, tuple[_Worker, int, str]] = {}
        idle = list(self._builders)
        while waiting or busy:
            while waiting and idle:
                worker, (number, candidate) = idle.pop(), waiting.pop()
                self._count += 1
                path = str(Path(self._folder.name) / f"k{self._count}")
                request = {
                    "workload": workload,
                    "template": candidate.template,
                    "knobs": candidate.knobs,
                    "target": self._target.to_dict(),
                    "path": path,
                }
                worker.send("build", request, self._limits["build"])
                busy[worker.pipe] = worker, number, path
            ready = wait(list(busy), min(worker.left() for worker, _, _ in busy.values()))
            late = [pipe for pipe, (worker, _, _) in busy.items() if not worker.left()]
            for pipe in dict.fromkeys([*ready, *late]):
                worker, number, path = busy.pop(pipe)
                found[number] = path, worker.answer()
                idle.append(worker)
        return found

    def run(self, workload: str, path: str, against: str = "", turns: int = 5, loads: int = 1) -> Outcome:
        """Seconds of each turn of the candidate and, if given, of the one to compare it with.

        Both are loaded ``loads`` times, for ``turns`` each: where memory lies makes a kernel up to a
        twentieth faster or slower, and stays the same for as long as it is loaded.
        """
        request = {
            "path": path,
            "reference": str(reference_path(path, workload)),
            "against": against,
            "turns": turns,
            "loads": loads,
            "threads": self._target.cores,
        }
        self._runs += 1
        if self._runs % _RUNS == 0:
            self._runner.stop()
        self._runner.send("run", request, self._limits["run"])
        return self._runner.answer()

    def forget(self, path: str) -> None:
        """Delete the files of a candidate."""
        for file in Path(path).parent.glob(f"{Path(path).name}.*"):
            file.unlink(missing_ok=True)
