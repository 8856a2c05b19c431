"""Reports from finished rows: ours beside the paper's, what is missing, and the four ways out."""

from __future__ import annotations

import csv
import io
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from selfcorrect.engines import EngineRecipe
from selfcorrect.errors import DataError, InputError
from selfcorrect.eval.results import find_rows
from selfcorrect.eval.run import EvalRecipe
from selfcorrect.eval.tables.learning_curves import curve_table, learning_curves
from selfcorrect.eval.tables.make import REPORTS, make
from selfcorrect.eval.tables.paper import FIELDS, command, is_same_method, published_rows
from selfcorrect.eval.tables.paper_tables import paper_budgets, paper_table
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs.jsonl import write_jsonl
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.table import Table, latex


def shown(what: object) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


@pytest.fixture
def run(tmp_path: Path, path, row) -> Path:  # type: ignore[no-untyped-def]
    return write_run(tmp_path, path, row)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, path, row) -> Path:  # type: ignore[no-untyped-def]
    """The run with every report made."""
    folder = write_run(tmp_path_factory.mktemp("reported"), path, row)
    for name in REPORTS:
        if name != "figure1":
            make(name, [folder])
    return folder


def write_run(folder: Path, path, row) -> Path:  # type: ignore[no-untyped-def]
    """Write a run with an IFT row on MATH500 of 100 problems: 70 right at turn 1, 80 at the end; and a misled one."""
    math500 = ProblemsRecipe(source="data/math500.test.jsonl")
    paths = [path(i, True, p=0.9, meta={"level": i % 3, "subject": "Algebra"}) for i in range(69)]
    paths += [path(69, True, False, p=0.1, meta={"level": 1})]
    paths += [path(i, False, True, p=0.2, meta={"level": 2}) for i in range(70, 81)]
    paths += [path(i, False, p=0.8, meta={"level": 3}) for i in range(81, 100)]
    row(folder, EvalRecipe(row="ift", label="self-rewarding IFT", problems=math500), paths)
    misled = [path(i, True, i % 2 == 0) for i in range(70)] + [path(i, False, False) for i in range(70, 100)]
    row(folder, EvalRecipe(row="misled", label="IFT, misled", method="misleading", problems=math500), misled)
    return folder


def test_the_papers_values_are_marked_against_our_interval(run: Path) -> None:
    table = paper_table("table3", find_rows([run]), run)
    line = next(r for r in table.rows if r[0] == "Self-rewarding IFT")
    cells = {title: (line[i], line[i + 1]) for i, title in enumerate(table.head) if i >= 2 and i % 2 == 0}
    assert cells["Turn 1"] == ("70.0 [60.4 78.1]", "72.6 in")
    assert cells["Final"] == ("80.0 [71.1 86.7]", "77.2 in")
    assert cells["Δ i→c"] == ("11.0 [6.2 18.6]", "5.0 out")
    assert any("n = 100 cannot resolve less than ±" in note for note in table.notes)
    assert [r[0] for r in table.rows if len(r) == 1] == ["MATH500", "OlympiadBench", "Minerva Math"]
    assert all(r[1] == "missing" for r in table.rows if len(r) > 1 and r[0] == "Self-rewarding IFT + PPO w correctness")


def test_every_missing_row_has_a_command_that_parses(run: Path) -> None:
    for name in FIELDS:
        table = paper_table(name, find_rows([run]), run)
        assert table.commands
        for line in table.commands:
            program, stage, recipe, *rest = shlex.split(line)
            assert (program, stage) == ("selfcorrect", "eval")
            overrides = rest[: rest.index("--run")]
            shipped = Path(__file__).parents[3] / "eval" / "recipes" / f"{recipe}.yaml"
            recipe = load_recipe(EvalRecipe, shipped, overrides)
            assert recipe.label in {row.method for row in published_rows(name)}
            assert recipe.temperature == {"table3": 0, "table4": 0, "table10": 0.7}.get(name, 1.0)
            assert len(recipe.seeds) == (3 if recipe.temperature else 1)


