"""The paper's tables as rows, which of our runs belongs beside which, and the command that makes a missing one.

``published_tables.json`` holds the figures (arXiv 2502.19613). A run of ours stands beside a published row (`belongs`)
where it was made as that row's own command would make it, by the same method, stop decision, judge and format, and
where its label names that row (`SAME_METHOD`). A label left at its default says nothing of the model;
there the name of the checkpoint decides.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from selfcorrect.errors import InputError, nearest
from selfcorrect.eval.results import EvaluatedRow

BENCHMARKS = {  # our short names: the paper's names
    "math500": "MATH500",
    "olympiadbench": "OlympiadBench",
    "minerva_math": "Minerva Math",
    "math": "MATH",
    "gsm8k": "GSM8K",
}
ACCURACY = ("turn1", "final", "delta", "i2c", "c2i")
FIELDS = {  # what each of the paper's tables shows, by the names of `columns.COLUMNS`
    "table3": ACCURACY,
    "table4": ("rm_C", "rm_W"),
    "table5": ACCURACY,
    "table7": (*ACCURACY, "p_c2i", "rm_C", "rm_W"),
    "table8": (*ACCURACY, "p_c2i", "rm_C", "rm_W"),
    "table9": (*ACCURACY, "p_c2i", "rm_C", "rm_W"),
    "table10": ACCURACY,
}
TEMPERATURES = {"table3": 0.0, "table4": 0.0, "table10": 0.7}
"""Of the paper's tables that were not sampled at 1.0."""
IN_TABLE_7 = (  # the rows about who judges; the others of table 8 are about what the fine-tuning set is made of
    "Llama-3-SFT + Gold RM",
    "Llama-3-SFT + External ORM",
    "Llama-3-SFT + Self-rewarding RM",
    "IFT balanced + c2c",
    "IFT balanced + c2c + Gold RM",
)
SAME_METHOD = {  # the paper's name: ours for the same method
    "Intrinsic self-correction": ("intrinsic",),
    "Prompt with Gold RM": ("gold", "gold verdict", "Llama-3-SFT + Gold RM"),
    "Prompt with External ORM": ("external ORM", "Self-correct with External ORM", "Llama-3-SFT + External ORM"),
    "Self-rewarding IFT": ("self-rewarding", "two-turn", "IFT balanced + c2c"),
    "Self-rewarding IFT + Gold RM": ("self-rewarding IFT + gold verdict", "IFT balanced + c2c + Gold RM"),
    "Self-rewarding IFT + PPO w correctness": ("PPO step 220 (selected)", "self-rewarding IFT + PPO"),
    "Self-rewarding IFT + DPO w correctness": ("DPO iteration 5 (selected)", "self-rewarding IFT + DPO"),
    "+ M-DPO D1,D2,D3 (tuned)": ("+ M-DPO D1,D2,D3", "self-rewarding IFT + M-DPO"),
    "Llama-3-SFT + Self-rewarding RM": ("cross-judged", "Self-rewarding RM"),
}
COMMANDS = (  # part of a method's name: the settings that make its row; the first that fits
    ("Gold RM", "method=gold"),
    ("External ORM", "method=judged judge.kind=orm judge.engine.model={run}/checkpoints/orm"),
    ("Self-rewarding RM", "method=judged judge.kind={kind} judge.engine.model={run}/checkpoints/ift"),
    ("Intrinsic", "method=intrinsic"),
    ("Single-turn PPO", "method=single-turn engine.model={run}/checkpoints/ppo-single-turn"),
    ("Single-turn DPO", "method=single-turn engine.model={run}/checkpoints/dpo-single-turn"),
    ("Single-turn", "method=single-turn engine.model={run}/checkpoints/raft-single-turn"),
    ("iteration 2", "method={kind} engine.model={run}/checkpoints/{slug}"),  # not the checkpoint that was selected
    ("step 100", "method={kind} engine.model={run}/checkpoints/{slug}"),
    ("RAFT+", "method=intrinsic engine.model={run}/checkpoints/raft-plus"),
    ("RAFT", "method=intrinsic engine.model={run}/checkpoints/raft"),
    ("PPO", "method={kind} engine.model={run}/checkpoints/ppo"),
    ("M-DPO", "method={kind} engine.model={run}/checkpoints/{slug}"),
    ("DPO", "method={kind} engine.model={run}/checkpoints/dpo"),
    ("distillation", "method={kind} engine.model={run}/checkpoints/{slug}"),
    ("", "method={kind} engine.model={run}/checkpoints/{slug}"),
)


@dataclass(frozen=True, slots=True)
class Published:
    """One row of one of the paper's tables; ``group`` is the part of the table it stands in."""

    group: str
    benchmark: str
    method: str
    values: Mapping[str, float]


@cache
def published_tables() -> dict[str, Any]:
    """Return the figures as they were handed down; read once, not to be changed."""
    file = Path(__file__).with_name("published_tables.json")
    tables: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return tables


