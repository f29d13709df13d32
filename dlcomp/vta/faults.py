"""What a simulator reports when a program is wrong: which instruction, which stage, what it did."""

from __future__ import annotations

from dlcomp.errors import DlcompError


class ProgramFault(DlcompError):
    """A program that the hardware would hang on, or compute something unintended with.

    Attributes
    ----------
    kind : str
        ``deadlock``, ``tokens``, ``race``, ``uninitialised``, ``stale``, ``range``, ``dram``, ``hazard`` or
        ``illegal``.
    index : int
        The instruction, or -1 where no single one is at fault.
    """

    exit_code = 3

    def __init__(self, kind: str, message: str, index: int = -1, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, where=f"instruction {index}" if index >= 0 else None)
        self.kind = kind
        self.index = index
