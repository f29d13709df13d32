"""How many threads a run uses: TVM's thread pool, and its habits that dlcomp does not want.

Measured on two cores: TVM halves the number of CPUs on x86 (as if every one were a hyper-thread), pins its
workers (the caller may be put on the same core, and then two threads are no faster than one), and
lets each idle worker spin for 150 ms after a run. All three are settings of its environment, read when
the pool of a calling thread is first used.
"""

from __future__ import annotations

import logging
import os
import threading

from dlcomp.errors import UsageError

# 2000 rounds are about 1 ms: long enough to bridge the gap between two kernels, short enough not to
# burn a core, or to disturb whatever is measured next.
_SPIN_ROUNDS = 2000

_CURRENT = threading.local()
_LOG = logging.getLogger("dlcomp.runtime")


def available() -> int:
    """CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def prepare() -> None:
    """Set what TVM reads once; what the user has set is kept.

    Called when this module is imported, as compiling a model may run kernels before any artifact exists.
    """
    os.environ.setdefault("TVM_NUM_THREADS", str(available()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", str(_SPIN_ROUNDS))


def check(count: int) -> int:
    """``count`` if that many threads can be had."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UsageError(f"threads must be an integer of at least 1, not {count!r}")
    wish = os.environ.get("TVM_NUM_THREADS", "")
    limit = int(wish) if wish.isdigit() else available()
    if count > limit:
        raise UsageError(
            f"{count} threads were asked for, but this process may use {limit}",
            hint=f"use at most {limit}, or widen the affinity (taskset) or TVM_NUM_THREADS",
        )
    return count


def use(count: int) -> None:
    """Let the kernels that this thread calls run on ``count`` threads (itself one of them).

    The pool belongs to the calling thread, so each thread that runs an artifact has its own workers.
    """
    if getattr(_CURRENT, "count", None) == count:
        return
    from tvm_ffi import get_global_func

    # Mode 1 ("big cores") is the one that takes a count; without binding it pins nothing.
    get_global_func("runtime.config_threadpool")(1, check(count))
    got = int(get_global_func("runtime.NumThreads")())
    if got < count:
        _LOG.warning("TVM's thread pool was made before dlcomp could size it: %d of %d threads", got, count)
    _CURRENT.count = count


prepare()
