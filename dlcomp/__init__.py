"""dlcomp: makes a trained network smaller, makes it fast on the processor you name, and proves both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcomp.compress.channels import PruneChannels
    from dlcomp.compress.codebook import ShareWeights
    from dlcomp.compress.equalize import Equalize
    from dlcomp.compress.lowrank import LowRank, LowRankSparse
    from dlcomp.compress.quantize import Quantize
    from dlcomp.compress.quantize.saturation import check_saturation
    from dlcomp.compress.search import Budget, search
    from dlcomp.compress.smooth import Smooth
    from dlcomp.compress.sparsify import Sparsify
    from dlcomp.errors import DlcompError
    from dlcomp.frontend import load
    from dlcomp.model import Model
    from dlcomp.runtime.artifact import Artifact, open
    from dlcomp.runtime.verify import verify
    from dlcomp.target import Target
    from dlcomp.tune import tune

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Budget",
    "DlcompError",
    "Equalize",
    "LowRank",
    "LowRankSparse",
    "Model",
    "PruneChannels",
    "Quantize",
    "ShareWeights",
    "Smooth",
    "Sparsify",
    "Target",
    "__version__",
    "check_saturation",
    "load",
    "open",
    "search",
    "tune",
    "verify",
]

# Public names are imported on first use: TVM takes seconds to import, `dlcomp --help` must not.
_HOME = {
    "Artifact": "dlcomp.runtime.artifact",
    "Budget": "dlcomp.compress.search",
    "DlcompError": "dlcomp.errors",
    "Equalize": "dlcomp.compress.equalize",
    "LowRank": "dlcomp.compress.lowrank",
    "LowRankSparse": "dlcomp.compress.lowrank",
    "Model": "dlcomp.model",
    "PruneChannels": "dlcomp.compress.channels",
    "Quantize": "dlcomp.compress.quantize",
    "ShareWeights": "dlcomp.compress.codebook",
    "Smooth": "dlcomp.compress.smooth",
    "Sparsify": "dlcomp.compress.sparsify",
    "Target": "dlcomp.target",
    "check_saturation": "dlcomp.compress.quantize.saturation",
    "load": "dlcomp.frontend",
    "open": "dlcomp.runtime.artifact",
    "search": "dlcomp.compress.search",
    # The package, which can be called.
    "tune": "dlcomp.tune",
    "verify": "dlcomp.runtime.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dlcomp' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
