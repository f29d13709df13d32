"""What was observed on calibration data, in a file: the same pass then needs no run of the network.

An entry belongs to a network, to the values that were observed and to the data, by their hashes. A file that
has none that matches is refused: ranges of another network would spoil this one silently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcomp.errors import UsageError

if TYPE_CHECKING:
    from dlcomp.compress.data import Calibration
    from dlcomp.compress.network import Network
    from dlcomp.compress.observe import Histogram

_FORM = 1
_ARRAYS = ("counts", "average", "total")
_NUMBERS = ("limit", "low", "high", "seen", "axis")


class Cache:
    """The file at ``path``, read or to be written.

    Raises
    ------
    UsageError
        The file is no such cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.existed = path.exists()
        self._entries: dict[str, dict[str, Any]] = {}
        self._arrays: dict[str, np.ndarray] = {}
        if self.existed:
            self._read()

    def _read(self) -> None:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                index = json.loads(bytes(file["index"]))
                self._arrays = {name: file[name] for name in file.files if name != "index"}
            if index["form"] != _FORM:
                raise ValueError(f"form {index['form']}")
            self._entries = index["entries"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.path} is no calibration cache: {error}", hint="remove it, or name another file"
            ) from error

    def find(self, network: str, data: str) -> dict[str, Histogram] | None:
        """What was observed there; None if the file was not there before this run.

        Raises
        ------
        UsageError
            The file is of other data or of another network.
        """
        from dlcomp.compress.observe import Histogram

        entry = self._entries.get(f"{network} {data}")
        if entry is None:
            if not self.existed:
                return None
            of_data = any(key.endswith(data) for key in self._entries)
            what = "another network, or other layers of it" if of_data else "other data"
            raise UsageError(
                f"the calibration cache {self.path} is of {what}",
                hint="remove it to calibrate anew, or name another file",
            )
        found = {}
        for name, held in entry.items():
            arrays = {key: self._arrays[held[key]] for key in _ARRAYS if held[key] is not None}
            fields: dict[str, Any] = {key: held[key] for key in _NUMBERS} | arrays
            found[name] = Histogram(**fields)
        return found

    def add(self, network: str, data: str, seen: Mapping[str, Histogram]) -> None:
        """Write the file with ``seen`` in it.

        Raises
        ------
        UsageError
            It cannot be written.
        """
        entry: dict[str, Any] = {}
        for name, histogram in seen.items():
            held: dict[str, Any] = {key: getattr(histogram, key) for key in _NUMBERS}
            for key in _ARRAYS:
                array = getattr(histogram, key)
                held[key] = None if array is None else f"a{len(self._arrays)}"
                if array is not None:
                    self._arrays[held[key]] = array
            entry[name] = held
        self._entries[f"{network} {data}"] = entry
        index = json.dumps({"form": _FORM, "entries": self._entries}).encode()
        try:
            with self.path.open("wb") as file:
                np.savez_compressed(file, index=np.frombuffer(index, np.uint8), **self._arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror or error}") from error


def network_digest(network: Network, names: Collection[str], channels: Mapping[str, int]) -> str:
    """Of the network, and of what of it is observed."""
    made = hashlib.sha256(network.proto.SerializeToString(deterministic=True))
    made.update(json.dumps([sorted(names), sorted(channels.items())]).encode())
    return made.hexdigest()


def data_digest(data: Calibration) -> str:
    """Of every sample, its type and its shape."""
    made = hashlib.sha256()
    for feed in data:
        for name, array in sorted(feed.items()):
            made.update(f"{name} {array.dtype} {array.shape}".encode())
            made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()
