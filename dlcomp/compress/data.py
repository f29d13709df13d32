"""Calibration data, one batch at a time: arrays, .npz files, folders of .npy files, or anything that yields.

A folder is read file by file and an iterable as it yields, so that only a batch is held; arrays and the
members of an .npz are held whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcomp.compress.memory import Memory
from dlcomp.errors import UsageError
from dlcomp.model import Signature, TensorSpec

if TYPE_CHECKING:
    from dlcomp.compress.cache import Cache

Feed = dict[str, np.ndarray]
_HINT = (
    "a mapping of input name to samples, an .npz of the same, a folder of .npy files, an iterable, "
    "or a function that makes one"
)


def how_to_give(signature: Signature) -> str:
    """The hint for data that is missing, with the names of the inputs."""
    names = ", ".join(f"{spec.name!r}: array of samples" for spec in signature.inputs)
    return f"--calib data.npz, or calibration={{{names}}}"


class Calibration:
    """Samples for the inputs of a network; it can be iterated over as often as it is wanted.

    Parameters
    ----------
    source : mapping, path or iterable
        A mapping (or .npz) of input name to an array ``(N, ...)`` of N samples; a folder of .npy files, each
        a batch of the only input, or ``NAME/*.npy`` for each of several; an iterable of feeds
        ``{name: array}``, or of arrays for the only input. An iterator that ends is kept in memory; a
        function that makes one is called for each pass over the data, and nothing is kept.
    cache : Cache, optional
        Where what is observed on the samples is kept.

    Attributes
    ----------
    memory : Memory or None
        Where what was observed on these samples is kept for the next pass over the same network.

    Raises
    ------
    UsageError
        No samples, unknown names, or arrays that the inputs cannot take.
    """

    def __init__(self, source: Any, signature: Signature, cache: Cache | None = None) -> None:
        self.signature = signature
        self.cache = cache
        self.memory: Memory | None = None
        if isinstance(source, str | os.PathLike):
            path = Path(source)
            if path.is_dir():
                self._feeds: Any = _Folder(path, signature)
            elif path.suffix == ".npz" and path.is_file():
                with np.load(path, allow_pickle=False) as file:
                    self._feeds = _Arrays({name: file[name] for name in file.files}, signature)
            else:
                raise UsageError(f"no calibration data there: {path}", hint=_HINT)
        elif isinstance(source, np.ndarray):
            self._feeds = _Arrays({_only(signature).name: source}, signature)
        elif isinstance(source, Mapping):
            self._feeds = _Arrays(source, signature)
        elif callable(source) and not isinstance(source, Iterable):
            self._feeds = _Made(source)
        elif isinstance(source, Iterable):
            self._feeds = list(source) if isinstance(source, Iterator) else source
        else:
            raise UsageError(f"cannot calibrate on {type(source).__name__}", hint=_HINT)

    @property
    def count(self) -> int | None:
        """How many batches there are, where that is known without reading them."""
        return len(self._feeds) if isinstance(self._feeds, Sized) else None

    def __iter__(self) -> Iterator[Feed]:
        count = 0
        for feed in self._feeds:
            count += 1
            yield _checked(feed, self.signature)
        if not count:
            raise UsageError("there is no sample to calibrate on", hint=_HINT)


def _only(signature: Signature) -> TensorSpec:
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise UsageError(f"the network has several inputs: {names}", hint="give a mapping of their names")
    return signature.inputs[0]


def _checked(feed: Any, signature: Signature) -> Feed:
    if isinstance(feed, np.ndarray):
        feed = {_only(signature).name: feed}
    result = {}
    for spec in signature.inputs:
        if spec.name not in feed:
            raise UsageError(f"the calibration data lack the input {spec.name!r}", hint=_HINT)
        array = np.asarray(feed[spec.name])
        fits = len(spec.shape) == array.ndim and all(
            isinstance(want, str) or want == got for want, got in zip(spec.shape, array.shape, strict=True)
        )
        if str(array.dtype) != spec.dtype or not fits:
            raise UsageError(
                f"a calibration sample is {array.dtype}{list(array.shape)}, the input takes {spec}",
                hint="prepare the samples as the network is used, in its type",
            )
        result[spec.name] = array
    return result


class _Arrays:
    """Arrays of N samples, cut into batches of the size that the network has."""

    def __init__(self, arrays: Mapping[str, Any], signature: Signature) -> None:
        names = {spec.name for spec in signature.inputs}
        if len(signature.inputs) == 1 and len(arrays) == 1:
            # A single array under any name is meant for the single input.
            arrays = {signature.inputs[0].name: next(iter(arrays.values()))}
        missing, alien = sorted(names - set(arrays)), sorted(set(arrays) - names)
        if missing or alien:
            found = f"lack {', '.join(missing)}" if missing else f"have {', '.join(alien)}, which is no input"
            raise UsageError(f"the calibration data {found}", hint=f"inputs: {', '.join(sorted(names))}")
        self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self._signature = signature
        batches = [spec.shape[0] for spec in signature.inputs if spec.shape]
        self._batch = next((size for size in batches if isinstance(size, int)), 1)

    def __len__(self) -> int:
        return max((len(a) for a in self._arrays.values() if a.ndim), default=0) // max(1, self._batch)

    def __iter__(self) -> Iterator[Feed]:
        ranked = {spec.name: len(spec.shape) for spec in self._signature.inputs}
        # Scalars and the like are the same for every sample.
        sampled = {n: a for n, a in self._arrays.items() if a.ndim == ranked[n] and a.ndim}
        fixed = {n: a for n, a in self._arrays.items() if n not in sampled}
        counts = {len(a) for a in sampled.values()}
        if not counts:
            wrong = [f"{name} has {a.ndim} and not {ranked[name]}" for name, a in fixed.items()]
            raise UsageError(
                f"no calibration data have the dimensions of their input: {', '.join(wrong)}",
                hint="samples lie one behind the other along the first dimension",
            )
        if len(counts) != 1:
            raise UsageError(f"the inputs have different numbers of samples: {sorted(counts)}")
        (count,) = counts
        if count < self._batch:
            raise UsageError(f"{count} samples are less than one batch of {self._batch}")
        for start in range(0, count - self._batch + 1, self._batch):
            yield {**{n: a[start : start + self._batch] for n, a in sampled.items()}, **fixed}


class _Made:
    """What a function yields, each time anew."""

    def __init__(self, function: Callable[[], Iterable[Any]]) -> None:
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        made = self._function()
        if not isinstance(made, Iterable):
            raise UsageError(f"the calibration function returned {type(made).__name__}", hint=_HINT)
        yield from made


class _Folder:
    """A folder of .npy files: batches of the only input, or a folder of them for each input."""

    def __init__(self, path: Path, signature: Signature) -> None:
        self._files: list[dict[str, Path]] = []
        if len(signature.inputs) == 1 and any(path.glob("*.npy")):
            name = signature.inputs[0].name
            self._files = [{name: file} for file in sorted(path.glob("*.npy"))]
            return
        per_input = {spec.name: sorted((path / spec.name).glob("*.npy")) for spec in signature.inputs}
        counts = {len(files) for files in per_input.values()}
        if counts == {0} or len(counts) > 1:
            found = ", ".join(f"{name}: {len(files)}" for name, files in per_input.items())
            raise UsageError(f"{path} has not one .npy file a sample for every input ({found})", hint=_HINT)
        for number in range(counts.pop()):
            self._files.append({name: files[number] for name, files in per_input.items()})

    def __iter__(self) -> Iterator[Feed]:
        for files in self._files:
            yield {name: np.load(file, allow_pickle=False) for name, file in files.items()}

    def __len__(self) -> int:
        return len(self._files)
