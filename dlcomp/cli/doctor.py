"""``dlcomp doctor``: what works on this machine and what to install."""

from __future__ import annotations

from dlcomp.cli.options import Json, Verbose
from dlcomp.cli.output import show

NAME = "doctor"


def command(json: Json = None, verbose: Verbose = 0) -> int:
    """Check what works on this machine."""
    from dlcomp.doctor import FAIL, run_checks
    from dlcomp.report.targets import doctor_table

    checks = run_checks()
    show(doctor_table(checks), checks, json)
    return 1 if any(check.status == FAIL for check in checks) else 0
