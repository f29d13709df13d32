"""What was observed of a network, kept while many variants of it are tried on the same samples."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcomp.compress.network import Network

_MOST_BYTES = 2 << 30


class Memory:
    """Observations by the network that they were made on, until there are too many bytes of them."""

    def __init__(self, most: int = _MOST_BYTES) -> None:
        self._kept: dict[tuple[str, str], dict[Any, Any]] = {}
        self._left = most

    def of(self, network: Network, kind: str) -> dict[Any, Any]:
        """What is known of ``kind`` of a network with the same nodes and weights; to be added to."""
        content = network.proto.SerializeToString(deterministic=True)
        return self._kept.setdefault((kind, hashlib.sha256(content).hexdigest()), {})

    def takes(self, size: int) -> bool:
        """Whether there is room for ``size`` bytes more, which then count."""
        if size > self._left:
            return False
        self._left -= size
        return True
