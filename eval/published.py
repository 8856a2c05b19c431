"""The paper's tables as rows, which of our runs belongs beside which, and the command that makes a missing one.

``published_tables.json`` holds the figures (arXiv 2502.19613). A run of ours is held against a published row by its
label: the paper's name of the method, or one of ours for the same thing (`SAME_METHOD`); set it with ``label=``.
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

from eval.rows import Row
from selfcorrect.errors import InputError, nearest

BENCHMARKS = {  # our short names: the paper's names
    "math500": "MATH500",
    "olympiadbench": "OlympiadBench",
    "minerva_math": "Minerva Math",
    "math": "MATH",
    "gsm8k": "GSM8K",
}
ACCURACY = ("turn1", "final", "delta", "i2c", "c2i")
COLUMNS = {
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
    "Prompt with Gold RM": ("gold verdict", "Llama-3-SFT + Gold RM"),
    "Prompt with External ORM": ("external ORM", "Self-correct with External ORM", "Llama-3-SFT + External ORM"),
    "Self-rewarding IFT": ("self-rewarding", "IFT balanced + c2c"),
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
    if name not in COLUMNS:
        raise InputError(f"no table {name!r}{nearest(name, COLUMNS)}; there are {', '.join(COLUMNS)}")
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
        Published(group, benchmark, row["method"], {key: row[key] for key in COLUMNS[name] if key in row})
        for group, benchmark, rows in groups
        for row in rows
        if name != "table7" or row["method"] in IN_TABLE_7
    ]


def benchmark_of(row: Row) -> str:
    """Return the paper's name of a run's benchmark, or the run's own where the paper has none."""
    source = str(row.scores.get("benchmark", ""))
    stem = Path(source).name.split(".")[0]
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
    """Return a name fit for a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")


def command(method: str, benchmark: str, temperature: float, run: Path) -> str:
    """Return the command that makes the row of a method; ``MODEL`` stands for the base model.

    The paper's sampled tables (temperature > 0) are in the two-turn format, its greedy ones are long-CoT.
    """
    two_turn = temperature > 0
    settings = next(text for part, text in COMMANDS if part in method)
    if "Gold RM" in method and "IFT" in method:
        own = method.removesuffix(" + Gold RM")
        model = "ift" if is_same_method(own, "Self-rewarding IFT") else slug(own)
        settings = "method={kind} stop=gold engine.model={run}/checkpoints/" + model
    elif method == "Self-rewarding IFT":
        settings = "method={kind} engine.model={run}/checkpoints/ift"
    settings = settings.format(run=run, kind="two-turn" if two_turn else "self-rewarding", slug=slug(method))
    if "engine.model" not in settings.replace("judge.engine.model", ""):
        settings += " engine.model=MODEL"
    recipe = next((name for name, shown in BENCHMARKS.items() if shown == benchmark), None)
    if recipe is None:
        recipe = "embedded" if benchmark == "arithmetic" else f"math500 problems.source={benchmark}"
    name = slug(f"{benchmark}-{method}")
    sampling = f" temperature={temperature}" if two_turn else ""
    return f"selfcorrect eval {recipe} row={name} {shlex.quote(f'label={method}')} {settings}{sampling} --run {run}"
