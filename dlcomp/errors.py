"""What a user meets when dlcomp refuses something: a message, where it happened, and what to do.

Each subclass is one that a caller would catch, and carries the exit code of the command line.
"""

from __future__ import annotations


class DlcompError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message : str
        What is wrong, naming the node, shape or limit.
    hint : str, optional
        What the user can do about it.
    where : str, optional
        The file, node, input or archive member concerned.
    """

    exit_code = 5

    def __init__(self, message: str, *, hint: str | None = None, where: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class CheckFailed(DlcompError):
    """A comparison that was asked for did not hold (verify, regression)."""

    exit_code = 1


class UsageError(DlcompError, ValueError):
    """A wrong argument: unknown target, unbound shape, wrong input name, shape or dtype."""

    exit_code = 2


class ModelError(DlcompError):
    """A model that cannot be read or holds something that dlcomp does not support."""

    exit_code = 3


class ArtifactError(DlcompError):
    """A .dlc that is damaged, tampered with, too new, or made for another machine."""

    exit_code = 3


class ToolMissing(DlcompError):
    """A tool, package or device that this step needs is not on this machine."""

    exit_code = 4


class InternalError(DlcompError):
    """A fault of dlcomp itself; the cause is attached as ``__cause__``."""

    exit_code = 5