def test_a_run_stands_only_where_its_method_stop_judge_and_format_are_the_papers(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    ours = [
        EvalRecipe(row="asked", label="Self-rewarding IFT", method="asked"),
        EvalRecipe(row="argmax", label="Self-rewarding IFT", stop="argmax"),
        EvalRecipe(row="chat", label="Self-rewarding IFT", method="two-turn"),
        EvalRecipe(row="raft", label="STaR/RAFT for self-correction", method="gold"),
        EvalRecipe(row="told", label="Intrinsic self-correction", method="intrinsic"),
    ]
    for recipe in ours:
        row(tmp_path, recipe, [path(i, i < 5, p=0.9) for i in range(10)])
    table3 = {line[0]: line[1] for line in paper_table("table3", find_rows([tmp_path]), tmp_path).rows if len(line) > 1}
    assert table3["Intrinsic self-correction"] == "10"
    assert table3["STaR/RAFT for self-correction"] == "10", "ours, below the paper's rows"
    lines = [line[:2] for line in paper_table("table3", find_rows([tmp_path]), tmp_path).rows]
    assert ("Self-rewarding IFT", "missing") in lines
    assert ("STaR/RAFT for self-correction", "missing") in lines
    assert lines.count(("Self-rewarding IFT", "10")) == 3, "shown as rows of their own"
    chats = [line[:2] for line in paper_table("table10", find_rows([tmp_path]), tmp_path).rows]
    assert ("Self-rewarding IFT", "missing") not in chats[: chats.index(("Self-rewarding IFT", "10")) + 1]


def test_a_label_left_at_its_default_is_the_method_and_the_checkpoint_places_the_run(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    assert EvalRecipe(method="asked").label == "asked"
    assert EvalRecipe(stop="gold").label == "self-rewarding, stop=gold"
    for recipe in (Path(__file__).parents[3] / "eval" / "recipes").glob("*.yaml"):
        label = load_recipe(EvalRecipe, recipe, ["method=asked", "stop=sampled"]).label
        assert label in ("asked", "calibration paths"), recipe
    for name, method in (("ift", "self-rewarding"), ("grpo", "self-rewarding"), ("raft", "intrinsic")):
        engine = EngineRecipe(model=f"runs/x/checkpoints/{name}")
        row(tmp_path, EvalRecipe(row=name, method=method, engine=engine), [path(i, name == "ift") for i in range(10)])
    table = paper_table("table3", find_rows([tmp_path]), tmp_path)
    finals = {line[0]: line[4][:5] for line in table.rows if len(line) > 1 and line[1] == "10"}
    assert finals == {
        "Self-rewarding IFT": "100.0",
        "STaR/RAFT for self-correction": "0.0 [",
        "self-rewarding (grpo)": "0.0 [",
    }


def test_two_runs_for_one_published_row_are_both_shown(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    for name, right in (("a", 4), ("b", 8)):
        recipe = EvalRecipe(row=name, label="self-rewarding IFT", engine=EngineRecipe(model=f"m/{name}"))
        row(tmp_path, recipe, [path(i, i < right, p=0.9) for i in range(10)])
    rows = paper_table("table3", find_rows([tmp_path]), tmp_path).rows
    shown = {line[0]: (line[4][:4], line[5]) for line in rows if len(line) > 1 and line[1] == "10"}
    assert shown == {"Self-rewarding IFT: a, m/a": ("40.0", "77.2"), "Self-rewarding IFT: b, m/b": ("80.0", "77.2")}


def test_a_command_asks_for_the_problems_of_the_rows_that_are_there(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    problems = ProblemsRecipe(source="my data/math500.test.jsonl", count=50, where={"level": [4, 5]})
    row(tmp_path, EvalRecipe(row="ift", label="self-rewarding IFT", problems=problems), [path(0, True, p=0.9)])
    table = paper_table("table3", find_rows([tmp_path]), tmp_path, beside="MATH500")
    assert table.commands
    for line in table.commands:
        _, _, recipe, *rest = shlex.split(line)
        shipped = Path(__file__).parents[3] / "eval" / "recipes" / f"{recipe}.yaml"
        assert load_recipe(EvalRecipe, shipped, rest[: rest.index("--run")]).problems == problems


def test_no_two_commands_write_one_row(tmp_path: Path) -> None:
    for name in FIELDS:
        for benchmark in {row.group for row in published_rows(name)}:
            table = paper_table(name, [], tmp_path, beside=benchmark)
            written = [next(word for word in shlex.split(c) if word.startswith("row=")) for c in table.commands]
            models = [next(w for w in shlex.split(c) if w.startswith("engine.model=")) for c in table.commands]
            assert len(set(written)) == len(written), name
            trained = [model for model in models if "checkpoints" in model and "/ift" not in model]
            assert len(set(trained)) == len(trained), name


def test_a_gold_verdict_is_given_to_the_model_of_the_row() -> None:
    made = command("IFT more incorrect + c2c + Gold RM", "MATH", 1.0, Path("r"))
    assert "stop=gold engine.model=r/checkpoints/ift-more-incorrect-c2c " in made
    assert "engine.model=r/checkpoints/ift " in command("Self-rewarding IFT + Gold RM", "MATH", 1.0, Path("r"))


def test_on_a_terminal_the_papers_value_stays_beside_ours(run: Path) -> None:
    table = paper_table("table3", find_rows([run]), run)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table.to_terminal(width=80))
    heads = [line.split() for line in console.export_text().splitlines() if line.startswith(" method")]
    assert len(heads) > 3
    assert all(head[-1] == "paper" and head.count("paper") < len(head) - 1 for head in heads)
    assert all(first != "paper" for _, first, *_ in heads)


def test_sampling_that_differs_from_the_papers_is_said(run: Path) -> None:
    assert not any("sampled at temperature" in note for note in paper_table("table3", find_rows([run]), run).notes)
    notes = paper_table("table8", find_rows([run]), run).notes
    assert any("at temperature 1 in the two-turn chat; ours at 0, none in the two-turn chat" in note for note in notes)


def test_a_run_out_of_distribution_is_not_taken_for_the_result(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    for name, split in (("a", "ood"), ("b", "test")):
        recipe = EvalRecipe(row=name, label="self-rewarding IFT", problems=ProblemsRecipe(split=split))
        row(tmp_path, recipe, [path(i, name == "b", p=0.9) for i in range(10)])
    table = paper_table("table3", find_rows([tmp_path]), tmp_path)
    finals = {line[0]: line[4] for line in table.rows if len(line) > 1 and line[1] != "missing"}
    assert finals["Self-rewarding IFT"].startswith("100.0")
    assert finals["self-rewarding IFT (ood)"].startswith("0.0")


def test_p_c2i_comes_from_the_run_that_was_misled(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    recipe = EvalRecipe(row="ift", label="self-rewarding", method="two-turn", problems=ProblemsRecipe(source="math"))
    row(tmp_path, recipe, [path(i, i < 6, p=0.9) for i in range(10)])
    other = replace(recipe, row="calibration", stop="never", problems=ProblemsRecipe(source="math", split="validation"))
    row(tmp_path, other, [path(i, True, False) for i in range(10)])  # other problems: not these
    misled = replace(recipe, row="misled", label="misled", stop="never")
    row(tmp_path, misled, [path(i, i < 6, i < 3) for i in range(10)])
    table = paper_table("table8", find_rows([tmp_path]), tmp_path)
    line = next(r for r in table.rows if r[0] == "IFT balanced + c2c")
    assert line[table.head.index("p c→i") :][:2] == ("50.0 [18.8 81.2]", "36.1 in")
    assert not any(r[0] == "misled" for r in table.rows)


def test_runs_on_other_problems_are_shown_without_a_mark(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    row(tmp_path, EvalRecipe(row="own", label="Self-rewarding IFT"), [path(i, True, p=0.9) for i in range(10)])
    table = paper_table("table3", find_rows([tmp_path]), tmp_path, beside="Minerva")
    line = next(r for r in table.rows if r[0] == "Self-rewarding IFT")
    assert (table.rows[0], line[1], line[3]) == (("Minerva Math; ours on arithmetic",), "10", "23.2")
    with pytest.raises(InputError, match="OlympiadBench"):
        paper_table("table3", [], tmp_path, beside="GSM8K")


def test_published_rows_are_complete() -> None:
    counts = {name: len(published_rows(name)) for name in FIELDS}
    assert counts == {"table3": 30, "table4": 15, "table5": 26, "table7": 5, "table8": 12, "table9": 11, "table10": 24}
    for name in FIELDS:
        for row in published_rows(name):
            if {"delta", "i2c", "c2i"} <= row.values.keys():
                assert row.values["delta"] == pytest.approx(row.values["i2c"] - row.values["c2i"], abs=0.25)
            if {"turn1", "final", "delta"} <= row.values.keys():
                assert row.values["final"] - row.values["turn1"] == pytest.approx(row.values["delta"], abs=0.15)


def test_the_papers_budgets_follow_from_its_tables() -> None:
    budgets = paper_budgets()
    assert len(budgets["MATH500"]) == 3
    ift = budgets["MATH500"]["Self-rewarding IFT"]
    assert [round(v, 1) for v in (ift.never_flagged, ift.not_fixed, ift.fixed)] == [14.3, 8.1, 5.0]


def test_names_for_the_same_method() -> None:
    assert is_same_method("gold verdict", "Prompt with Gold RM")
    assert is_same_method("SELF-REWARDING ift", "Self-rewarding IFT")
    assert is_same_method("self-rewarding", "IFT balanced + c2c")
    assert not is_same_method("STaR/RAFT for self-correction", "STaR/RAFT+ for self-correction")
    assert not is_same_method("self-rewarding IFT + GRPO", "Self-rewarding IFT + PPO w correctness")
    assert "stop=gold" in command("Self-rewarding IFT + Gold RM", "MATH", 1.0, Path("runs/x"))


@pytest.mark.parametrize("name", [name for name in REPORTS if name != "figure1"])
def test_every_report_writes_its_files(reported: Path, name: str) -> None:
    run = reported
    rows = list(csv.reader((run / "tables" / f"{name}.csv").read_text().splitlines()))
    assert len({len(line) for line in rows}) == 1
    assert (run / "tables" / f"{name}.md").read_text().startswith("**")
    assert r"\toprule" in (run / "tables" / f"{name}.tex").read_text()
    if name == "calibration":
        assert (run / "tables" / "calibration.png").read_bytes()[:4] == b"\x89PNG"
        assert "<svg" in (run / "tables" / "calibration.svg").read_text()


def test_figures_are_drawn(run: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    steps = [{"step": s, "turn1": 60.0 + s, "final": 70.0 + s, "mean_length": 100 + s} for s in range(7)]
    write_jsonl(run / "checkpoints" / "grpo" / "metrics.jsonl", steps)
    assert "grpo" in shown(make("figure1", [run]))
    table = (run / "tables" / "figure1.md").read_text()
    assert "| grpo | 7 | 62.0 [60.0 64.0] | 64.0 [62.0 66.0] | 72.0 [70.0 74.0] | 74.0 [72.0 76.0] |" in table
    several = [path(i, i % 2 == 0, True, p=0.3, seed=s) for i in range(12) for s in range(4)]
    row(run, EvalRecipe(row="vote", label="IFT, T = 1", temperature=1.0, seeds=(0, 1, 2, 3)), several)
    assert "figure 2" in shown(make("figure2", [run]))
    for name in ("figure1", "figure2"):
        assert (run / "tables" / f"{name}.png").stat().st_size > 10_000
    equal = (run / "tables" / "figure2-equal-budget.csv").read_text()
    assert '"IFT, T = 1: correction + vote, against IFT, T = 1: maj@n, at equal tokens"' in equal


def test_curves_of_two_runs_keep_names_of_their_own(tmp_path: Path) -> None:
    steps = [{"step": 1, "turn1": 60.0, "final": 70.0}]
    for name in ("s0/checkpoints/grpo", "s1/checkpoints/grpo", "s1/checkpoints/ppo"):
        write_jsonl(tmp_path / name / "metrics.jsonl", steps)
    found = learning_curves(
        [tmp_path / "s0", tmp_path / "s1" / "checkpoints" / "grpo", tmp_path / "s1/checkpoints/ppo"]
    )
    assert list(found) == ["s0/grpo", "s1/grpo", "ppo"]
    assert curve_table(found).rows[0] == ("s0/grpo", "1", "60.0", "60.0", "70.0", "70.0", "–", "–")


def test_what_a_figure_lacks_is_said(run: Path) -> None:
    with pytest.raises(DataError, match="selfcorrect train grpo"):
        make("figure1", [run])
    assert "seeds=[0,1,2" in shown(make("figure2", [run]))
    with pytest.raises(DataError, match=r"no folder at .*nowhere; check the path"):
        make("figure1", [run / "nowhere"])
    with pytest.raises(DataError, match="neither a run folder"):
        make("table3", [run / "nowhere"])


def test_the_budget_by_level(run: Path) -> None:
    make("budget", [run], by="level")
    text = (run / "tables" / "budget.md").read_text()
    assert "| &emsp;level 0 |" in text
    assert r"\quad level 0 & 23 &" in (run / "tables" / "budget.tex").read_text()
    assert "| self-rewarding IFT | 100 | 30.0 | 19.0 [" in text
    with pytest.raises(InputError, match="no problem has a 'colour'"):
        make("budget", [run], by="colour")


def test_text_is_escaped_for_every_output() -> None:
    table = Table("a_b & 50%", ("method", "Δ i→c"), [("x|y{z}~^\\", "1 < 2"), ("group",), ("é", "–")], ["#1"])
    assert r"| x\|y{z}~^\\ | 1 &lt; 2 |" in table.to_markdown()
    assert latex("-5.7 [-7.4 -4.0], long-CoT, 1-2 |D1|") == (
        r"$-$5.7 [$-$7.4 $-$4.0], long-CoT, 1-2 \textbar{}D1\textbar{}"
    )
    assert latex("a_b & 50% $x$ {#} \\ ~ ^ é Δ") == (
        r"a\_b \& 50\% \$x\$ \{\#\} \textbackslash{} \textasciitilde{} \textasciicircum{} ? $\Delta$"
    )
    assert list(csv.reader(table.to_csv().splitlines()))[-1] == ["group", "é", "–"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_the_latex_compiles(reported: Path) -> None:
    run = reported
    body = "\n".join(f"\\input{{{run / 'tables' / name}.tex}}" for name in REPORTS if not name.startswith("figure"))
    document = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n" + body + "\n\\end{document}"
    (run / "all.tex").write_text(document)
    result = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=run, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-2000:]
