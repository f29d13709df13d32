"""``manifest.json``: what an artifact is, what it was made with, and the hash of everything in it.

The SHA-256 of each member finds damage. It is no signature: who rewrites an object and its hash has written
arbitrary code, so open only artifacts from whom you would run a program.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from dlcomp.codegen.program import KernelInfo
from dlcomp.errors import ArtifactError, UsageError
from dlcomp.model import Signature, Step, TensorSpec
from dlcomp.target import Target, required_features

# 2 has coded weights; what has none is still written as 1, for older readers.
SCHEMA = 2
FORMAT = "dlcomp-artifact"
DTYPES = frozenset(
    f"{kind}{bits}"
    for kind in ("int", "uint", "float")
    for bits in (8, 16, 32, 64)
    if kind != "float" or bits > 8
) | {"bool"}

_MAX_RANK = 32
_MAX_BYTES = 1 << 46


@dataclass(frozen=True)
class Weight:
    """Where one weight lies in ``weights.bin``, or in ``weights.coded``.

    Attributes
    ----------
    bytes : int
        Of the array in memory.
    coded : int
        Bytes in ``weights.coded``; 0 for one that lies in ``weights.bin`` as it is.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int
    coded: int = 0


@dataclass(frozen=True)
class Member:
    """Hash and size of one member of the archive."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The manifest as a value; :meth:`to_json` and :func:`parse` are its two directions.

    Attributes
    ----------
    versions : mapping of str to str
        Of dlcomp, tvm, tvm_ffi, orcjit and LLVM at the time of compilation.
    objects : tuple of str
        The members to load, in order.
    check : mapping
        How ``check.npz`` is to be read, or ``{"absent": reason}``.
    source : mapping or None
        ``path`` and ``sha256`` of the model file, where it is known.
    border : Signature or None
        That of the whole network, where parts on strings stand around the program.
    """

    name: str
    versions: Mapping[str, str]
    target: Target
    signature: Signature
    objects: tuple[str, ...]
    weights: tuple[Weight, ...]
    kernels: tuple[KernelInfo, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Step, ...] = ()
    check: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str] | None = None
    border: Signature | None = None
    members: Mapping[str, Member] = field(default_factory=dict)

    @property
    def required_features(self) -> tuple[str, ...]:
        """CPU features without which the code must not run."""
        return required_features(self.target)

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {
            "format": FORMAT,
            "schema": 2 if any(weight.coded for weight in self.weights) else 1,
            "name": self.name,
            "versions": dict(self.versions),
            "target": self.target.to_dict(),
            "required_features": list(self.required_features),
            "signature": _plain(asdict(self.signature)),
            "objects": list(self.objects),
            "options": _plain(self.options),
            "history": [_plain(asdict(step)) for step in self.history],
            "kernels": [_plain(asdict(kernel)) for kernel in self.kernels],
            "weights": [_of_weight(weight) for weight in self.weights],
            "check": _plain(self.check),
            "source": _plain(self.source),
            **({} if self.border is None else {"border": _plain(asdict(self.border))}),
            "members": {name: asdict(member) for name, member in self.members.items()},
        }

    def encode(self) -> bytes:
        """The bytes of ``manifest.json``."""
        return json.dumps(self.to_json(), indent=1).encode()


def _of_weight(weight: Weight) -> dict[str, Any]:
    made: dict[str, Any] = _plain(asdict(weight))
    return made if weight.coded else {key: value for key, value in made.items() if key != "coded"}


