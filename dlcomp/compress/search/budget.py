"""What a search may lose, and what it has to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlcomp.errors import UsageError

if TYPE_CHECKING:
    from dlcomp.compress.judge import Score

GOALS = ("speed", "size")


@dataclass(frozen=True)
class Budget:
    """Limits of a search; at least one. Losses are those against the network before all passes.

    With limits to the loss alone the search goes as far as they allow; with one to time or bytes as far as
    that needs.

    Attributes
    ----------
    max_drop : float or None
        Of the accuracy, a share of all samples; needs labels.
    min_agreement : float or None
        The share of samples whose largest output stays the same one.
    max_kl : float or None
        Mean relative entropy of the network's answers to those that it gave, in nats.
    max_error : float or None
        Squared error of the outputs over their squares about their mean.
    max_ms : float or None
        Milliseconds a run, of the whole network as it is compiled for this machine.
    max_bytes : int or None
        Of all weights; zeros count a bit each, and what is not zero a bit more.
    threads : int or None
        That the whole network is timed on; all by default. Layers alone are timed on one.
    goal : str
        ``speed``: a layer that is not measured to be faster stays as it was. ``size``: bytes count, not time.

    Raises
    ------
    UsageError
        No limit, or one that makes no sense.
    """

    max_drop: float | None = None
    min_agreement: float | None = None
    max_kl: float | None = None
    max_error: float | None = None
    max_ms: float | None = None
    max_bytes: int | None = None
    threads: int | None = None
    goal: str = "speed"

    def __post_init__(self) -> None:
        if not self.limits_loss and not self.limits_cost:
            raise UsageError(
                "a budget has at least one limit",
                hint="max_drop, min_agreement, max_kl, max_error, max_ms or max_bytes",
            )
        for name in ("max_drop", "min_agreement"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise UsageError(
                    f"{name} is a share from 0 to 1, not {share}", hint="0.005 or 0.5% are half a percent"
                )
        for name in ("max_kl", "max_error", "max_ms", "max_bytes"):
            limit = getattr(self, name)
            if limit is not None and not limit >= 0:
                raise UsageError(f"{name} is not negative, {limit} is")
        if self.goal not in GOALS:
            raise UsageError(f"the goal cannot be {self.goal!r}", hint=", ".join(GOALS))

    @property
    def limits_loss(self) -> bool:
        """Whether it says how much may be lost."""
        limits = (self.max_drop, self.min_agreement, self.max_kl, self.max_error)
        return any(limit is not None for limit in limits)

    @property
    def limits_cost(self) -> bool:
        """Whether it says what is to be reached."""
        return self.max_ms is not None or self.max_bytes is not None

    def lost(self, score: Score, before: Score) -> str:
        """What of the limits to the loss does not hold, for people; nothing if all do."""
        drop = (before.accuracy or 0.0) - (score.accuracy or 0.0)
        pairs = (
            ("accuracy falls by", drop, self.max_drop),
            ("agreement is lower by", 1 - score.agreement, _less(self.min_agreement)),
            ("relative entropy is", score.kl, self.max_kl),
            ("error is", score.error, self.max_error),
        )
        # A share of samples is a fraction of whole numbers, which rounding must not push over its limit.
        broken = [
            f"{what} {found:.4g}"
            for what, found, most in pairs
            if most is not None and not found <= most + 1e-9
        ]
        return ", ".join(broken)

    def cost(self, ms: float | None, size: int) -> str:
        """What of the limits to time and bytes does not hold, for people; nothing if all do."""
        broken = []
        if self.max_ms is not None and (ms is None or ms > self.max_ms):
            broken.append("not measured" if ms is None else f"{ms:.3f} ms a run")
        if self.max_bytes is not None and size > self.max_bytes:
            broken.append(f"{size:,} bytes")
        return ", ".join(broken)


def _less(share: float | None) -> float | None:
    return None if share is None else 1 - share
