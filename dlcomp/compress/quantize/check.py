"""What the options of quantization may be, and which of them go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlcomp.compress.layers import check_expressions
from dlcomp.compress.quantize.ranges import METHODS
from dlcomp.errors import UsageError

if TYPE_CHECKING:
    from dlcomp.compress.quantize import Quantize

# Types of activations, and how many numbers each has.
ACTIVATIONS = {"uint8": 256, "int8": 256, "uint16": 65536, "int16": 65536}
# Only weights become integers; activations too, by the ranges of each run.
FLOAT, DYNAMIC = "float32", "dynamic"
SCALES = ("any", "power_of_two")


def check(made: Quantize) -> None:
    """Raise ``UsageError`` where an option cannot be what it is."""
    if made.scales not in SCALES:
        raise UsageError(f"scales cannot be {made.scales!r}", hint=", ".join(SCALES))
    if made.activations not in (*ACTIVATIONS, FLOAT, DYNAMIC):
        known = ", ".join((*ACTIVATIONS, FLOAT, DYNAMIC))
        raise UsageError(f"activations cannot be {made.activations!r}", hint=known)
    if made.method not in METHODS:
        raise UsageError(f"there is no method {made.method!r}", hint=", ".join(METHODS))
    if not 2 <= made.bits <= 8:
        raise UsageError(f"weights can have 2 to 8 bits, not {made.bits}")
    if not 0 < made.integer_macs <= 1:
        raise UsageError(f"integer_macs is a share above 0 and at most 1, not {made.integer_macs}")
    if made.integer_macs < 1 and made.activations in (FLOAT, DYNAMIC):
        raise UsageError(
            f"integer_macs chooses among layers with fixed ranges, and activations are {made.activations}",
            hint="activations=uint8, or name the layers with keep",
        )
    _check_group(made)
    check_expressions((*made.keep, *made.wide))
    if made.wide and made.scales == "power_of_two":
        raise UsageError("scales=power_of_two are those of 8 bits, wide has 16", hint="leave out one")


def _check_group(made: Quantize) -> None:
    if not made.group:
        return
    if made.group < 16 or made.group % 8:
        raise UsageError(
            f"a group is a multiple of 8 from 16 on, not {made.group}", hint="group=32, 64 or 128"
        )
    for option, value, needed in (
        ("activations", made.activations, FLOAT),
        ("per_channel", made.per_channel, True),
        ("scales", made.scales, "any"),
    ):
        if value != needed:
            raise UsageError(f"group needs {option}={needed}, not {value}")
    if made.rounding == "adaround":
        raise UsageError("group cannot be rounded by adaround", hint="rounding=gptq")
