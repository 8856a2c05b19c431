"""Writes docs/command-line.md and docs/formats.md from the code: every command with its options, every row on disk.

python docs/reference.py           # write the pages
python docs/reference.py --check   # fail where a page is not what the code says
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from selfcorrect.cli.main import app
from selfcorrect.training_row import LearnedSpan, LearnedTokens, PreferencePair, TrainingRow
from selfcorrect.types import (
    Attempt,
    Grade,
    MessageEnd,
    Outcome,
    Problem,
    Role,
    SelfEvaluation,
    Span,
    StopReason,
    Trajectory,
    Verdict,
)

HERE = Path(__file__).parent
COMMANDS_HEAD = """# Every command and option

This page is generated from the code (`make reference`). What the commands print, and where, is in
[commands.md](commands.md); the keys of recipes are in [configuration.md](configuration.md).
"""
FORMATS_HEAD = """# Data formats

This page is generated from the code (`make reference`). Rows are JSON, one a line; read them with
`selfcorrect.training_row` and `selfcorrect.eval.results`, which check them.

| file | a line of it | written by |
|---|---|---|
| `data/sft/<name>.jsonl` | a `TrainingRow`; the keys of its `LearnedTokens` stand beside the others | `gen` |
| `data/preferences/pairs.jsonl` | a `PreferencePair` | `gen` |
| `data/prompts.jsonl` | `id`, `question`, `gold`, `source` of a problem that is set aside for RL | `gen` |
| `data/pass_rates.jsonl` | the same, with `attempts`, `right` and `pass_rate` | `gen` |
| `eval/<row>/trajectories.jsonl` | a journal: `key`, and a `Trajectory` under `trajectory` | `eval` |
| `eval/<row>/scores.json` | one table row: counts, shares, what made it ([evaluation.md](evaluation.md)) | `eval` |
| `checkpoints/<name>/metrics.jsonl` | the figures of a step | `train` |

A row of your own for `train sft` needs `id`, `token_ids` and `spans`. `default` is what a missing key is read as.
"""
RECORDS = (TrainingRow, PreferencePair, LearnedTokens, LearnedSpan, Trajectory, Problem, Attempt, SelfEvaluation, Grade,
           Span, MessageEnd)  # fmt: skip
NAMES = (Verdict, Outcome, Role, StopReason)


def commands_page() -> str:
    """Return the page of the commands."""
    parts = [COMMANDS_HEAD.strip()]
    for name, command in _leaves(typer.main.get_command(app), "selfcorrect"):
        told = (command.help or "").strip()
        parts.append(f"## `{name}`\n\n{told}\n\n{_options(command)}".strip())
    return "\n\n".join(parts) + "\n"


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for child, below in command.commands.items():
        yield from _leaves(below, f"{name} {child}")


def _options(command: Any) -> str:
    rows = ["| argument or option | meaning | default |", "|---|---|---|"]
    for parameter in command.params:
        is_option = parameter.param_type_name == "option"
        name = ", ".join(parameter.opts) if is_option else (parameter.metavar or parameter.name.upper())
        if name == "--help":
            continue
        value = parameter.default
        shown = "" if value is None or value is False or callable(value) or not is_option else f"`{value}`"
        if not is_option and not parameter.required:
            shown = "may be left out"
        cells = (f"`{name}`", " ".join((parameter.help or "").split()), shown)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) if len(rows) > 2 else ""


def formats_page() -> str:
    """Return the page of the records."""
    parts = [FORMATS_HEAD.strip()]
    parts += [f"## {record.__name__}\n\n{_told(record)}\n\n{_fields(record)}" for record in RECORDS]
    parts.append("## Closed sets\n\n" + "\n".join(_values(names) for names in NAMES))
    return "\n\n".join(parts) + "\n"


def _told(record: type[Any]) -> str:
    text = inspect.cleandoc(record.__doc__ or "")
    return re.sub(r"``", "`", "\n\n".join(" ".join(part.split()) for part in text.split("\n\n")))


def _fields(record: type[Any]) -> str:
    hints = typing.get_type_hints(record)
    rows = ["| key | type | default |", "|---|---|---|"]
    for field in dataclasses.fields(record):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        shown = "required" if value is dataclasses.MISSING else "null" if value is None else f"`{value!r}`"
        rows.append(f"| `{field.name}` | {_type(hints[field.name])} | {shown} |")
    return "\n".join(rows)


def _type(kind: Any) -> str:
    """Return a type as a reader of JSON would say it."""
    arguments = [argument for argument in typing.get_args(kind) if argument is not Ellipsis]
    if kind is type(None):
        return "null"
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is not None and arguments:
        if issubclass(origin, typing.Mapping) if isinstance(origin, type) else False:
            return "object"
        return " or ".join(_type(argument) for argument in arguments)
    if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, enum.Enum)):
        return kind.__name__
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(
        kind, getattr(kind, "__name__", "object")
    )


def _values(names: type[enum.Enum]) -> str:
    return f"- **{names.__name__}**: " + ", ".join(f"`{one.value}`" if one.value else "empty" for one in names)


PAGES = {"command-line.md": commands_page, "formats.md": formats_page}


def main() -> None:
    """Write the pages, or compare them."""
    for name, page in PAGES.items():
        text = page()
        if "--check" not in sys.argv[1:]:
            (HERE / name).write_text(text, encoding="utf-8")
        elif not (HERE / name).exists() or (HERE / name).read_text(encoding="utf-8") != text:
            sys.exit(f"{HERE / name} is not what the code says: make reference")


if __name__ == "__main__":
    main()
