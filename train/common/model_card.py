"""The model card of a finished checkpoint: what it came from, how it was trained, and what to expect of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from selfcorrect.markdown import code, fenced, inline
from selfcorrect.runs.jsonl import write_whole
from selfcorrect.runs.recipes import read_yaml

PROGRAMS = {
    "sft": "supervised fine-tuning on self-correction paths",
    "dpo": "direct preference optimisation over all turns of the assistant (M-DPO)",
    "grpo": "reinforcement learning with GRPO on its own self-correction paths",
    "ppo": "reinforcement learning with PPO on its own self-correction paths",
    "orm": "an outcome reward model: a classifier of attempts, not a language model",
}


def write_card(folder: Path, program: str, summary: Mapping[str, Any]) -> None:
    """Write ``README.md`` into a checkpoint folder, from the recipe and provenance that lie there."""
    text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    made = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    base = base_on_hub(recipe, folder)
    header = {
        "library_name": "transformers",
        **({"base_model": base} if base else {}),
        "tags": ["self-correction", program],
    }
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {inline(recipe['name'])}",
        f"{PROGRAMS[program].capitalize()}, from {code(recipe['model'])}, by `selfcorrect train {program}` "
        f"(selfcorrect {made['selfcorrect']}, git {made['git'] or 'unknown'}, {made['started'][:10]}).",
        "## Data",
        *(data_lines(recipe, folder.parent.parent) or ["problems of the recipe, below"]),
        "## Result",
        "Measured on its own training data or rollouts unless it says validation; `selfcorrect eval` measures it.",
        fenced(json.dumps(summary, indent=1, ensure_ascii=False), "json"),
        "## Recipe",
        fenced(text, "yaml"),
        "## Versions",
        f"Python {made['python']}, {versions}.",
        "## Limits",
        "Its verdicts on itself are trained behaviour, not knowledge: read P(correct) beside measured self-reward "
        "accuracy. Trained for one domain and one prompt wording (`selfcorrect.prompts`).",
    ]
    write_whole(folder / "README.md", ["\n\n".join(sections) + "\n"])


def base_on_hub(recipe: Mapping[str, Any], folder: Path) -> str | None:
    """Return the hub's name of the model that a checkpoint goes back to, through checkpoints; None where it has none.

    The hub refuses a card whose ``base_model`` is anything else, such as a folder.
    """
    seen = set[Path]()
    while True:
        model = str(recipe["model"])
        places = (Path(model), folder.parent / Path(model).name)
        trained = next((place for place in places if (place / "recipe.yaml").is_file()), None)
        if trained is None:
            is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith((".", "runs/"))
            return model if is_hub_id and not Path(model).exists() else None
        if trained.resolve() in seen:
            return None
        seen.add(trained.resolve())
        recipe, folder = read_yaml(trained / "recipe.yaml"), trained


def data_lines(recipe: Mapping[str, Any], run_folder: Path) -> list[str]:
    """Return one line for each data file of a recipe: its rows and the hash of its bytes."""
    lines = []
    for key in ("data", "pairs", "prompts"):
        path = run_folder / str(recipe.get(key))
        if recipe.get(key) and path.is_file():
            content = path.read_bytes()
            digest = hashlib.blake2b(content, digest_size=8).hexdigest()
            rows = content.count(b"\n")
            lines.append(f"- {code(recipe[key])}: {rows:,} rows, blake2b {digest}")
    return lines
