"""The grammar of Relay's text format (0.0.5 and what older releases printed), and the tree that it makes."""

from __future__ import annotations

import functools
import re
from typing import Any

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedInput, VisitError

from dlcomp.errors import ModelError
from dlcomp.frontend.relay import syntax
from dlcomp.frontend.relay.syntax import Place

_GRAMMAR = r"""
start: function+ | whole
function: "def" GLOBAL [generics] "(" [parameters] ")" ["->" type] block
generics: "[" NAME ("," NAME)* "]"
// A function or an expression alone, as older releases printed it.
whole: free* body
free: "free_var" VAR [mark] [":" type] ";"
literal: "fn" [generics] "(" [parameters] ")" ["->" type] block
parameters: parameter ("," parameter)* [","]
parameter: VAR [mark] [":" type] | NAME "=" attribute -> ignored
mark: "{" NAME "=" attribute "}"
block: "{" body "}"
body: binding* expr
binding: ["let"] VAR [mark] [":" type] "=" expr ";"
?expr: postfix
?postfix: atom
    | postfix "(" [arguments] ")" -> call
    | postfix PROJECT -> project
?atom: VAR -> variable
    | GLOBAL -> global_
    | NUMBER -> number
    | "True" -> yes
    | "False" -> no
    | meta
    | NAME -> operator
    | "(" ")" -> tuple_
    | "(" expr ")" -> bracketed
    | "(" binding+ expr ")" -> body
    | "(" expr "," [expr ("," expr)*] [","] ")" -> tuple_
    | literal
    | block
    | "if" "(" expr ")" block "else" block -> branch
arguments: argument ("," argument)* [","]
// Types of the operands stand among them in what releases before 0.8 printed.
?argument: NAME "=" attribute -> named
    | "Tensor" "[" "(" [dimension ("," dimension)*] [","] ")" "," NAME "]" -> type_argument
    | expr
?attribute: NUMBER -> plain_number
    | STRING -> string
    | "True" -> true
    | "False" -> false
    | meta
    | DEVICE -> mapping
    | NAME -> word
    | NAME "(" [pair ("," pair)*] ")" -> mapping
    | "[" [attribute ("," attribute)*] [","] "]" -> list_
    | "(" [attribute ("," attribute)*] [","] ")" -> list_
    | "{" [pair ("," pair)*] "}" -> mapping
pair: (STRING | NAME) (":" | "=") attribute
meta: "meta" "[" NAME "]" "[" NUMBER "]"
?type: "Tensor" "[" "(" [dimension ("," dimension)*] [","] ")" "," NAME "]" -> tensor_type
    | NAME -> scalar_type
    | "(" [type ("," type)*] [","] ")" -> tuple_type
    | NAME "[" [type ("," type)*] "]" -> other_type
    | "fn" [generics] "(" [type ("," type)*] ")" "->" type -> other_type
dimension: NUMBER | "?" | meta
VAR: /%(\d+|[A-Za-z_][\w.:\/\-]*[\w]|[A-Za-z_])/
GLOBAL: /@[A-Za-z_][\w.]*/
PROJECT: /\.\d+/
DEVICE.3: /VirtualDevice\((?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*\)/
NUMBER.2: /-?(\d+\.?\d*([eE][+-]?\d+)?|inf|nan)(f16|f32|f64|f|i8|i16|i32|i64|u8|u16|u32|u64|bool)?\b/
NAME: /[A-Za-z_]\w*(\.[A-Za-z_]\w*)*/
STRING: /"(\\.|[^"\\])*"|'[^']*'/
%ignore /\s+/
%ignore /\/\*(.|\n)*?\*\//
%ignore /\/\/[^\n]*/
%ignore /#\[version[^\]]*\]/
"""
DEEP = "expressions are nested too deep"
_BIND = "bind inner expressions to names: print the module after ToGraphNormalForm or ToANormalForm"
_SCALAR = r"(u?int|float)\d+|bool"
_DTYPES = {"f": "float32", "f16": "float16", "f32": "float32", "f64": "float64", "bool": "bool"}


