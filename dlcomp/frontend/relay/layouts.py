"""Layouts as words: ``NHWC``, ``OIHW``, and blocked ones as ``NCHW8c`` (8 channels innermost)."""

from __future__ import annotations

import math
import re

from dlcomp.frontend.builder import Builder, Tensor


def plain(rank: int) -> str:
    """Channels first: NCW, NCHW or NCDHW."""
    return "NC" + "DHW"[3 - rank :]


def to_layout(b: Builder, x: Tensor, source: str, wanted: str) -> Tensor:
    """``x`` in another layout of the same axes.

    Raises
    ------
    ValueError
        The layouts have other axes, or a size is no multiple of its block.
    """
    if source == wanted:
        return x
    old, new = _axes(source), _axes(wanted)
    if {a for a, _ in old} != {a for a, _ in new} or len(old) != x.rank:
        axes = "axes" if len(old) == x.rank else f"axes of {x.rank} dimensions"
        raise ValueError(f"the layouts {source} and {wanted} are not of the same {axes}")
    names = list(dict.fromkeys(a for a, _ in old))
    # Every block behind its axis, and joined with it.
    order = [place for name in names for place, (a, _) in enumerate(old) if a == name]
    x = b.transpose(x, order)
    sizes: dict[str, int] = {}
    for place, size in zip(order, x.shape, strict=True):
        name, block = old[place]
        if block and block != size:
            raise ValueError(f"the layout {source} says a block of {block}, the tensor has {size}")
        sizes[name] = sizes.get(name, 1) * size
    x = b.reshape(x, list(sizes.values()))
    # Apart again, in blocks of the other layout.
    parts = [(name, block) for name in names for a, block in sorted(new, key=lambda p: p[1]) if a == name]
    shape = []
    for name, block in parts:
        blocks = math.prod(n for a, n in new if a == name and n)
        if sizes[name] % blocks:
            raise ValueError(f"{sizes[name]} is no multiple of the block in {wanted}")
        shape.append(block or sizes[name] // blocks)
    x = b.reshape(x, shape)
    return b.transpose(x, [parts.index(part) for part in new])


def _axes(layout: str) -> list[tuple[str, int]]:
    """(axis, size of its block, or 0 for the axis itself), outermost first."""
    found = re.findall(r"(\d*)([A-Za-z])", layout)
    axes = [(letter.upper(), int(digits or 0)) for digits, letter in found]
    sound = "".join(digits + letter for digits, letter in found) == layout
    sound &= all(bool(digits) == letter.islower() for digits, letter in found)
    whole = [a for a, block in axes if not block]
    if not sound or len(set(axes)) != len(axes) or {a for a, _ in axes} != set(whole):
        raise ValueError(f"{layout!r} is no layout")
    # Two blocks of an axis would need their order.
    if any([a for a, block in axes if block].count(a) > 1 for a in whole):
        raise ValueError(f"the layout {layout} is not supported")
    return axes
