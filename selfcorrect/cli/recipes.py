"""``selfcorrect recipes``: what comes with the package, and each recipe as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from selfcorrect.cli.options import AsJson
from selfcorrect.errors import InputError, nearest
from selfcorrect.printing import event, show, show_file
from selfcorrect.shipped import shipped_recipes

STAGES = {"gen": "data_gen", "train": "train", "eval": "eval"}
recipes_app = typer.Typer(help="The recipes that come with the package.", invoke_without_command=True)


@recipes_app.callback()
def recipes(context: typer.Context, as_json: AsJson = False) -> None:
    """List the shipped recipes of every stage, with one line each; ``recipes show NAME`` prints one."""
    if context.invoked_subcommand is not None:
        return
    found = [
        {"stage": stage, "name": name, "about": about(path), "file": str(path)}
        for stage, folder in STAGES.items()
        for name, path in shipped_recipes(folder).items()
    ]
    if as_json:
        event({"recipes": found})
        return
    table = Table("stage", "recipe", "about", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for row in found:
        table.add_row(row["stage"], Text(row["name"], style="bold"), Text(row["about"]))
    show(table, Text("one of them as it is: selfcorrect recipes show NAME", style="dim"))


@recipes_app.command("show")
def recipes_show(
    name: Annotated[
        str, typer.Argument(help="A recipe, such as embedded-grpo, or gen/embedded where stages share a name.")
    ],
) -> None:
    """Print a shipped recipe: a YAML file with every setting, to copy and change."""
    all_of_them = {
        f"{stage}/{key}": path for stage, folder in STAGES.items() for key, path in shipped_recipes(folder).items()
    }
    found = [path for key, path in all_of_them.items() if name in (key, key.partition("/")[2])]
    if not found:
        plain = {key.partition("/")[2] for key in all_of_them}
        raise InputError(f"no recipe named {name!r}{nearest(name, plain)}; `selfcorrect recipes` lists them")
    for path in found:
        if len(found) > 1:
            show(Text(f"# {path}", style="dim"))
        show_file(path.read_text(encoding="utf-8").rstrip())


def about(path: Path) -> str:
    """Return what a recipe says of itself: the first sentence of the comment at its head."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#   "):
            break
        lines.append(line[2:].strip())
    return re.split(r"(?<!\beq)\. ", " ".join(lines))[0].rstrip(".")
