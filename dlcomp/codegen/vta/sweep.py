"""One network on many accelerators: cycles, bytes and scratchpads of every size that can be built.

Sizes that no instruction encodes, and those whose scratchpads a layer does not fit, are reported with the
reason, not left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dlcomp.codegen.vta.network import compile_network
from dlcomp.errors import ModelError, UsageError
from dlcomp.model import Model
from dlcomp.vta import isa
from dlcomp.vta.config import VtaConfig

_MEMORIES = ("uop", "inp", "wgt", "acc")


@dataclass(frozen=True)
class Point:
    """An accelerator and what a network costs on it; ``refused`` says why it has no cycles.

    Attributes
    ----------
    bytes : int
        Over the bus in one run, instructions included.
    on_chip : int
        Bytes of all scratchpads.
    """

    keys: Mapping[str, object]
    name: str
    macs_per_cycle: int
    on_chip: int
    cycles: int = 0
    milliseconds: float = 0.0
    utilisation: float = 0.0
    bytes: int = 0
    refused: str = ""


def descriptions(
    base: VtaConfig,
    blocks: Sequence[int] = (),
    batches: Sequence[int] = (),
    buses: Sequence[int] = (),
    scratchpads: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[dict[str, object]]:
    """The keys of every combination; what is not given is that of ``base``.

    A scratchpad that is not given never holds more elements than in ``base``: of the small elements of a
    small block, as many bytes would be more than instructions can address.

    Parameters
    ----------
    buses : sequence of int
        Widths in bits.
    scratchpads : mapping of uop, inp, wgt or acc to sequence of int
        Bytes.

    Raises
    ------
    UsageError
        A size that is no power of two.
    """
    given = scratchpads or {}
    if unknown := sorted(set(given) - set(_MEMORIES)):
        raise UsageError(f"there is no scratchpad {unknown[0]!r}", hint=", ".join(_MEMORIES))
    keys = base.to_dict()
    axes: dict[str, list[int]] = {
        "LOG_BLOCK": [_log2("a block", size) for size in blocks],
        "LOG_BATCH": [_log2("a batch", size) for size in batches],
        "BUS_BITS": [int(size) for size in buses],
        **{
            f"LOG_{name.upper()}_BUFF_SIZE": [_log2(f"the scratchpad {name}", size) for size in sizes]
            for name, sizes in given.items()
        },
    }
    chosen = {key: values for key, values in axes.items() if values}
    for values in itertools.product(*chosen.values()):
        found = {**keys, **dict(zip(chosen, values, strict=True))}
        lanes = int(str(found["LOG_BATCH"])) + int(str(found["LOG_BLOCK"]))
        elements = {"inp": lanes, "wgt": 2 * int(str(found["LOG_BLOCK"])), "acc": lanes + 2}
        for name in set(elements) - set(given):
            key = f"LOG_{name.upper()}_BUFF_SIZE"
            found[key] = min(int(str(keys[key])), base.log_depth(name) + elements[name])
        yield found


def sweep(
    model: Model,
    points: Sequence[Mapping[str, object]],
    shown: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """Compile ``model`` for each description and simulate its cycles; ``shown`` sees every point at once."""
    found = []
    for keys in points:
        found.append(_point(model, keys))
        shown(found[-1])
    return found


def _point(model: Model, keys: Mapping[str, object]) -> Point:
    sizes = {name: 1 << int(str(keys[f"LOG_{name.upper()}_BUFF_SIZE"])) for name in _MEMORIES}
    batch, block = (1 << int(str(keys[name])) for name in ("LOG_BATCH", "LOG_BLOCK"))
    name = f"{batch}x{block} " + "/".join(_size(size) for size in sizes.values())
    name += f" KiB, {keys['BUS_BITS']} bits"
    figures = (dict(keys), name, batch * block**2, sum(sizes.values()))
    try:
        config = VtaConfig.of(keys)
        network = compile_network(model, config)
    except ModelError:
        # No layer has power-of-two scales: that is so on every accelerator.
        raise
    except UsageError as error:
        return Point(*figures, refused=error.message)
    cycles = sum(layer.cycles for layer in network.cycles())
    traffic = sum(moved(region.program.instructions(config), config) for region in network.regions.values())
    use = network.macs / config.macs_per_cycle / cycles
    return Point(*figures, cycles, cycles / config.clock_mhz / 1000, use, traffic)


def _size(size: int) -> str:
    return f"{size / 1024:g}"


def moved(instructions: Sequence[isa.Instruction], config: VtaConfig) -> int:
    """Bytes that loads and stores move, and the instructions themselves."""
    names = {isa.Memory.UOP: "uop", isa.Memory.INP: "inp", isa.Memory.WGT: "wgt", isa.Memory.ACC: "acc"}
    names |= {isa.Memory.OUT: "out", isa.Memory.ACC8: "acc8"}
    total = 16 * len(instructions)
    for one in instructions:
        if isinstance(one, isa.Transfer):
            total += one.x_size * one.y_size * config.element_bytes(names[one.memory])
    return total


def _log2(what: str, size: int) -> int:
    if size < 1 or size & (size - 1):
        raise UsageError(f"{what} of {size} is no power of two", hint="as in 8, 16, 32 or 32768")
    return size.bit_length() - 1


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats both in cycles and in bytes of scratchpads, the fewest cycles first."""
    good = [point for point in points if point.cycles]
    best = [
        one
        for one in good
        if not any(
            other.milliseconds <= one.milliseconds
            and other.on_chip <= one.on_chip
            and (other.milliseconds, other.on_chip) != (one.milliseconds, one.on_chip)
            for other in good
        )
    ]
    return sorted(best, key=lambda point: point.milliseconds)
