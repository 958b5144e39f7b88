"""The bugs that a file offers by its syntax, for ``tests/mutants.py``: Python's, and the values of
YAML.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
ARITHMETIC = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
CALLS = {
    "amax": "amin",
    "amin": "amax",
    "max": "min",
    "min": "max",
    "sum": "mean",
    "mean": "sum",
    "all": "any",
    "any": "all",
    "zeros": "ones",
    "ones": "zeros",
    "clamp_min": "clamp_max",
    "sorted": "list",
    "cumsum": "cumprod",
}


@dataclass(frozen=True)
class Mutant:
    """A bug: ``start`` to ``end`` of a file's text become ``text``."""

    file: str
    line: int
    start: int
    end: int
    text: str
    what: str
    listed: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def offered(file: str, source: str) -> list[Mutant]:
    """All bugs of a file's syntax, in the order of the file."""
    if not file.endswith(".py"):
        return values_of(file, source)
    planter = Planter(file, source)
    planter.visit(ast.parse(source))
    return sorted(planter.found, key=lambda m: (m.start, m.end, m.text))


def values_of(file: str, source: str) -> list[Mutant]:
    """Numbers and flags of a YAML file, outside of comments."""
    found, at = [], 0
    for number, line in enumerate(source.encode().splitlines(keepends=True), start=1):
        for match in re.finditer(
            rb"(?<=: )(-?\d[\d.e-]*|True|False)(?=[\s,}])", line.partition(b"#")[0]
        ):
            old = match[0].decode()
            flags = {"True": "False", "False": "True"}
            new = flags.get(old) or str(
                int(old) + 1 if old.lstrip("-").isdigit() else 2 * float(old) or 1.0
            )
            key = line[: match.start()].decode().rsplit(":", 1)[0].split()[-1].strip("{,")
            found.append(
                Mutant(
                    file,
                    number,
                    at + match.start(),
                    at + match.end(),
                    new,
                    f"{key}: {old} -> {new}",
                )
            )
        at += len(line)
    return found


class Planter(ast.NodeVisitor):
    """Collects the bugs that the syntax of a file offers."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source, self.found = file, source, list[Mutant]()
        self.starts = [0]
        for line in source.encode().splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.bytes = source.encode()

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node is in the file, in bytes."""
        start = self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def plant(self, node: ast.AST, text: str, place: tuple[int, int] | None = None) -> None:
        start, end = place or self.span(node)
        old = self.bytes[start:end].decode()
        if old != text:
            what = f"{' '.join(old.split())[:60]} -> {' '.join(text.split())[:60]}"
            self.found.append(Mutant(self.file, node.lineno, start, end, text, what))  # type: ignore[attr-defined]

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """Replace the operator between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        text = self.bytes[start:end].decode()
        if text.count(old) == 1 or text.strip() == old:
            at = start + len(text[: text.index(old)].encode())
            self.plant(right, new, (at, at + len(old)))

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right, operator in zip(operands, operands[1:], node.ops, strict=False):
            self.between(left, right, _symbol(operator), COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        text = isinstance(node.left, ast.Constant | ast.JoinedStr) and not isinstance(
            getattr(node.left, "value", None), int | float
        )
        if type(node.op) in ARITHMETIC and not text:
            self.between(node.left, node.right, _symbol(node.op), ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        self.between(node.values[0], node.values[1], old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            self.plant(node, f"-{node.operand.value + 1}")
        elif isinstance(node.op, ast.Not | ast.USub):
            self.plant(node, f"({ast.unparse(node.operand)})")
        if isinstance(node.op, ast.Not):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.plant(node, str(not value))
        elif isinstance(value, int):
            self.plant(node, str(value + 1))
        elif isinstance(value, float):
            self.plant(node, str(value * 2 if value else 1.0))

    def visit_If(self, node: ast.If) -> None:
        self.plant(node.test, f"not ({ast.unparse(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.plant(node.test, f"not ({ast.unparse(node.test)})")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        if name in CALLS:
            end = self.span(node.func)[1]
            self.plant(node, CALLS[name], (end - len(name), end))
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.plant(node, "pass")
            self.generic_visit(node)  # a docstring is no call, and offers nothing

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.plant(node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None:
            self.plant(node, "pass")  # and the text of a message is no bug

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.args.defaults, *node.args.kw_defaults, *node.body):
            if part is not None:
                self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:  # its decorators' options are about the class, not about results
            self.visit(part)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":  # of zip: an assertion for the programmer
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Nothing: text for people."""


def _symbol(operator: ast.AST) -> str:
    """The operator as it is written."""
    if isinstance(operator, ast.cmpop):
        return (
            ast.unparse(ast.Compare(ast.Name("a"), [operator], [ast.Name("b")]))
            .removeprefix("a")
            .removesuffix("b")
            .strip()
        )
    return ast.unparse(ast.BinOp(ast.Name("a"), operator, ast.Name("b"))).strip("ab ")
