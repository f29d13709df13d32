"""Instructions as text and back: one a line, ``LOAD memory=INP sram_base=0 x_size=4 pop_next push_next``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from dlcomp.errors import UsageError
from dlcomp.vta import isa

_BY_NAME: dict[str, type[isa.Instruction]] = {
    "LOAD": isa.Load,
    "STORE": isa.Store,
    "GEMM": isa.Gemm,
    "ALU": isa.Alu,
    "FINISH": isa.Finish,
}
_ENUMS: dict[str, Any] = {"memory": isa.Memory, "op": isa.AluOp}


def disassemble_one(instruction: isa.Instruction) -> str:
    """One line; fields at their default are left out."""
    words = [isa.opcode_of(instruction).name]
    for field in dataclasses.fields(instruction):
        value = getattr(instruction, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            if isinstance(value, bool):
                words.append(field.name if value else f"{field.name}=0")
            else:
                words.append(f"{field.name}={getattr(value, 'name', value)}")
    return " ".join(words)


def disassemble(instructions: Iterable[isa.Instruction]) -> str:
    """All of a program, one line an instruction."""
    return "".join(f"{disassemble_one(instruction)}\n" for instruction in instructions)


def assemble(text: str) -> tuple[isa.Instruction, ...]:
    """The instructions of ``text``; ``#`` begins a comment. UsageError names the line."""
    lines = [line.partition("#")[0].split() for line in text.splitlines()]
    return tuple(_line(words, number) for number, words in enumerate(lines, 1) if words)


def _line(words: Sequence[str], number: int) -> isa.Instruction:
    where = f"line {number}"
    cls = _BY_NAME.get(words[0])
    if cls is None:
        raise UsageError(f"unknown instruction {words[0]!r}", hint=", ".join(_BY_NAME), where=where)
    known = {field.name: field for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for word in words[1:]:
        name, equals, text = word.partition("=")
        if name not in known or name in values:
            why = "given twice" if name in values else f"no field of {words[0]}"
            raise UsageError(f"{name!r} is {why}", where=where)
        values[name] = _value(name, text, known[name].default, bool(equals), where)
    for name, field in known.items():
        if field.default is dataclasses.MISSING and name not in values:
            raise UsageError(f"{words[0]} needs {name}=", where=where)
    return cls(**values)


def _value(name: str, text: str, default: Any, given: bool, where: str) -> Any:
    if name in _ENUMS:
        if text not in _ENUMS[name].__members__:
            raise UsageError(f"{name} is one of {', '.join(_ENUMS[name].__members__)}", where=where)
        return _ENUMS[name][text]
    if isinstance(default, bool):
        if given and text not in ("0", "1"):
            raise UsageError(f"{name} is a flag (0 or 1), not {text!r}", where=where)
        return not given or text == "1"
    try:
        return int(text, 0)
    except ValueError as err:
        raise UsageError(f"{name} is a number, not {text!r}", where=where) from err
