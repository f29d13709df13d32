"""Passes that trade numbers for size and speed: each takes a model and returns a smaller one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from dlcomp.compress.data import Calibration
    from dlcomp.compress.network import Network
    from dlcomp.compress.search import Budget
    from dlcomp.model import Model

__all__ = ["Pass", "compress"]


class Pass(Protocol):
    """A frozen dataclass whose fields are the options of a pass.

    Attributes
    ----------
    name : str
        As in ``--pass`` and in the history of a model.
    needs_data : bool
        Whether it must see what the network computes on real inputs.
    """

    name: str

    @property
    def needs_data(self) -> bool: ...

    def rewrite(self, network: Network, data: Calibration | None) -> dict[str, Any]:
        """Change ``network`` in place and return what was done, for the history."""
        ...


def compress(
    model: Model,
    passes: Sequence[Pass],
    calibration: Any = None,
    budget: Budget | None = None,
    labels: Any = None,
    evaluate: Any = None,
    cache: Any = None,
) -> Model:
    """``model`` after ``passes``, one after another.

    Parameters
    ----------
    calibration : mapping, path, iterable or None
        Inputs to observe the network on; see :mod:`dlcomp.compress.data`.
    budget : Budget, optional
        What all passes together may lose, or have to reach: each is then applied to the layers, and as
        strongly, as :func:`dlcomp.compress.search.search` finds; ``labels`` and ``evaluate`` are explained
        there.
    cache : path or None
        A file that keeps what ranges are chosen from, for the next time with the same network and data; see
        :mod:`dlcomp.compress.cache`.

    Raises
    ------
    UsageError
        A pass needs data and there is none, or the data do not fit the inputs.
    """
    from dlcomp.compress.cache import Cache
    from dlcomp.compress.data import Calibration, how_to_give
    from dlcomp.compress.network import Network
    from dlcomp.errors import UsageError
    from dlcomp.model import Step

    if budget is not None:
        if cache is not None:
            raise UsageError(
                "a search keeps what it observes by itself", hint="leave out the calibration cache"
            )
        from dlcomp.compress.search import searches

        found = searches(model, passes, budget, calibration=calibration, labels=labels, evaluate=evaluate)
        return found[-1].model if found else model
    if labels is not None or evaluate is not None:
        raise UsageError(
            "labels and inputs to judge by are for a budget", hint="budget=dlcomp.Budget(max_drop=0.005)"
        )
    kept = None if cache is None else Cache(Path(cache))
    data = None if calibration is None else Calibration(calibration, model.signature, kept)
    for pass_ in passes:
        if pass_.needs_data and data is None:
            raise UsageError(
                f"the pass {pass_.name} needs inputs to observe the network on",
                hint=how_to_give(model.signature),
            )
        network = Network(model)
        effect = pass_.rewrite(network, data)
        options = {key: value for key, value in vars(pass_).items() if key != "name"}
        model = network.model(Step(pass_.name, options, effect))
    return model