def parse(text: str, name: str) -> syntax.Module:
    """The module in ``text``, without its metadata.

    Raises
    ------
    ModelError
        With the place and the text there.
    """
    try:
        functions = _Tree().transform(_parser().parse(text))
    except UnexpectedInput as error:
        raise _unexpected(error, text, name) from error
    except VisitError as error:
        place = _place(getattr(error.obj, "meta", error.obj))
        if isinstance(error.orig_exc, RecursionError):
            raise ModelError(f"{place}: {DEEP}", where=name, hint=_BIND) from error
        raise ModelError(f"{place}: not Relay text: {error.orig_exc}", where=name) from error
    except RecursionError as error:
        raise ModelError(f"{Place(1, 1)}: {DEEP}", where=name, hint=_BIND) from error
    if "main" not in functions:
        raise ModelError(
            f"{Place(1, 1)}: there is no function @main",
            where=name,
            hint=f"the functions are {', '.join(f'@{key}' for key in functions)}",
        )
    return syntax.Module(functions)


def _unexpected(error: UnexpectedInput, text: str, name: str) -> ModelError:
    """What is wrong where the grammar does not go on."""
    lines = text.splitlines() or [""]
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        place = Place(len(lines), len(lines[-1]) + 1)
        return ModelError(
            f"{place}: the text ends too early, behind {lines[-1].strip()[-60:]!r}",
            where=name,
            hint="the file is incomplete; print the module again",
        )
    line = lines[error.line - 1] if 0 < error.line <= len(lines) else ""
    first = re.match(r"\s*(type|match|ref|def @[\w.]+ =)(?!\w)", line)
    return ModelError(
        f"{Place(error.line, error.column)}: not Relay text: {line.strip()[:80]!r}",
        where=name,
        hint="data types of one's own, matches, references and external functions are not supported"
        if first
        else "it must be what mod.astext() or print(mod) wrote in TVM 0.8 to 0.19",
    )


@functools.cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", propagate_positions=True, maybe_placeholders=True)


def _number(token: str) -> tuple[Any, str]:
    """Value and element type of a literal: ``1f``, ``2i64``, ``0.5f64``, ``3`` (an int32)."""
    found = re.fullmatch(r"(-?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|inf|nan))([a-z]+\d*)?", token)
    assert found is not None
    digits, suffix = found.groups()
    if suffix is None:
        whole = re.fullmatch(r"-?\d+", digits)
        return (int(digits), "int32") if whole else (float(digits), "float32")
    if suffix in _DTYPES:
        return float(digits), _DTYPES[suffix]
    kind = "uint" if suffix[0] == "u" else "int"
    return int(digits), f"{kind}{suffix[1:]}"


def _place(meta: Any) -> Place:
    return Place(getattr(meta, "line", 0), getattr(meta, "column", 0))


def _is_type(item: Any) -> bool:
    return isinstance(item, syntax.TensorType) or (
        isinstance(item, syntax.Operator) and re.fullmatch(_SCALAR, item.name) is not None
    )


def _present(items: list[Any]) -> list[Any]:
    return [item for item in items if item is not None]