def published_rows(name: str) -> list[Published]:
    """Return a table's rows in order; raises InputError for a table that is not there."""
    tables = published_tables()
    if name not in FIELDS:
        raise InputError(f"no table {name!r}{nearest(name, FIELDS)}; there are {', '.join(FIELDS)}")
    table = tables["table8" if name == "table7" else name]
    if name == "table4":
        keys = {"MATH500": "MATH500", "OlympiadBench": "OlympiadBench", "MinervaMath": "Minerva Math"}
        return [
            Published(shown, shown, row["method"], {"rm_C": row[f"{key}_C"], "rm_W": row[f"{key}_W"]})
            for key, shown in keys.items()
            for row in table["rows"]
        ]
    if "benchmarks" in table:
        groups = [(benchmark, benchmark, rows) for benchmark, rows in table["benchmarks"].items()]
    elif "groups" in table:
        groups = [
            (f"{group['model']}, {group['benchmark']}", group["benchmark"], group["rows"]) for group in table["groups"]
        ]
    else:
        groups = [(f"{table['model']}, {table['benchmark']}", table["benchmark"], table["rows"])]
    return [
        Published(group, benchmark, row["method"], {key: row[key] for key in FIELDS[name] if key in row})
        for group, benchmark, rows in groups
        for row in rows
        if name != "table7" or row["method"] in IN_TABLE_7
    ]


def benchmark_of(row: EvaluatedRow) -> str:
    """Return the paper's name of a run's benchmark, or the run's own where the paper has none."""
    stem = Path(row.result.benchmark).name.split(".")[0]
    return BENCHMARKS.get(stem, stem)


def is_same_method(label: str, method: str) -> bool:
    """True where a label of ours names a published method."""
    names = {_plain(method)}
    for known, others in SAME_METHOD.items():
        family = {_plain(known), *map(_plain, others)}
        if names & family:
            names |= family
    return _plain(label) in names


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9+]+", "", name.casefold())


def slug(name: str) -> str:
    """Return a name fit for a folder; a plus that ends a word is spelt out (RAFT+ is not RAFT)."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=\w)\+", " plus", name.casefold())).strip("-")


def settings_of(method: str, two_turn: bool, run: Path = Path(".")) -> dict[str, str]:
    """Return the recipe keys that make a published row: how it is run, and the checkpoint in ``run``, if it has one.

    The paper's sampled tables are in the two-turn format, its greedy ones are long-CoT.
    """
    text = next(text for part, text in COMMANDS if part in method)
    if "Gold RM" in method and "IFT" in method:
        own = method.removesuffix(" + Gold RM")
        model = "ift" if is_same_method(own, "Self-rewarding IFT") else slug(own)
        text = "method={kind} stop=gold engine.model={run}/checkpoints/" + model
    elif is_same_method(method, "Self-rewarding IFT"):
        text = "method={kind} engine.model={run}/checkpoints/ift"
    settings = dict(setting.split("=", 1) for setting in text.split())
    filled = {"run": str(run), "kind": "two-turn" if two_turn else "self-rewarding", "slug": slug(method)}
    return {key: value.format(**filled) for key, value in settings.items()}


def belongs(row: EvaluatedRow, method: str, two_turn: bool) -> bool:
    """True where a run of ours may stand beside a published row, ``method``."""
    if not _is_made_alike(row, settings_of(method, two_turn)):
        return False
    if row.result.has_default_label and row.result.checkpoint:
        return _checkpoint(settings_of(method, two_turn)) == row.result.checkpoint
    return is_same_method(row.title, method)


def _is_made_alike(row: EvaluatedRow, settings: Mapping[str, str]) -> bool:
    ours = (row.result.method, row.result.stop, row.result.judge_kind)
    return ours == (settings["method"], settings.get("stop", "sampled"), settings.get("judge.kind", ""))


def _checkpoint(settings: Mapping[str, str]) -> str:
    model = Path(settings.get("engine.model", ""))
    return model.name if model.parent.name == "checkpoints" else ""


def command(method: str, benchmark: str, temperature: float, run: Path, like: EvaluatedRow | None = None) -> str:
    """Return the command that makes the row of a method; ``MODEL`` stands for the base model.

    ``like`` is a row of ours in the same part of the table: the command asks for the same problems.
    """
    settings = settings_of(method, temperature > 0, run)
    settings.setdefault("engine.model", "MODEL")
    if temperature > 0:
        settings["temperature"] = str(temperature)
    recipe, problems = ("", {}) if like is None else like.problems()
    if not recipe:
        recipe = next((name for name, shown in BENCHMARKS.items() if shown == benchmark), "embedded")
    words = ["selfcorrect", "eval", recipe, f"row={slug(f'{benchmark}-{method}')}", f"label={method}"]
    words += [f"{key}={value}" for key, value in {**problems, **settings}.items()]
    return shlex.join([*words, "--run", str(run)])