def _plain(value: Any) -> Any:
    """``value`` in the types of JSON; what has none becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def parse(data: bytes) -> Manifest:
    """Read ``manifest.json``, believing none of it: wrong types and absurd sizes are refused."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise ArtifactError(f"manifest.json is not JSON ({err})") from err
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ArtifactError(
            "manifest.json is not that of a dlcomp artifact", hint="`dlcomp compile` makes one"
        )
    schema = raw.get("schema")
    if type(schema) is not int or schema < 1:
        raise ArtifactError(f"the schema version {schema!r} is not a positive integer")
    if schema > SCHEMA:
        made = raw.get("versions", {}).get("dlcomp", "?") if isinstance(raw.get("versions"), dict) else "?"
        raise ArtifactError(
            f"schema version {schema} is newer than {SCHEMA}, the newest that this dlcomp reads",
            hint=f"update dlcomp (the artifact was made by {made}): pip install -U dlcomp",
        )
    try:
        return _from_json(raw)
    except ArtifactError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, UsageError, RecursionError) as err:
        what = f"no {err}" if isinstance(err, KeyError) else getattr(err, "message", str(err))
        raise ArtifactError(f"manifest.json is damaged: {what}") from err


def _from_json(raw: Mapping[str, Any]) -> Manifest:
    members = {
        _text(name): Member(_text(item["sha256"]), _size(item["bytes"]))
        for name, item in _mapping(raw["members"]).items()
    }
    target = Target.parse(_mapping(raw["target"]))
    if _texts(raw["required_features"]) != required_features(target):
        raise ArtifactError("manifest.json is damaged: required_features are not those of the target")
    return Manifest(
        name=_text(raw["name"]),
        versions={_text(key): _text(value) for key, value in _mapping(raw["versions"]).items()},
        target=target,
        signature=Signature(
            *(tuple(_spec(s) for s in raw["signature"][side]) for side in ("inputs", "outputs"))
        ),
        objects=_texts(raw["objects"]),
        weights=tuple(_weight(item) for item in raw["weights"]),
        kernels=tuple(
            KernelInfo(
                _text(k["name"]), _text(k["op"]), _size(k["flops"]), _size(k["bytes"]), _text(k["schedule"])
            )
            for k in raw["kernels"]
        ),
        options=_mapping(raw["options"]),
        history=tuple(
            Step(_text(step["name"]), _mapping(step["options"]), _mapping(step["effect"]))
            for step in raw["history"]
        ),
        check=_mapping(raw["check"]),
        source=None if raw["source"] is None else {k: _text(v) for k, v in _mapping(raw["source"]).items()},
        border=None if raw.get("border") is None else _border(_mapping(raw["border"])),
        members=members,
    )


def _border(raw: Mapping[str, Any]) -> Signature:
    """Specs of strings among them, which have no size in bytes."""

    def spec(item: Mapping[str, Any]) -> TensorSpec:
        if item["dtype"] != "str":
            return _spec(item)
        return replace(_spec({**item, "dtype": "uint8"}), dtype="str")

    return Signature(*(tuple(map(spec, raw[side])) for side in ("inputs", "outputs")))


def _spec(raw: Mapping[str, Any]) -> TensorSpec:
    shape = raw["shape"]
    if isinstance(shape, list):
        # An open dimension is a name or an expression of names.
        sizes = iter(_shape([dim for dim in shape if not isinstance(dim, str)], raw["dtype"]))
        shape = [dim if isinstance(dim, str) else next(sizes) for dim in shape]
    else:
        _shape(shape, raw["dtype"])
    return TensorSpec(_text(raw["name"]), tuple(shape), raw["dtype"])


def _weight(raw: Mapping[str, Any]) -> Weight:
    shape, dtype = _shape(raw["shape"], raw["dtype"]), raw["dtype"]
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if _size(raw["bytes"]) != size:
        raise ArtifactError(
            f"manifest.json is damaged: weight {raw['name']!r} of {raw['bytes']} bytes, not {size}"
        )
    return Weight(_text(raw["name"]), dtype, shape, _size(raw["offset"]), size, _size(raw.get("coded", 0)))


def _shape(raw: Sequence[Any], dtype: Any) -> tuple[int, ...]:
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}")
    if not isinstance(raw, list) or len(raw) > _MAX_RANK:
        raise ValueError(f"shape {raw!r}")
    shape = tuple(_size(extent) for extent in raw)
    _size(math.prod(shape))
    return shape


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_BYTES:
        raise ValueError(f"{value!r} is not a size")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(_text(item) for item in value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not an object")
    return value
