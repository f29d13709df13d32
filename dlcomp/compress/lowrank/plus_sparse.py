"""Low rank plus sparse: a layer as a chain of two and a layer of sparse blocks beside it, added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlcomp.compress.data import Calibration
from dlcomp.compress.layers import Layer, check_expressions, check_names, layers_of, matches
from dlcomp.compress.lowrank.methods import by_matrix, chain
from dlcomp.compress.lowrank.mixture import Mixture, mixtures
from dlcomp.compress.lowrank.moments import moments_of
from dlcomp.compress.lowrank.subject import Subject, subject_of
from dlcomp.compress.lowrank.write import write_sum
from dlcomp.compress.network import Network
from dlcomp.compress.refit import error_of
from dlcomp.compress.sparsify.patterns import Pattern
from dlcomp.errors import ModelError, UsageError

__all__ = ["LowRankSparse"]

_NUMBER = 4
# Of the outputs' energy: an error that is rounding, of which nothing is to be gained.
_NONE = 1e-10


@dataclass(frozen=True)
class LowRankSparse:
    """Dense layers and convolutions as low rank plus sparse blocks, where that loses less than either alone.

    All three may take as many bytes; which is best is decided by the data. Other layers stay as they are (for
    ``sparsify`` or ``lowrank`` to change), and so do grouped convolutions, layers of fewer outputs than a
    block has or of few weights, and weights that several layers read. The effect says why.

    Attributes
    ----------
    target : float
        The share of the bytes of each layer's weight to keep, above 0 and below 1; a block is stored with two
        bytes for its place.
    targets : mapping of str to float, or None
        The same for each layer by name, in place of ``target``; others stay as they are.
    pattern : str
        ``OUTPUTSx1``: blocks of so many outputs of one input; ``16x1`` is a vector of AVX-512.
    gain : float
        By how much of it the error must be below the better of the two alone.
    damping : float
        Added to the diagonal of the inputs' covariance, of its mean.
    keep : tuple of str
        Regular expressions: layers whose name one is found in stay as they are.
    smallest : int
        Layers of fewer weights, unless ``targets`` names them, stay as they are: they save little.

    Raises
    ------
    UsageError
        An option that is not one of these.
    """

    target: float = 0.5
    targets: Mapping[str, float] | None = None
    pattern: str = "16x1"
    gain: float = 0.01
    damping: float = 0.01
    keep: tuple[str, ...] = ()
    smallest: int = 10_000
    name: str = "lowrank_sparse"

    def __post_init__(self) -> None:
        pattern = Pattern.parse(self.pattern)
        if pattern.kept or pattern.rows < 2 or pattern.columns > 1:
            raise UsageError(
                f"the sparse part has blocks of outputs of one input, not {self.pattern}",
                hint="16x1, or 8x1 for vectors of 256 bits",
            )
        for where, share in {"target": self.target, **(self.targets or {})}.items():
            if not 0 < share < 1:
                of = "the target" if where == "target" else f"the target of {where}"
                raise UsageError(f"{of} is a share above 0 and below 1, not {share}")
        if not 0 <= self.gain < 1:
            raise UsageError(f"gain is a share from 0 to below 1, not {self.gain}")
        if not 0 < self.damping <= 1:
            raise UsageError(f"the damping is above 0 and at most 1, not {self.damping}")
        if self.smallest < 0:
            raise UsageError(f"smallest is a number of weights, not {self.smallest}")
        check_expressions(self.keep)

    @property
    def needs_data(self) -> bool:
        return True

    def rewrite(self, network: Network, data: Calibration | None) -> dict[str, Any]:
        """Replace layers; rank, blocks, bytes and errors of each, and why others stay."""
        assert data is not None, "the passes' driver asks for data"
        subjects, whole = self._subjects(network, data)
        account: dict[str, Any] = {}
        before = after = 0
        for subject in subjects:
            target = self.target if self.targets is None else self.targets[subject.title]
            size = _NUMBER * subject.weight.size
            sparse, *mixed, low = mixtures(
                subject.matrix, _metric(subject), Pattern.parse(self.pattern), target * size
            )
            best = min((m for m in mixed if m.rank and m.kept), key=lambda m: m.error, default=None)
            before += size
            alone = min(sparse.error, low.error)
            none = _NONE * error_of(subject.matrix, _metric(subject))
            if best is None or alone <= none or best.error >= (1 - self.gain) * alone:
                whole[subject.title] = "too small for both" if best is None else "either alone is as good"
                after += size
                continue
            after += best.bytes
            account[subject.title] = _replaced(network, subject, best) | {
                "bytes": [size, best.bytes],
                "error_low_rank": _share(subject, low.error),
                "error_sparse": _share(subject, sparse.error),
            }
        return {"layers": len(account), "bytes": [before, after], "whole": whole, "by_layer": account}

    def _subjects(self, network: Network, data: Calibration) -> tuple[list[Subject], dict[str, str]]:
        """The layers that may be written as a sum, and why others may not."""
        chosen, whole = candidates(network, self)
        if not chosen:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(whole.items())[:3])
            raise ModelError(
                f"it has no layer with a stored weight to write as low rank plus sparse ({why or 'none'})",
                hint="smaller blocks (pattern=8x1), or smallest=0 for layers of few weights"
                if whole
                else None,
                where="lowrank_sparse",
            )
        if self.targets is not None:
            check_names(self.targets, {layer.name for layer in chosen}, "lowrank_sparse")
            whole |= {layer.name: "no target" for layer in chosen if layer.name not in self.targets}
            chosen = [layer for layer in chosen if layer.name in self.targets]
        moments = moments_of(network, chosen, data)
        subjects = []
        for layer in chosen:
            # Of layers with too many inputs there are none.
            seen = moments.get(layer.output)
            found = None if seen is None else subject_of(network, layer, seen, {})
            if found is None or found.metric is None:
                whole[layer.name] = "too many inputs for their covariance"
                continue
            mean = np.trace(found.metric) / len(found.metric)
            metric = found.metric + self.damping * mean * np.eye(len(found.metric))
            subjects.append(replace(found, metric=metric))
        return subjects, whole


def candidates(network: Network, pass_: LowRankSparse) -> tuple[list[Layer], dict[str, str]]:
    """The layers that ``pass_`` could write as a sum, and why it could not the others."""
    layers = list(layers_of(network))
    whole = {layer.name: "kept" for layer in layers if matches(layer.node, pass_.keep)}
    rows = Pattern.parse(pass_.pattern).rows
    chosen = []
    for layer in (one for one in layers if one.name not in whole):
        found = subject_of(network, layer, None, {})
        if found is None:
            whole[layer.name] = "grouped, shared, or no single matrix"
        elif len(found.matrix) < rows:
            whole[layer.name] = f"{len(found.matrix)} outputs are less than {rows}"
        elif found.matrix.size < pass_.smallest and layer.name not in (pass_.targets or ()):
            whole[layer.name] = f"{found.matrix.size} weights are less than {pass_.smallest}"
        else:
            chosen.append(layer)
    return chosen, whole


def _replaced(network: Network, subject: Subject, mixture: Mixture) -> dict[str, Any]:
    """Write the layer of ``subject`` as ``mixture``; what the account says of it."""
    # The low rank once more, behind the last sparse part: never worse.
    rest = replace(subject, weight=(subject.matrix - mixture.sparse).reshape(subject.weight.shape))
    stages, low = chain(rest, by_matrix(rest, (mixture.rank,)))
    write_sum(network, subject, stages, low, mixture.sparse)
    return {
        "rank": mixture.rank,
        "blocks": round(mixture.kept, 4),
        "error": round(subject.loss(subject.matrix - low - mixture.sparse), 9),
    }


def _metric(subject: Subject) -> np.ndarray:
    assert subject.metric is not None, "subjects without data are left out"
    return subject.metric


def _share(subject: Subject, error: float) -> float:
    """``error`` over what the weight itself makes."""
    return round(error / (error_of(subject.matrix, _metric(subject)) or 1.0), 9)
