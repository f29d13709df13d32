"""What a search can choose from: for each layer how strongly a pass changes it, from mild to strong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from dlcomp.compress import Pass
from dlcomp.compress.channels import PruneChannels
from dlcomp.compress.channels.cells import cells_of
from dlcomp.compress.channels.trace import trace
from dlcomp.compress.layers import exactly, layers_of, matches
from dlcomp.compress.lowrank import LowRank, LowRankSparse, plus_sparse
from dlcomp.compress.lowrank.moments import as_matrix
from dlcomp.compress.lowrank.states import state_layers
from dlcomp.compress.lowrank.subject import name_states, recurrent_layers
from dlcomp.compress.network import Network
from dlcomp.compress.quantize import Quantize
from dlcomp.compress.quantize.plan import plan
from dlcomp.compress.sparsify import Sparsify, candidates
from dlcomp.errors import UsageError

# Shares of a layer's weights that go, of its MACs or bytes that stay, and of its channels that stay.
_ZEROS = (0.3, 0.5, 0.7, 0.8, 0.9)
_RANKS = (0.8, 0.65, 0.5, 0.35, 0.25)
_WIDTHS = (0.875, 0.75, 0.5, 0.25)
# Rows and columns of a matrix that is factored: ranks are multiples of 8.
_LEAST = 16


@dataclass(frozen=True)
class Level:
    """How strongly a layer is changed: for people, and as the pass takes it."""

    name: str
    value: Any


Choice = Mapping[str, Level]


@dataclass(frozen=True)
class Family:
    """A pass that can be applied to some layers only.

    Attributes
    ----------
    levels : mapping of str to sequence of Level
        Those of each layer by name, mild to strong.
    of : function
        The pass for what each layer gets; layers that are not named stay as they are.
    joins : bool
        Whether a layer that is not faster itself may save its neighbours work: conversions of what passes
        between them.
    fits : str
        The option of the pass that fits layers again, which trials of one layer go without.
    """

    levels: Mapping[str, Sequence[Level]]
    of: Callable[[Choice], Pass]
    joins: bool = False
    fits: str = ""

    def quick(self, choice: Choice) -> Pass:
        """As ``of``, for a trial."""
        made: Any = self.of(choice)
        if self.fits:
            made = replace(made, **{self.fits: False})
        return cast("Pass", made)


def family(pass_: Pass, network: Network, goal: str) -> Family:
    """How ``pass_`` is applied layer by layer; its other options hold for all of them.

    With the goal ``size`` quantized layers may also read 16 bits, which are computed in float32.

    Raises
    ------
    UsageError
        The pass cannot be searched.
    """
    for kind, make in _FAMILIES.items():
        if isinstance(pass_, kind):
            return make(pass_, network, goal)
    raise UsageError(
        f"the pass {pass_.name} has nothing to choose for each layer",
        hint="a budget is for quantize, sparsify, lowrank, lowrank_sparse and channels; "
        "run it as a pass of its own",
    )


def _quantize(pass_: Any, network: Network, goal: str) -> Family:
    if pass_.integer_macs < 1:
        raise UsageError(
            "integer_macs chooses the layers that stay in float, as a budget does", hint="leave out one"
        )
    names = list(dict.fromkeys(layer.name for layer in plan(network, pass_.keep).layers))
    levels = [Level(f"{pass_.bits} bits", "narrow")]
    if goal == "size" and "16" not in pass_.activations and pass_.scales == "any":
        levels.insert(0, Level(f"{pass_.bits} bits, 16-bit data", "wide"))

    def of(choice: Choice) -> Pass:
        kept = [name for name in names if name not in choice]
        wide = [name for name in names if name in choice and choice[name].value == "wide"]
        made: Pass = replace(pass_, keep=(*pass_.keep, *exactly(kept)), wide=(*pass_.wide, *exactly(wide)))
        return made

    return Family({name: levels for name in names}, of, joins=True)


def _sparsify(pass_: Any, network: Network, goal: str) -> Family:
    fixed = pass_.fixed
    shares = (fixed,) if fixed is not None else _up_to(pass_.target)
    levels = [Level(f"{100 * share:.0f} % zeros", share) for share in shares]
    names = [layer.name for layer in candidates(network, pass_)]

    def of(choice: Choice) -> Pass:
        targets = {name: level.value for name, level in choice.items()}
        made: Pass = replace(pass_, target=None, scope="layer", targets=targets)
        return made

    return Family({name: levels for name in dict.fromkeys(names)}, of, fits="rebuild")


def _up_to(target: float | None) -> list[float]:
    return [share for share in _ZEROS if target is None or share < target] + (
        [] if target is None else [target]
    )


def _lowrank(pass_: Any, network: Network, goal: str) -> Family:
    """Of a recurrent layer what it multiplies its inputs with and what its states are two choices."""
    levels = [Level(f"{100 * share:.0f} % of its {pass_.of}", share) for share in _RANKS]
    name_states(network)
    layers = [*layers_of(network), *recurrent_layers(network)]
    names = [
        layer.name
        for layer in layers
        if not matches(layer.node, pass_.keep)
        and (matrix := as_matrix(layer, network.weights[layer.node.input[layer.weight]])) is not None
        and min(matrix.shape) >= _LEAST
        and sum(list(node.input).count(layer.node.input[layer.weight]) for node in network.nodes) == 1
    ]
    if pass_.states:
        names += [
            layer.name
            for layer in state_layers(network)
            if not matches(layer.node, pass_.keep)
            and min(network.weights[layer.node.input[layer.weight]].shape[1:]) >= _LEAST
        ]

    def of(choice: Choice) -> Pass:
        made: Pass = replace(pass_, targets={name: level.value for name, level in choice.items()})
        return made

    return Family({name: levels for name in dict.fromkeys(names)}, of)


def _lowrank_sparse(pass_: Any, network: Network, goal: str) -> Family:
    """Layers of which either alone is as good have no level that changes them."""
    levels = [Level(f"{100 * share:.0f} % of its bytes", share) for share in _RANKS]
    names = [layer.name for layer in plus_sparse.candidates(network, pass_)[0]]

    def of(choice: Choice) -> Pass:
        made: Pass = replace(pass_, targets={name: level.value for name, level in choice.items()})
        return made

    return Family({name: levels for name in dict.fromkeys(names)}, of)


def _channels(pass_: Any, network: Network, goal: str) -> Family:
    levels: dict[str, list[Level]] = {}
    for cell in cells_of(trace(network), pass_.keep):
        size, step = len(cell.roots), pass_.multiple
        widths = dict.fromkeys(max(step, round(size * share / step) * step) for share in _WIDTHS)
        some = [Level(f"{width} of {size} channels", width) for width in widths if width < size]
        if some:
            levels[cell.name] = some

    def of(choice: Choice) -> Pass:
        made: Pass = replace(pass_, widths={name: level.value for name, level in choice.items()})
        return made

    return Family(levels, of, fits="repair")


_FAMILIES: Mapping[type, Callable[[Any, Network, str], Family]] = {
    Quantize: _quantize,
    Sparsify: _sparsify,
    LowRank: _lowrank,
    LowRankSparse: _lowrank_sparse,
    PruneChannels: _channels,
}
