"""`grader_fingerprint`: which grader made a grade. Part of every result file; two rows of one grader are comparable."""

from __future__ import annotations

import ast
import hashlib
import re
from functools import lru_cache
from pathlib import Path

from selfcorrect.grading import second_reading

VERSION = "2"
"""Raise it where stored grades should count as another grader's whatever the code says."""

RULE_FILES = (
    "denials.py",
    "extraction.py",
    "grader.py",
    "numerals.py",
    "references.py",
    "rules.py",
    "second_reading.py",
    "spelling.py",
    "thoughts.py",
    "wording.py",
    "maths/algebra.py",
    "maths/common_units.py",
    "maths/equivalence.py",
    "maths/exact.py",
    "maths/lexer.py",
    "maths/limits.py",
    "maths/numeric.py",
    "maths/parser.py",
    "maths/readings.py",
    "maths/shapes.py",
    "maths/tree.py",
    "maths/units.py",
    "maths/vocabulary.py",
    "maths/witness.py",
    "workers/highprecision.py",
    "workers/latex.py",
    "workers/symbolic.py",
    "workers/worker.py",
)
"""The files that decide a grade. A test holds that every other file of this package is named as one that does not."""


def grader_fingerprint() -> str:
    """Return the grader's version and a hash of its rules, such as ``2-0f3a91c4d5e6``.

    Where the second reader is on, it is named too: ``2-0f3a91c4d5e6+latex2sympy-1.11.0``.
    """
    return _of_rules() + second_reading.mark()


@lru_cache(maxsize=1)
def _of_rules() -> str:
    """Return the version and the hash of the rules.

    The hash is of the syntax trees of the rules' files: comments, docstrings and layout do not make another grader, nor
    does what an exception remembers of the frames that it passed (`_without_frames`).
    """
    digest = hashlib.blake2b(VERSION.encode(), digest_size=6)
    for name in RULE_FILES:
        digest.update(syntax(ast.parse((Path(__file__).parent / name).read_bytes())).encode())
    return f"{VERSION}-{digest.hexdigest()}"


def syntax(node: ast.AST) -> str:
    """Return a syntax tree as text, without docstrings; the same in every version of Python."""
    parts = []
    node = _without_frames(node)
    for name, value in ast.iter_fields(node):
        items = value if isinstance(value, list) else [value]
        if name == "body" and _has_docstring(node):
            items = items[1:]
        texts = [syntax(item) if isinstance(item, ast.AST) else repr(item) for item in items if item is not None]
        if texts and name not in ("ctx", "kind", "type_comment"):
            parts.append(f"{name}={','.join(texts)}")
    return f"{type(node).__name__}({';'.join(parts)})"


def _without_frames(node: ast.AST) -> ast.AST:
    """Return ``x`` for ``x.with_traceback(None)``, and ``raise x`` for ``raise type(x)(*x.args)``; else the node."""
    if isinstance(node, ast.Call) and ast.unparse(node).endswith(".with_traceback(None)"):
        assert isinstance(node.func, ast.Attribute)
        return node.func.value
    if isinstance(node, ast.Raise) and node.exc is not None:
        anew = re.fullmatch(r"type\((\w+)\)\(\*\1\.args\)", ast.unparse(node.exc))
        return ast.Raise(ast.Name(anew[1], ast.Load()), node.cause) if anew else node
    return node


def _has_docstring(node: ast.AST) -> bool:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
