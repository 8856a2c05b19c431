"""`Node`: the syntax tree of a read answer. Plain, hashable, and JSON both ways.

| kind | value | args |
|---|---|---|
| num | decimal text, no separators | |
| sym | name: ``x``, ``alpha``, ``x_1``; ``pi e i oo RR ZZ QQ NN CC`` are constants | |
| add, mul | | any number |
| neg, fact, pct, deg | | one |
| div, pow | | two |
| call | function name | arguments (``root`` is (n, x), ``log`` is (x) or (x, base)) |
| apply | name of an unknown function | arguments |
| base | digits | base (num) |
| unit | unit text | the quantity |
| text | plain words | |
| tuple | its two brackets, such as ``(]`` | items |
| set, list, union, inter, minus, ratio | | items |
| rel | operators, blank-separated | members |
| matrix | ``rows x columns`` | cells, row by row |
| pm | ``+-`` or ``-+`` | one or two |
| big | sum, prod, int or lim | variable, lower, upper, body |
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Node(NamedTuple):
    """One node; see the table above."""

    kind: str
    value: str = ""
    args: tuple[Node, ...] = ()


def num(value: int | str) -> Node:
    """Return a number node."""
    return Node("num", str(value))


def sym(name: str) -> Node:
    """Return a symbol node."""
    return Node("sym", name)


def to_lists(node: Node) -> list[Any]:
    """Return the JSON form of a tree; `from_lists` gives it back."""
    return [node.kind, node.value, [to_lists(arg) for arg in node.args]]


def from_lists(row: list[Any]) -> Node:
    """Rebuild a tree from `to_lists`."""
    return Node(row[0], row[1], tuple(from_lists(arg) for arg in row[2]))


def contains(node: Node, kinds: frozenset[str]) -> bool:
    """True where any node of the tree has one of the kinds."""
    kind, _, args = node
    if kind in kinds:
        return True
    for arg in args:  # noqa: SIM110 (no generator: this runs several times for every node of every answer)
        if contains(arg, kinds):
            return True
    return False


def show(node: Node) -> str:
    """Return a compact, readable form of a tree: what ``--explain`` prints."""
    if node.kind in ("num", "sym"):
        return node.value
    args = [show(arg) for arg in node.args]
    match node.kind:
        case "text":
            return f'"{node.value}"'
        case "add":
            return "(" + " + ".join(args) + ")"
        case "mul":
            return "*".join(args)
        case "neg":
            return f"-{args[0]}"
        case "div":
            return f"{args[0]}/{args[1]}"
        case "pow":
            return f"{args[0]}^{args[1]}"
        case "fact":
            return f"{args[0]}!"
        case "pct":
            return f"{args[0]}%"
        case "deg":
            return f"{args[0]} deg"
        case "unit":
            return f"{args[0]} [{node.value}]"
        case "base":
            return f"{node.value}_{args[0]}"
        case "tuple":
            return node.value[0] + ", ".join(args) + node.value[1]
        case "set":
            return "{" + ", ".join(args) + "}"
        case "list":
            return ", ".join(args)
        case "union":
            return " U ".join(args)
        case "rel":
            words = [args[0]]
            for op, arg in zip(node.value.split(), args[1:], strict=True):
                words += [op, arg]
            return " ".join(words)
        case _:
            return f"{node.kind}{':' + node.value if node.value else ''}({', '.join(args)})"
