"""The attributes of one call as they were printed, read by name and kind.

Relay prints an attribute only if it differs from its default, so every reader gives TVM's default; and an
attribute that no converter asked for would change the result unseen, so :meth:`Attributes.unread` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What repeats a shape, belongs to training, or steers TVM's own scheduling.
_HARMLESS = frozenset(
    {
        "channels",
        "kernel_size",
        "units",
        "rate",
        "momentum",
        "auto_scheduler_rewritten_layout",
        "meta_schedule_original_shape",
    }
)


class Attributes:
    """Named values; one that was printed as ``None`` counts as absent."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self._asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self._asked.add(name)
        value = self._given.get(name)
        return default if value is None else value

    def required(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise ValueError(f"it has no attribute {name!r}")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        value = self.required(name) if default is None else self.get(name, default)
        return _whole(name, value)

    def real(self, name: str, default: float | None = None) -> float:
        value = self.required(name) if default is None else self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"the attribute {name} is {value!r}, not a number")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool | int):
            raise ValueError(f"the attribute {name} is {value!r}, not True or False")
        return bool(value)

    def text(self, name: str, default: str) -> str:
        """A word; an empty one means the default, as does ``void`` for an element type."""
        value = self.get(name, default)
        if not isinstance(value, str):
            raise ValueError(f"the attribute {name} is {value!r}, not a word")
        return default if value in ("", "void") else value

    def wholes(self, name: str, default: list[int] | None = None) -> list[int]:
        """A list, or one number as a list of one."""
        value = self.required(name) if default is None else self.get(name, default)
        return [_whole(name, item) for item in (value if isinstance(value, list) else [value])]

    def each(self, name: str, count: int, default: int = 1) -> list[int]:
        """``count`` numbers, of which one may stand for all."""
        values = self.wholes(name, [default])
        values = values * count if len(values) == 1 else values
        if len(values) != count:
            raise ValueError(f"the attribute {name} has {len(values)} numbers, not {count}")
        return values

    def pads(self, rank: int) -> list[int]:
        """``padding`` as ONNX has it: one number, one for each axis, or all, first those before."""
        values = self.wholes("padding", [0])
        values = values * rank if len(values) == 1 else values
        values = values * 2 if len(values) == rank else values
        if len(values) != 2 * rank:
            raise ValueError(f"the attribute padding has {len(values)} numbers, not {2 * rank}")
        return values

    def ignore(self) -> None:
        """Nothing that was printed matters."""
        self._asked.update(self._given)

    def unread(self) -> list[str]:
        """What was printed and not asked for."""
        rest = set(self._given) - self._asked - _HARMLESS
        return sorted(name for name in rest if self._given[name] not in (None, ""))


def _whole(name: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise ValueError(f"the attribute {name} has {value!r}, not a whole number")
    return int(value)
