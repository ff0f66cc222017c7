"""Small changes of a file's syntax tree, one at a time; `tests.mutants` sees which of them the tests notice."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SWAPPED: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    **{ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.And: (ast.Or,), ast.Or: (ast.And,)},
    **{ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,)},
    **{ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Eq: (ast.NotEq,)},
    **{ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE), ast.NotEq: (ast.Eq,)},
}
OTHER = {"min": "max", "max": "min"}


class Mutant(NamedTuple):
    """One change of one module."""

    file: str
    line: int
    before: str
    after: str
    """The line that differs, without and with the change."""
    source: str

    @property
    def row(self) -> str:
        """Its row in the table of what was not noticed, but for the place and the reason."""
        return " | ".join(f"`{line}`".replace("|", "\\|") for line in (self.before, self.after))


def is_left_alone(node: ast.AST) -> bool:
    """Whether nothing inside is changed: what is raised, logged, asserted or put into a message."""
    if isinstance(node, ast.Expr):
        return is_left_alone(node.value)
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    spoken = called.startswith("logger.") or called.endswith("Error")
    return spoken or isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr)


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that a node may become."""

    def but(**fields: object) -> ast.AST:
        return type(node)(**{**dict(ast.iter_fields(node)), **fields})

    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            yield from (but(op=other()) for other in SWAPPED.get(type(op), ()))
        case ast.Compare(ops=[op]):
            yield from (but(ops=[other()]) for other in SWAPPED.get(type(op), ()))
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1 if value < 1e6 else 2 * value)
        case ast.Call(func=ast.Attribute(attr="clamp"), args=[low, high]):
            yield but(args=[high, low])
        case ast.Call(func=ast.Attribute(attr="clamp"), keywords=[ast.keyword(arg=str(side), value=bound)]):
            yield but(keywords=[ast.keyword(OTHER[side], bound)])
        case ast.Call(func=ast.Name(id="min" | "max" as name)):
            yield but(func=ast.Name(OTHER[name]))
        case ast.Return(value=ast.expr() as value) if not is_left_alone(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.If(test=test) | ast.IfExp(test=test) if isinstance(
            test, ast.Name | ast.Attribute | ast.Call
        ):
            yield but(test=ast.UnaryOp(ast.Not(), test))


def sites(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may change, in the order of the source."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            skipped = name in ("annotation", "returns", "decorator_list")
            if isinstance(child, ast.AST) and not skipped and not is_left_alone(child):
                yield child
                yield from sites(child)


def mutants_of(file: str) -> Iterator[Mutant]:
    """All mutants of a module, none twice."""
    source = (ROOT / file).read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.encode().splitlines(keepends=True)
    seen = {ast.dump(tree)}
    for site in sites(tree):
        for change in changes(site):
            node, changed = site, change
            if isinstance(node, ast.If):  # the body stays as it is written
                node, changed = node.test, changed.test  # type: ignore[attr-defined]
            first, last = node.lineno - 1, node.end_lineno - 1  # type: ignore[attr-defined]
            text = ast.unparse(ast.fix_missing_locations(changed))
            text = f"({text})" if isinstance(changed, ast.expr) else text
            head, tail = lines[first][: node.col_offset], lines[last][node.end_col_offset :]  # type: ignore[attr-defined]
            new = head + text.encode() + tail
            mutated = b"".join([*lines[:first], new, *lines[last + 1 :]]).decode()
            meaning = ast.dump(ast.parse(mutated))
            if meaning not in seen:
                seen.add(meaning)
                yield Mutant(file, first + 1, lines[first].decode().strip(), new.decode().strip(), mutated)
