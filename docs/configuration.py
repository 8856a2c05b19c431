"""Writes docs/configuration.md from the recipe dataclasses: every key, its type, its default, what it means.

    python docs/configuration.py           # write the page
    python docs/configuration.py --check   # fail where the page is not what the code says

The meaning of a key is the comment beside it in the code, so that the page and the code cannot differ.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import sys
import textwrap
import tokenize
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

from selfcorrect.cli.chat import ChatRecipe
from selfcorrect.data_gen.recipe import GenRecipe
from selfcorrect.eval.run import EvalRecipe
from selfcorrect.serving.settings import ServeRecipe
from selfcorrect.train.dpo import DpoRecipe
from selfcorrect.train.embedded.pretrain import PretrainRecipe
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.orm import OrmRecipe
from selfcorrect.train.ppo import PpoRecipe
from selfcorrect.train.sft import SftRecipe

PAGE = Path(__file__).with_suffix(".md")
COMMANDS: dict[str, type[Any]] = {
    "gen": GenRecipe,
    "train sft": SftRecipe,
    "train dpo": DpoRecipe,
    "train grpo": GrpoRecipe,
    "train ppo": PpoRecipe,
    "train orm": OrmRecipe,
    "train pretrain": PretrainRecipe,
    "eval": EvalRecipe,
    "serve": ServeRecipe,
    "chat": ChatRecipe,
}
HEAD = """# Configuration reference

This page is generated from the code (`make reference`). It lists every key of a recipe: its type, its default and what
it does. A recipe is a YAML file with these keys; each can be overridden on the command line:

```
selfcorrect train sft embedded-sft learning_rate=3e-4 --run runs/demo
selfcorrect gen embedded problems.count=200 engine.max_batch=64 --run runs/mine
```

A dot goes into a section (`problems.count`), `[a,b]` is a list, `null` is nothing. An unknown key is an error that
names the nearest known one. `selfcorrect recipes` lists the recipes that come with the toolkit, and `--dry-run` shows
a whole recipe without running it.
"""


def page() -> str:
    """Return the text of the page."""
    parts, sections = [HEAD], dict[type[Any], set[str]]()
    for command, recipe in COMMANDS.items():
        parts.append(f"## `selfcorrect {command}`\n\n{summary(recipe)}\n\n{table(recipe)}")
        for key, section in nested(recipe):
            sections.setdefault(section, set()).add(key)
    parts.append("# Sections\n\nKeys that hold keys of their own. The same section means the same wherever it stands.")
    for section, keys in sorted(sections.items(), key=lambda item: sorted(item[1])):
        names = ", ".join(f"`{key}`" for key in sorted(keys))
        parts.append(f"## {names}\n\n{summary(section)}\n\n{table(section)}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def nested(schema: type[Any], prefix: str = "") -> Iterator[tuple[str, type[Any]]]:
    """Give the sections of a recipe, those within sections too, as key and dataclass."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        for kind in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                yield field.name, kind
                yield from nested(kind)


def summary(schema: type[Any]) -> str:
    """Return the first paragraph of a dataclass's docstring."""
    return " ".join(inspect.cleandoc(schema.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")


def table(schema: type[Any]) -> str:
    """Return the Markdown table of a dataclass's fields."""
    hints, comments = typing.get_type_hints(schema), meanings(schema)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(schema):
        cells = (f"`{field.name}`", written(hints[field.name]), default(field), comments.get(field.name, ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def meanings(schema: type[Any]) -> dict[str, str]:
    """Return the comment beside each field, those of the base classes too."""
    found: dict[str, str] = {}
    for parent in reversed(schema.__mro__):
        if dataclasses.is_dataclass(parent):
            source = textwrap.dedent(inspect.getsource(parent))
            comments = {
                token.start[0]: token.string.lstrip("# ").strip()
                for token in tokenize.generate_tokens(io.StringIO(source).readline)
                if token.type == tokenize.COMMENT
            }
            for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                    text = " ".join(comments[line] for line in lines if line in comments)
                    found[node.target.id] = re.sub(r"\bNone\b", "null", text) or found.get(node.target.id, "")
    return found


def written(kind: Any) -> str:
    """Return a type as a reader of YAML would say it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return "null"
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, UnionType):
        return " or ".join(written(one) for one in arguments)
    if origin in (list, tuple):
        return f"list of {written(arguments[0])}"
    if origin is dict:
        return "mapping"
    if dataclasses.is_dataclass(kind):
        return "section"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(kind, kind.__name__)


def default(field: dataclasses.Field[Any]) -> str:
    """Return a default as it stands in YAML."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        if dataclasses.is_dataclass(value):
            return ""
    if value is dataclasses.MISSING:
        return "required"
    texts = {None: "`null`", True: "`true`", False: "`false`", "": "empty", (): "empty"}
    if value is None or isinstance(value, bool) or value in ("", ()):
        return texts[value]
    return "empty" if value in ({}, []) else f"`{value}`"


def main() -> None:
    """Write the page, or compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        sys.exit(PAGE.read_text(encoding="utf-8") != text and f"{PAGE} is not what the code says: make reference")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
