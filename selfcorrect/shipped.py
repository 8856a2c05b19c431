"""Which recipes come with the package, and which of them is meant for a model."""

from __future__ import annotations

import shlex
from pathlib import Path

PACKAGE = Path(__file__).parent
"""The folder of the package: modules that move find what is in it from here, not from their own place."""


def shipped_recipes(folder: str) -> dict[str, Path]:
    """Return the recipes of a stage (``data_gen``, ``train``, ``eval``) that come with the package, by name."""
    found = sorted((PACKAGE / folder / "recipes").glob("*.yaml"))
    return {path.stem: path for path in found if not path.stem.startswith("examples")}


def recipes_of(folder: str, ending: str) -> list[str]:
    """Return the names of a stage's recipes that end so."""
    return [name for name in shipped_recipes(folder) if name.endswith(ending)]


def model_of(folder: str, recipe: str) -> str:
    """Return the model that a shipped recipe starts from."""
    import yaml

    values = yaml.safe_load(shipped_recipes(folder)[recipe].read_text(encoding="utf-8"))
    return str(values["model"] if folder == "train" else values["engine"]["model"])


def made_by(path: Path, model: str, run: Path, pairs: bool = False) -> str:
    """Return what to say of a file of `gen`'s that is not there: the command that makes it."""
    model = base_of(model)
    wanted = [name for name in recipes_of("data_gen", "") if model_of("data_gen", name) == model]
    of_kind = [name for name in wanted if name.endswith("-pairs") == pairs]
    recipe = min(of_kind, key=len, default="embedded-pairs" if pairs else "embedded")  # a variant has a longer name
    own = [] if of_kind else [f"engine.model={model}"]
    words = ["selfcorrect", "gen", recipe, *own, "--run", str(run)]
    apart = "" if path.parent.name != "sft" else " (two-turn chats: with format=two-turn, into a run of their own)"
    return f"no data at {path}; this makes it{apart}: {shlex.join(words)}"


def base_of(model: str) -> str:
    """Return the model that a checkpoint was trained from in the end; another model is its own base."""
    import yaml

    for _ in range(8):
        recipe = Path(model).expanduser() / "recipe.yaml"
        values = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None
        if not isinstance(values, dict) or not isinstance(values.get("model"), str):
            break
        model = values["model"]
    return model
