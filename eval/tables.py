"""Result tables: rows of finished evaluations, paired tests between them, and the paper's claims checked.

``<run>/tables/demo.json`` is for machines, the Rich table for the terminal, ``demo.md`` for notes. A claim
that does not hold is shown as such: nothing here tunes anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfcorrect.errors import DataError
from selfcorrect.eval.rows import read_json, read_trajectories
from selfcorrect.jsonl import write_json, write_whole
from selfcorrect.markdown import inline
from selfcorrect.metrics import PairedTest, compare, is_correct
from selfcorrect.types import Trajectory, to_json

DEMO_ROWS = ("intrinsic", "gold", "asked", "raft", "raft-plus", "ift", "grpo")
COLUMNS = (
    ("turn1", "Turn 1"),
    ("final", "Final"),
    ("delta", "Δ"),
    ("i2c", "Δ i→c"),
    ("c2i", "Δ c→i"),
    ("rm_C", "RM C"),
    ("rm_W", "RM W"),
    ("no_verdict", "no verdict"),
)
JUDGE_THEMSELVES = ("self-rewarding", "asked", "two-turn")
JUDGED = ("rm_C", "rm_W", "no_verdict")
JUDGED_TITLES = ("RM C", "RM W", "no\nverdict", "unan-\nswered", "ungra-\ndable", "cut", "tokens")


def demo_tables(run: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Write ``tables/demo.json`` and ``tables/demo.md`` of a finished demo run and return the former."""
    rows = [read_row(run, name) for name in DEMO_ROWS]
    paths = {name: read_trajectories(run / "eval" / name) for name in DEMO_ROWS}
    gain = compare(paths["ift"], paths["grpo"])
    table = {
        "rows": rows,
        "tests": [{"a": "self-rewarding IFT", "b": "self-rewarding IFT + GRPO", **to_json(gain)}],
        "checks": phenomena(dict(zip(DEMO_ROWS, rows, strict=True)), paths, gain),
        "benchmark": rows[0]["benchmark"],
        "n": rows[0]["n"],
        "distinct_problems": len({t.problem.question for t in paths["ift"]}),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    write_json(run / "tables" / "demo.json", table)
    write_whole(run / "tables" / "demo.md", [to_markdown(rows)])
    return table


def read_row(run: Path, name: str) -> dict[str, Any]:
    """Return the score row of one evaluation; DataError with the command that makes it where it is missing."""
    path = run / "eval" / name / "scores.json"
    if not path.exists():
        raise DataError(f"no scores at {path}; make them with: selfcorrect eval embedded row={name} ... --run {run}")
    return read_json(path)


def phenomena(
    rows: Mapping[str, Mapping[str, Any]], paths: Mapping[str, Sequence[Trajectory]], gain: PairedTest
) -> list[dict[str, Any]]:
    """Return what the paper finds (METHOD section 5) as claims, each with whether it appears here, and the evidence."""
    ift, grpo = rows["ift"], rows["grpo"]

    def points(row: Mapping[str, Any]) -> str:
        low, high = row["delta_interval"]
        return f"Δ = {row['delta']:+.1f} [{low:+.1f}, {high:+.1f}]"

    claims = [
        (
            "intrinsic self-correction does not help: Final ≤ Turn 1",
            rows["intrinsic"]["delta"] <= 0,
            points(rows["intrinsic"]),
        ),
        ("the gold verdict helps: Δ > 0", rows["gold"]["delta_interval"][0] > 0, points(rows["gold"])),
    ]
    for name in ("raft", "raft-plus"):
        low, high = gain_difference(paths[name], paths["ift"])
        evidence = f"{points(rows[name])}; IFT's Δ is larger by [{low:+.1f}, {high:+.1f}]"
        claims.append((f"{rows[name]['label']}: Δ clearly below self-rewarding IFT's", low > 0, evidence))
    fixed_to_broken = "∞" if ift["c2i"] == 0 else f"{ift['i2c'] / ift['c2i']:.1f}"
    claims += [
        ("self-rewarding IFT corrects itself: Δ > 0", ift["delta_interval"][0] > 0, points(ift)),
        (
            "self-rewarding IFT mends at least three times what it breaks",
            ift["i2c"] >= 3 * ift["c2i"] and ift["i2c"] > 0,
            f"Δi→c = {ift['i2c']:.1f}, Δc→i = {ift['c2i']:.1f}, ratio {fixed_to_broken}",
        ),
        (
            "GRPO raises Final above IFT's (paired, p < 0.05)",
            gain.gain > 0 and gain.p_value < 0.05,
            f"{ift['final']:.1f} → {grpo['final']:.1f}: {gain.gain:+.1f} points, only GRPO right {gain.only_b}, "
            f"only IFT right {gain.only_a}, McNemar p = {gain.p_value:.2g}",
        ),
        (
            "after GRPO a verdict is still given on at least 95% of problems",
            grpo["no_verdict"] <= 5,
            f"verdict given on {100 - grpo['no_verdict']:.1f}%",
        ),
    ]
    return [{"claim": claim, "holds": bool(holds), "evidence": evidence} for claim, holds, evidence in claims]


def paired_tests(rows: Sequence[tuple[Mapping[str, Any], Sequence[Trajectory]]]) -> list[dict[str, Any]]:
    """Return the paired test of every two rows (scores, paths) of one problem set, as `demo.json` holds them."""
    found = []
    for (a, paths_a), (b, paths_b) in combinations(rows, 2):
        same = all(a.get(key) == b.get(key) for key in ("benchmark", "split"))
        if same and {t.problem.id for t in paths_a if _is_scored(t)} & {t.problem.id for t in paths_b if _is_scored(t)}:
            found.append({"a": a["label"], "b": b["label"], **to_json(compare(paths_a, paths_b))})
    return found


def _is_scored(path: Trajectory) -> bool:
    return is_correct(path.final) is not None


def claims(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the paper finds, asked of each row of a run that it is about; see `phenomena` for the demo's."""
    found = []
    for row in rows:
        low, high = row.get("delta_interval") or (None, None)
        if low is None or high is None or row.get("stop", "sampled") == "never":
            continue
        measured = (
            f"Δ = {row['delta']:+.1f} [{low:+.1f}, {high:+.1f}]; Δi→c = {row['i2c']:.1f}, Δc→i = {row['c2i']:.1f}"
        )
        asked = [
            (
                row.get("loop") == "intrinsic",
                "revising without a verdict does not help: Final ≤ Turn 1",
                row["delta"] <= 0,
            ),
            ("gold" in (row.get("loop"), row.get("stop")), "the gold verdict helps: Δ > 0", low > 0),
            (row.get("loop") in JUDGE_THEMSELVES, "the model corrects itself: Δ > 0", low > 0),
            (
                row.get("loop") in JUDGE_THEMSELVES,
                "it mends at least three times what it breaks",
                row["i2c"] >= 3 * row["c2i"] and row["i2c"] > 0,
            ),
        ]
        found += [
            {"claim": f"{row['label']}: {claim}", "holds": bool(holds), "evidence": measured}
            for applies, claim, holds in asked
            if applies
        ]
    return found


def gain_difference(a: Sequence[Trajectory], b: Sequence[Trajectory]) -> tuple[float, float]:
    """Return the 95% interval, in points, of Δ(b) - Δ(a) over the problems that both scored (paired, normal)."""

    def gains(paths: Sequence[Trajectory]) -> dict[str, int]:
        graded = {t.problem.id: (is_correct(t.first), is_correct(t.final)) for t in paths}
        return {
            key: int(bool(last)) - int(bool(first))
            for key, (first, last) in graded.items()
            if None not in (first, last)
        }

    of_a, of_b = gains(a), gains(b)
    common = sorted(of_a.keys() & of_b.keys())
    if len(common) < 2:
        raise DataError("the two runs have fewer than two scored problems in common")
    differences = [of_b[key] - of_a[key] for key in common]
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((difference - mean) ** 2 for difference in differences) / (n - 1)
    half = 1.96 * math.sqrt(variance / n)
    return 100 * (mean - half), 100 * (mean + half)


def show_rows(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return rows as two narrow terminal tables: what was reached, and how it was judged and counted."""
    reached, judged = _table("n", *(title for key, title in COLUMNS if key not in JUDGED)), _table(*JUDGED_TITLES)
    for row in rows:
        accuracies = [cell(row, key) for key, _ in COLUMNS if key not in JUDGED]
        reached.add_row(Text(row["label"]), str(row["n"]), *accuracies)
        counts = [str(row[key]) for key in ("unanswered", "ungradable", "truncated")]
        tokens = "–" if row["tokens_per_problem"] is None else f"{row['tokens_per_problem']:.0f}"
        judged.add_row(Text(row["label"]), *(cell(row, key) for key in JUDGED), *counts, tokens)
    return Group(reached, judged)


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("method", min_width=15, max_width=16, overflow="fold")
    for title in titles:
        table.add_column(title, justify="right")
    return table


def cell(row: Mapping[str, Any], key: str) -> Text:
    """Return one value with its interval below, a dash where there is none."""
    judges = row["rm_C_n"] + row["rm_W_n"] > 0 or "no-verdict" in row["stops"]  # was due to judge, and did not
    if row[key] is None or (key in JUDGED and not judges):
        return Text("–", style="dim")
    low, high = row[f"{key}_interval"]
    sign = "+" if key == "delta" else ""
    return Text.assemble(f"{row[key]:{sign}.1f}", (f"\n{low:{sign}.1f} {high:{sign}.1f}", "dim"))


def show_rows_of(run: Path) -> RenderableType:
    """Return the demo's table, tests and claims for the terminal."""
    table = read_json(run / "tables" / "demo.json")
    lines = [
        Text.assemble(
            ("✓ " if check["holds"] else "✗ ", "green" if check["holds"] else "bold red"),
            check["claim"],
            (f"  {check['evidence']}", "dim"),
        )
        for check in table["checks"]
    ]
    head = f"percent, 95% intervals below; {table['n']} held-out problems, greedy; a model organism, not a large model"
    return Group(show_rows(table["rows"]), Text(head, style="dim"), *lines)


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    head = ["method", "n", *(title for _, title in COLUMNS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [str(cell(row, key)).replace("\n", " [").replace(" [", " [", 1) for key, _ in COLUMNS]
        cells = [f"{text}]" if "[" in text else text for text in cells]
        lines.append("| " + " | ".join([inline(row["label"]), str(row["n"]), *cells]) + " |")
    return "\n".join(lines) + "\n"
