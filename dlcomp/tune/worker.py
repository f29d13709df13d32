"""A process that builds or runs candidates for the tuner: ``python -m dlcomp.tune.worker FD TEMPLATE...``.

It answers one request after the other over an inherited pipe; whatever kills it (a crash, the time limit)
kills nothing else. TEMPLATEs are ``module:Class`` of schedules to register besides dlcomp's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

# Kernels of the incumbent are kept loaded, so that a comparison does not load it again.
_KEPT: dict[str, Any] = {}
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Serve until the other end of the pipe closes."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in arguments[1:]:
        from dlcomp.schedules import register

        module, _, attribute = name.partition(":")
        register(getattr(importlib.import_module(module), attribute)())
    pipe = Connection(int(arguments[0]))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            pipe.send(_answer(*pipe.recv()))


def _answer(kind: str, request: dict[str, Any]) -> tuple[str, Any]:
    """``("ok", value)``, or why it failed and the first line of the reason."""
    try:
        return "ok", _SERVICES[kind](**request)
    except Exception as error:
        status = {"Invalid": "invalid", "Wrong": "wrong"}.get(type(error).__name__)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        failed = "build" if kind == "build" else "crash"
        return status or failed, f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _build(target: dict[str, Any], **request: Any) -> None:
    from dlcomp.target import Target
    from dlcomp.tune.kernel import build

    build(target=Target.parse(target), **request)


def _run(path: str, reference: str, against: str, turns: int, loads: int, threads: int) -> list[list[float]]:
    from dlcomp.runtime import native
    from dlcomp.runtime import threads as pool
    from dlcomp.tune.run_kernel import Kernel, time_in_turn

    native.load_runtime()
    pool.use(threads)
    found: list[list[float]] = [[] for _ in range(2 if against else 1)]
    for load in range(loads):
        kernel = Kernel(path, reference)
        if load == 0:
            kernel.check()
        sides = [kernel]
        if against:
            if load or against not in _KEPT:
                _KEPT.clear()
                _KEPT[against] = Kernel(against, reference)
            sides.append(_KEPT[against])
        for all_turns, new in zip(found, time_in_turn(sides, turns, threads), strict=True):
            all_turns += new
    return found


_SERVICES: dict[str, Callable[..., Any]] = {"build": _build, "run": _run, "ping": lambda: None}


def _die_with_parent() -> None:
    """On Linux: a hanging candidate must not outlive a killed tuner."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
