"""The data set card: ``data/README.md`` tells people and `datasets` what the folder holds; `show` prints the summary.

Its front matter lists every file as a configuration, so ``load_dataset("runs/demo/data", "self-rewarding")`` reads it
here and on the hub alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Group, RenderableType
from rich.table import Table

from selfcorrect import __version__
from selfcorrect.chat import ChatCodec
from selfcorrect.data_gen.classes import PartOutcome
from selfcorrect.data_gen.recipe import GenRecipe
from selfcorrect.markdown import code, fenced, inline
from selfcorrect.problems import LICENCES
from selfcorrect.runs.jsonl import write_whole
from selfcorrect.runs.recipes import to_yaml

FILES = {
    "self-rewarding": ("sft/self-rewarding.jsonl", "fine-tuning rows of D1, D2 and D3: token ids, spans, messages"),
    "single-turn": ("sft/single-turn.jsonl", "baseline single-turn STaR/RAFT: correct attempts"),
    "raft": ("sft/raft.jsonl", "baseline STaR/RAFT: wrong → correct revisions"),
    "raft-plus": ("sft/raft-plus.jsonl", "baseline STaR/RAFT+: correct → correct ones too"),
    "preferences": ("preferences/pairs.jsonl", "pairs P1, P2 and P3 for (M-)DPO"),
    "prompts": ("prompts.jsonl", "further problems, for RL"),
    "pass_rates": ("pass_rates.jsonl", "how often the model's attempts at each problem were correct"),
}
"""What may be in the folder: name, file, content."""


def write_readme(folder: Path, recipe: GenRecipe, summary: Mapping[str, Any], codec: ChatCodec) -> None:
    """Write the card of a finished data folder."""
    source = recipe.problems.name or Path(recipe.problems.source).name.split(".")[0]
    licence = LICENCES.get(source, "unknown: see the source")
    here = {name: what for name, what in FILES.items() if (folder / what[0]).exists()}
    front = {
        "pretty_name": f"Self-correction trajectories of {recipe.engine.model} on {source}",
        "task_categories": ["text-generation"],
        "tags": ["math", "reasoning", "self-correction", "selfcorrect"],
        "configs": [{"config_name": name, "data_files": file} for name, (file, _) in here.items()],
    }
    teacher = f"; revisions by {code(recipe.teacher.model)}" if recipe.teacher else ""
    files = [(name, file, summary["rows"].get(name, ""), content) for name, (file, content) in here.items()]
    classes = [(name, rows, summary["short"].get(name, "")) for name, rows in summary["classes"].items()]
    dropped = ", ".join(f"{count:,} × {what}" for what, count in summary["problems"]["dropped"].items()) or "none"
    text = f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# Self-correction trajectories of {code(recipe.engine.model)}

Made by `selfcorrect gen` {__version__} with sequential rejection sampling
([arXiv 2502.19613](https://arxiv.org/abs/2502.19613)): attempts, self-evaluations and
revisions of a model, graded against reference answers and kept as D1 (wrong, judged wrong, fixed), D2 (correct, falsely
judged wrong, still correct) and D3 (correct, judged correct).

- **Model**: {code(recipe.engine.model)}{teacher}. Token ids belong to its tokenizer (`{codec.fingerprint()}`).
- **Problems**: {inline(source)}, {summary["problems"]["sampled from"]:,} sampled from; dropped: {inline(dropped)}.
- **Licences**: problems: {licence}. Sampled text: whatever the licence of the model says.
- **Format**: {recipe.format}; schedule: {recipe.schedule}{", steered" if recipe.steer and not recipe.fixed else ""}.

{_markdown(("data set", "file", "rows", "content"), files)}

{_markdown(("class", "rows", "short of the recipe"), classes)}

## Can the class be told from the question?

{_leak(summary["leak"], recipe)}

## After the verdict "wrong"

{_after_wrong(summary, recipe.two_turn)}

## Acceptance

{_markdown(("stage or class", "samples or tries", "accepted", "what became of them"), _acceptance(summary["samples"]))}

## Recipe

{fenced(to_yaml(recipe), "yaml")}
"""
    write_whole(folder / "README.md", [text])


