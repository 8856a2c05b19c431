"""The grader's fingerprint: it covers every file that decides a grade, and changes with their code alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from selfcorrect.grading import fingerprint

FOLDER = Path(fingerprint.__file__).parent
NO_RULES = {
    "__init__.py", "command.py", "fingerprint.py", "reward_functions.py", "self_test.py", "maths/__init__.py",
    "workers/__init__.py", "workers/peer.py", "workers/pool.py",
}  # fmt: skip


def test_every_file_is_a_rule_or_known_not_to_be_one() -> None:
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py")}
    assert files == NO_RULES | set(fingerprint.RULE_FILES)
    assert not NO_RULES & set(fingerprint.RULE_FILES)


def test_the_fingerprint_names_version_and_code() -> None:
    version, _, code = fingerprint.grader_fingerprint().partition("-")
    assert (version, len(code)) == (fingerprint.VERSION, 12)


CODE = 'def f(x):\n    """Says."""\n    return x + 1  # why\n'


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ('def f(x):\n    """Says more.\n\n    At length."""\n    return (\n        x\n        + 1\n    )\n', True),
        ("def f(x):\n    return x + 1\n", True),
        (CODE.replace("+ 1", "+ 2"), False),
        (CODE.replace("+ 1", "- 1"), False),
        (CODE.replace("+ 1", "+ 1.0"), False),
        (CODE.replace("x + 1", "y + 1"), False),
        (CODE.replace("def f", "async def f"), False),
        (CODE.replace("f(x)", "f(x, y=None)"), False),
        (CODE + "\nf(3)\n", False),
    ],
)
def test_only_code_changes_it(other: str, same: bool) -> None:
    assert (fingerprint.syntax(ast.parse(other)) == fingerprint.syntax(ast.parse(CODE))) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("raise x", "raise type(x)(*x.args)", True),
        ("return x, 1", "return x.with_traceback(None), 1", True),
        ("raise x", "raise type(y)(*x.args)", False),
        ("raise x", "raise type(x)(*x.args, 1)", False),
        ("raise x", "raise type(x)(*x.args) from y", False),
        ("return x", "return x.with_traceback(y)", False),
        ("return x", "return y.with_traceback(None)", False),
    ],
)
def test_what_an_exception_remembers_does_not_change_it(one: str, other: str, same: bool) -> None:
    assert (fingerprint.syntax(ast.parse(one)) == fingerprint.syntax(ast.parse(other))) is same
