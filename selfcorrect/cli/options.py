"""Arguments and options that several commands share, and how their words are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from selfcorrect.errors import InputError, nearest


class RunByDefault(TyperGroup):
    """A group whose first argument may be left out: what is no command of its is meant for ``run``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` before arguments that name no command."""
        named = args and (args[0] in self.commands or args[0] in ("--help", "-h"))
        return super().parse_args(ctx, args if named else ["run", *args])


class TakesTexts(TyperCommand):
    """A command whose arguments may begin with a minus, such as ``grade -5 -5``: only its options are options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the options first and the texts after ``--``."""
        takes_value = {name: not getattr(option, "is_flag", True) for option in self.params for name in option.opts}
        options, texts, words = list[str](), list[str](), iter(args)
        for word in words:
            if word == "--":
                texts += words
            elif word in ("-h", "--help") or (word.startswith("--") and len(word) > 2 and not word[2].isdigit()):
                options.append(word)
                if takes_value.get(word):
                    options += [value for value in [next(words, None)] if value is not None]
            else:
                texts.append(word)
        return super().parse_args(ctx, [*options, "--", *texts])


def known_source(name: str | None) -> str | None:
    """Return the name of a data set whose grading rules are known, or refuse it with the nearest."""
    from selfcorrect.grading.rules import MATH, SOURCES, rules_for

    if name is not None and rules_for(name) is MATH and "math" not in name.lower():
        raise InputError(
            f"--source: no grading rules are named {name!r}{nearest(name, SOURCES)}; known: {', '.join(SOURCES)} "
            "(math serves any other data set)"
        )
    return name


RecipeArgs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A shipped recipe's name or a YAML file, then overrides such as seed=1 engine.max_batch=64.",
        show_default=False,
    ),
]
RunOption = Annotated[
    Path, typer.Option("--run", help="The run folder: this stage reads and writes there, and resumes.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for a script.")]
EngineOption = Annotated[
    str | None, typer.Option("--engine", help="transformers, vllm, openai or ray: short for engine.kind=...")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the resolved recipe, a first example and the plan; do nothing.")
]

LaunchOption = Annotated[
    str | None,
    typer.Option(
        "--launch", help="Run on the processes of an accelerate config: ddp, fsdp, zero2, zero3, cpu or a file."
    ),
]