def _leak(found: Mapping[str, Mapping[str, Any]], recipe: GenRecipe) -> str:
    """Say how well D3 is told from D1 by the problem alone."""
    matched = "matched: each problem gives as many rows of D1 as of D3" if recipe.is_matched else "not matched"
    text = f"""The self-evaluations that are learned say *wrong* in D1 and *correct* in D3. Where D3 comes from easier
problems, a model can learn the verdict from the question instead of from the attempt. AUROC of telling D3 from D1 by
the problem alone (0.5: not at all; 1: always), with a 95% interval over problems: by the pass rate of the problem's
other attempts, and by the words of the question (cross-validated over problems). This set is {matched} (`match`)."""
    if not found:
        return f"{text}\n\nToo few rows of D1 or D3 to tell."
    header = ("predictor", "AUROC", "D1", "D3", "problems")
    return f"{text}\n\n" + _markdown(header, [(name, _interval(of), *_ns(of)) for name, of in found.items()])


def _interval(measured: Mapping[str, float]) -> str:
    return f"{measured['auroc']:.2f} [{measured['low']:.2f} {measured['high']:.2f}]"


def _ns(measured: Mapping[str, Any]) -> tuple[int, ...]:
    return measured["D1"], measured["D3"], measured["problems"]


def _after_wrong(summary: Mapping[str, Any], two_turn: bool) -> str:
    """Say what becomes of attempts that were told they are wrong, and which D2 rows state that verdict."""
    wrong, correct = PartOutcome.WRONG, PartOutcome.CORRECT
    found = summary["first revision after a verdict wrong"]
    told = [
        (name, sum(revisions.values()), revisions.get(correct, 0), revisions.get(wrong, 0))
        for name, revisions in (("wrong", found.get(wrong, {})), ("correct", found.get(correct, {})))
    ]
    table = _markdown(("first attempt", "told that it is wrong", "revision correct", "revision wrong"), told)
    text = f"Only attempts that were told they are wrong, and the first revision of each.\n\n{table}"
    d2, stated = summary["classes"].get("D2", 0), summary["D2 with a stated verdict"]
    if not stated or two_turn:
        return text
    return f"""{text}

Of the {d2:,} rows of D2, {stated:,} state the false verdict as a bare mark, without a check: the model was not seen to
misjudge the attempt in the few self-evaluations that are sampled for that (`false_verdicts`). A model that is trained
on this set writes a check before each verdict, so it never writes this context itself. What these rows teach is to keep
a correct answer after a bare mark; whether it is kept after a check that errs has to be measured (p c→i)."""


def _markdown(header: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> str:
    cells = lambda row: [f"{cell:,}" if isinstance(cell, int) else inline(str(cell)) for cell in row]
    return "\n".join("| " + " | ".join(cells(row)) + " |" for row in [header, ("---",) * len(header), *rows])


def _acceptance(samples: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, str, str]]:
    """Return a line for each stage and class: how many, the share that was accepted, and the outcomes."""
    lines = []
    for name, counts in samples.items():
        outcomes = {key: value for key, value in counts.items() if key not in ("acceptance", "tried", "served")}
        total = counts.get("tried") or sum(outcomes.values())
        text = ", ".join(f"{value:,} {key}" for key, value in outcomes.items())
        lines.append((name, f"{total:,}", f"{counts['acceptance']:.1%}", text))
    return lines


def _told(leak: Mapping[str, Mapping[str, float]]) -> str:
    """Return the leak on a line."""
    if not leak:
        return ""
    by = ", ".join(f"{_interval(measured)} by {name}" for name, measured in leak.items())
    return f"\nD3 is told from D1 by the problem alone (AUROC, 0.5: not at all): {by}"


def show(summary: dict[str, Any]) -> RenderableType:
    """Return a finished run's summary as tables."""
    stages = Table("stage or class", "samples or tries", "accepted", "what became of them", title="sampling")
    for row in _acceptance(summary["samples"]):
        stages.add_row(*row)
    rows = Table("data set", "rows", "short of the recipe", title="written")
    for name, count in {**summary["rows"], **summary["classes"]}.items():
        rows.add_row(name, f"{count:,}", f"{summary['short'][name]:,}" if name in summary["short"] else "")
    tokens, samples = sum(summary["drawn"]["tokens"].values()), sum(summary["drawn"]["samples"].values())
    line = f"{samples:,} samples, {tokens:,} tokens in {summary['seconds']:.0f} s"
    resumed = f" (and {summary['drawn']['resumed']:,} samples of an earlier run)" if summary["drawn"]["resumed"] else ""
    dropped = "".join(f"; {count:,} × {reason}" for reason, count in summary["problems"]["dropped"].items())
    return Group(
        stages,
        rows,
        f"{line}{resumed}; {summary['problems']['sampled from']:,} problems{dropped}{_told(summary['leak'])}",
    )
