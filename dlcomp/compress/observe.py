"""What the values of a network are on real inputs: one pass over the data, memory of the bins only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from dlcomp.compress.cache import data_digest, network_digest
from dlcomp.compress.data import Calibration, Feed
from dlcomp.compress.network import Network
from dlcomp.compress.progress import shown

_BINS = 4096
# One step of the moving average of a batch's extremes.
_MOMENTUM = 0.1


@dataclass
class Histogram:
    """How often a value lies where, in bins whose range doubles when something lies outside.

    Attributes
    ----------
    limit : float
        The bins cover ``[-limit, limit)``; a power of two, so that a bin of a larger range is two of the
        smaller one.
    counts : (4096,) int64
    low, high : float
        Exact extremes of what is finite.
    average : (2,) float64
        Moving average of the extremes of each batch.
    axis : int or None
        That of channels, if ``mean`` is wanted.
    mean : (channels,) float64 or None
        Of each channel, for the correction of biases; None if a value was not finite.
    """

    axis: int | None = None
    limit: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    low: float = np.inf
    high: float = -np.inf
    average: np.ndarray | None = None
    total: np.ndarray | None = None
    seen: int = 0

    @property
    def mean(self) -> np.ndarray | None:
        return None if self.total is None else self.total / max(1, self.seen)

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin."""
        width = 2 * self.limit / _BINS
        return (np.arange(_BINS) + 0.5) * width - self.limit

    def add(self, array: np.ndarray) -> None:
        """Count the elements of ``array``; those that are not finite are left out."""
        flat = array.reshape(-1)
        if not np.isfinite(flat).all():
            flat = flat[np.isfinite(flat)]
            self.axis = self.total = None
        if self.axis is not None:
            self._add_mean(array, self.axis)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        extremes = np.array([low, high])
        self.average = (
            extremes if self.average is None else self.average + _MOMENTUM * (extremes - self.average)
        )
        self._reach(max(abs(low), abs(high)))
        scale = np.float32(_BINS / (2 * self.limit))
        places = ((flat.astype(np.float32) + np.float32(self.limit)) * scale).astype(np.int64)
        self.counts += np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)

    def _reach(self, largest: float) -> None:
        if self.limit == 0.0:
            self.limit = float(2.0 ** np.ceil(np.log2(max(largest, 2.0**-60))))
        while largest > self.limit:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(_BINS, np.int64)
            self.counts[_BINS // 4 : _BINS // 4 + len(pairs)] = pairs
            self.limit *= 2

    def _add_mean(self, array: np.ndarray, axis: int) -> None:
        channels = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        total = channels.sum(axis=1, dtype=np.float64)
        self.total = total if self.total is None else self.total + total
        self.seen += channels.shape[1]


def observe(
    network: Network, names: Collection[str], data: Calibration, channels: Mapping[str, int]
) -> dict[str, Histogram]:
    """A histogram of each value of ``names``, over all of ``data``.

    ``channels`` are the axes of the channels of those whose means are wanted; they have a known size.
    """
    cache = data.cache
    of = (network_digest(network, names, channels), data_digest(data)) if cache is not None else ("", "")
    cached = None if cache is None else cache.find(*of)
    if cached is not None:
        return cached
    known = {} if data.memory is None else data.memory.of(network, "histograms")
    missing = {
        name: Histogram(channels.get(name)) for name in names if (name, channels.get(name)) not in known
    }
    for values in runs(network, missing, data) if missing else ():
        for name, histogram in missing.items():
            histogram.add(values[name])
    known.update({(name, channels.get(name)): histogram for name, histogram in missing.items()})
    found = {name: known[name, channels.get(name)] for name in names}
    if cache is not None:
        cache.add(*of, found)
    return found


def runs(network: Network, names: Collection[str], data: Calibration) -> Iterator[Feed]:
    """The values of ``names`` for each batch of ``data``, computed by dlcomp."""
    return Watched(network, names).over(shown(data, "calibrating", data.count))


class Watched:
    """A network compiled to show the values of ``names``, for as many passes over data as are wanted.

    Of the weights ``given``, it takes what the network holds when a pass begins.
    """

    def __init__(self, network: Network, names: Collection[str], given: Collection[str] = ()) -> None:
        import dlcomp

        wanted = sorted(set(names) - set(network.inputs))
        self._network = network
        self._artifact = dlcomp.load(network.exposing(wanted, given)).compile("host") if wanted else None

    def over(self, data: Iterable[Feed]) -> Iterator[Feed]:
        """The inputs and the values, for each batch of ``data``."""
        artifact = self._artifact
        if artifact is None:
            yield from data
            return
        taken = {spec.name for spec in artifact.signature.inputs}
        weights = {name: array for name, array in self._network.weights.items() if name in taken}
        for feed in data:
            inputs = {name: array for name, array in feed.items() if name in taken}
            yield {**feed, **artifact.run({**inputs, **weights})}