class _Tree(Transformer[Token, Any]):
    """From lark's tree to :mod:`dlcomp.frontend.relay.syntax`."""

    def start(self, items: list[Any]) -> dict[str, syntax.Function]:
        return dict(items)

    def function(self, items: list[Any]) -> tuple[str, syntax.Function]:
        name, _, parameters, _, body = items
        return str(name)[1:], syntax.Function(body.place, tuple(parameters or ()), body)

    @v_args(meta=True)
    def whole(self, meta: Any, items: list[Any]) -> tuple[str, syntax.Function]:
        *free, body = items
        alone = body.value
        if isinstance(alone, syntax.Function) and not body.bindings:
            return "main", syntax.Function(alone.place, (*free, *alone.parameters), alone.body)
        return "main", syntax.Function(_place(meta), tuple(free), body)

    def free(self, items: list[Any]) -> tuple[str, Any]:
        return str(items[0])[1:], items[2]

    def mark(self, items: list[Any]) -> None:
        return None

    def generics(self, items: list[Any]) -> None:
        return None

    @v_args(meta=True)
    def literal(self, meta: Any, items: list[Any]) -> syntax.Function:
        _, parameters, _, body = items
        return syntax.Function(_place(meta), tuple(parameters or ()), body)

    def parameters(self, items: list[Any]) -> list[Any]:
        return [item for item in _present(items) if item != ()]

    def parameter(self, items: list[Any]) -> tuple[str, Any]:
        return str(items[0])[1:], items[2]

    def ignored(self, items: list[Any]) -> tuple[()]:
        return ()

    def block(self, items: list[Any]) -> Any:
        return items[0]

    @v_args(meta=True)
    def body(self, meta: Any, items: list[Any]) -> syntax.Block:
        *bindings, value = items
        return syntax.Block(_place(meta), tuple(bindings), value)

    def binding(self, items: list[Any]) -> tuple[str, Any]:
        name, _, _, value = [item for item in items if not (isinstance(item, Token) and item == "let")]
        return str(name)[1:], value

    @v_args(meta=True)
    def call(self, meta: Any, items: list[Any]) -> syntax.Call:
        callee, given = items
        given = [item for item in _present(given or []) if not _is_type(item)]
        named: dict[str, Any] = dict(item for item in given if isinstance(item, tuple))
        plain = tuple(item for item in given if not isinstance(item, tuple))
        return syntax.Call(_place(meta), callee, plain, named)

    def arguments(self, items: list[Any]) -> list[Any]:
        return _present(items)

    def named(self, items: list[Any]) -> tuple[str, Any]:
        return str(items[0]), items[1]

    @v_args(meta=True)
    def project(self, meta: Any, items: list[Any]) -> syntax.Projection:
        return syntax.Projection(_place(meta), items[0], int(items[1][1:]))

    @v_args(meta=True)
    def variable(self, meta: Any, items: list[Any]) -> syntax.Variable:
        return syntax.Variable(_place(meta), str(items[0])[1:])

    @v_args(meta=True)
    def global_(self, meta: Any, items: list[Any]) -> syntax.Global:
        return syntax.Global(_place(meta), str(items[0])[1:])

    @v_args(meta=True)
    def operator(self, meta: Any, items: list[Any]) -> syntax.Operator:
        return syntax.Operator(_place(meta), str(items[0]))

    @v_args(meta=True)
    def number(self, meta: Any, items: list[Any]) -> syntax.Number:
        return syntax.Number(_place(meta), *_number(str(items[0])))

    @v_args(meta=True)
    def yes(self, meta: Any, items: list[Any]) -> syntax.Number:
        return syntax.Number(_place(meta), True, "bool")

    @v_args(meta=True)
    def no(self, meta: Any, items: list[Any]) -> syntax.Number:
        return syntax.Number(_place(meta), False, "bool")

    @v_args(meta=True)
    def tuple_(self, meta: Any, items: list[Any]) -> syntax.TupleOf:
        return syntax.TupleOf(_place(meta), tuple(_present(items)))

    def bracketed(self, items: list[Any]) -> Any:
        return items[0]

    @v_args(meta=True)
    def branch(self, meta: Any, items: list[Any]) -> syntax.Branch:
        return syntax.Branch(_place(meta), *items)

    @v_args(meta=True)
    def meta(self, meta: Any, items: list[Any]) -> syntax.Constant:
        return syntax.Constant(_place(meta), str(items[0]), int(items[1]))

    # -- attributes ------------------------------------------------------------------------------------------

    def plain_number(self, items: list[Any]) -> Any:
        return _number(str(items[0]))[0]

    def string(self, items: list[Any]) -> str:
        return str(items[0])[1:-1]

    def word(self, items: list[Any]) -> Any:
        return {"None": None, "nullptr": None}.get(str(items[0]), str(items[0]))

    def true(self, items: list[Any]) -> bool:
        return True

    def false(self, items: list[Any]) -> bool:
        return False

    def list_(self, items: list[Any]) -> list[Any]:
        return [item for item in items if item is not None]

    def mapping(self, items: list[Any]) -> None:
        return None

    def pair(self, items: list[Any]) -> None:
        return None

    # -- types -----------------------------------------------------------------------------------------------

    def dimension(self, items: list[Any]) -> Any:
        return int(items[0]) if items and isinstance(items[0], Token) else "?"

    def tensor_type(self, items: list[Any]) -> syntax.TensorType:
        *dims, dtype = _present(items)
        return syntax.TensorType(tuple(None if d == "?" else d for d in dims), str(dtype))

    def type_argument(self, items: list[Any]) -> syntax.TensorType:
        return self.tensor_type(items)

    def scalar_type(self, items: list[Any]) -> syntax.TensorType:
        return syntax.TensorType((), str(items[0]))

    def tuple_type(self, items: list[Any]) -> tuple[Any, ...]:
        return tuple(_present(items))

    def other_type(self, items: list[Any]) -> None:
        return None
