"""The studies as plans: closed, valid commands, every row of the paper's tables, and changed work is not skipped."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from selfcorrect.cli.main import main
from selfcorrect.cli.reproduce import numbers, study_steps, tables_of, total
from selfcorrect.errors import InputError
from selfcorrect.eval.run import EvalRecipe
from selfcorrect.eval.tables.make import REPORTS
from selfcorrect.eval.tables.paper import is_same_method, published_rows, settings_of
from selfcorrect.runs.recipes import load_recipe, to_yaml
from selfcorrect.shipped import shipped_recipes
from selfcorrect.study.forecast import costs
from selfcorrect.study.graph import Checkpoint, DataSet, Plan, Row, Step, Study, urgent_first
from selfcorrect.study.shipped import GPU, LAPTOP, SCALES, TABLES
from tests.test_docs import SCHEMAS, schema_of

SCALE_NAMES = sorted(SCALES)


def steps_at(scale: str, seeds: tuple[int, ...] = (0,)) -> list[Step]:
    return study_steps(tables_of(["all"], scale), scale, seeds, Path("runs/study"))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", SCALE_NAMES)
def test_every_step_waits_for_steps_before_it_and_writes_where_no_other_does(scale: str) -> None:
    steps = steps_at(scale, (0, 1, 2))
    names = [step.name for step in steps]
    folders = [step.folder for step in steps if step.folder]
    assert len(set(names)) == len(names)
    assert len(set(folders)) == len(folders)
    urgent = urgent_first(steps, {name: cost.seconds for name, cost in costs(steps, scale).items()})
    for order in (names, [step.name for step in urgent]):
        by_name = {step.name: step for step in steps}
        assert all(set(by_name[name].after) <= set(order[:place]) for place, name in enumerate(order))


@pytest.mark.parametrize("scale", SCALE_NAMES)
def test_every_command_is_one_that_can_be_typed(scale: str) -> None:
    """Recipe and overrides are read by the schema of the command; reports exist."""
    for step in steps_at(scale):
        if step.args[0] == "report":
            assert step.args[1] in REPORTS
            continue
        words = [word for word in step.args[: step.args.index("--run")] if word not in ("--launch", "fsdp", "zero2")]
        keys = [word.partition("=")[0] for word in words if "=" in word]
        assert len(set(keys)) == len(keys), f"a later one wins: {step.args}"
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in SCHEMAS)
        folder, schema, _ = SCHEMAS[name]
        recipe, *overrides = words[len(name.split()) :]
        load_recipe(schema_of(folder, schema), shipped_recipes(folder)[recipe], overrides)


def test_the_forecast_of_smollm_is_what_its_run_took() -> None:
    """By its DONE files: gen 604 s, the start model 2,052 and 2,204 s, IFT 284 s, 500 trajectories 186 to 580 s."""
    found = {name.removeprefix("s0 "): cost.seconds for name, cost in costs(steps_at("smollm"), "smollm").items()}
    trained = {name: seconds for name, seconds in found.items() if name.startswith(("sft", "grpo"))}
    assert found["gen"] == 604
    assert list(trained.values()) == [2052, 2204, 284, *[1280] * 3]
    assert all(186 < seconds < 580 for name, seconds in found.items() if name.startswith("eval"))
    assert sum(found.values()) < 3.5 * 3600


def trained_on_gpus() -> list[Step]:
    return [step for step in steps_at("gpu") if step.args[0] == "train"]


def test_what_is_trained_at_the_scale_gpu_is_spread_over_the_gpus() -> None:
    """`ppo` and `grpo` had --launch zero2, under which a 7B model takes 116 and 158 GB; `dpo` and `orm` had none."""
    steps = trained_on_gpus()
    assert {step.args[1] for step in steps} == {"sft", "dpo", "orm", "grpo", "ppo"}
    for step in steps:
        assert step.args[step.args.index("--launch") + 1] == "fsdp", step.name


def test_disk_is_what_a_step_leaves_and_while_it_trains_the_states_to_resume_from() -> None:
    """Of a model of 8 billion parameters: 32 GB of weights, 96 GB a state, of two models with a critic."""
    steps = steps_at("gpu")
    taken = costs(steps, "gpu")
    held = {name: (cost.gb, cost.resume_gb) for name, cost in taken.items()}
    assert held["qwen s0 grpo"] == (32, 4 * 96)
    assert held["qwen s0 ppo"] == (32, 2 * 4 * 96)
    assert held["qwen s0 sft ift"] == (32, 3 * 96)
    assert held["qwen s0 dpo"] == (4 * 32, 3 * 96)  # three iterations, and the best
    assert held["llama3-it s0 dpo m-dpo-d1"] == (32, 3 * 96)
    assert held["llama3-it s0 orm"] == (32, 96)
    line = str(total(steps, taken))
    assert f"{sum(cost.gb for cost in taken.values()):,.0f} GB, 768 more while the largest step trains" in line


@pytest.mark.slow
def test_what_is_trained_at_the_scale_gpu_fits_eight_gpus_of_80_gb() -> None:
    """As each step's own --dry-run says it, with the start model in the place of a checkpoint that is not there yet."""
    plans: dict[Any, str] = {}
    for step in trained_on_gpus():
        program = step.args[1]
        words = [
            word for word in step.args[3 : step.args.index("--launch")] if not word.startswith(("model=", "data="))
        ]
        folder, schema, _ = SCHEMAS[f"train {program}"]
        base = GPU[step.name.split()[0]].base
        recipe: Any = load_recipe(schema_of(folder, schema), shipped_recipes(folder)[step.args[2]], words)
        recipe = replace(
            recipe, name="x", model=base, **({"prompts": None} if program in ("dpo", "grpo", "ppo") else {})
        )
        key = (program, to_yaml(recipe))
        if key not in plans:
            (table,) = [
                part
                for part in import_module(f"selfcorrect.train.{program}").plan(recipe, Path("nowhere")).renderables
                if isinstance(part, Table) and str(part.title).startswith("fewest GPUs")
            ]
            layouts, of_80_gb = (list(column.cells) for column in (table.columns[0], table.columns[3]))
            assert table.columns[3].header == "80 GB"
            plans[key] = dict(zip(layouts, of_80_gb, strict=True))["zero3, fsdp"]
        assert plans[key] != "no", (step.name, plans)


ELSEWHERE = {  # at the scale laptop: the checkpoint is no part of a run with a decaying learning rate
    ("table4", "PPO step 100")
}


@pytest.mark.parametrize("table", [name for name in TABLES if name.startswith("table")])
def test_every_row_of_the_papers_tables_is_made_on_a_laptop(table: str) -> None:
    """As `paper.belongs` decides it: by method, stop decision, judge and label."""
    two_turn = table not in ("table3", "table4")
    known = {row.name: row for row in LAPTOP.rows}
    made = []
    for name in LAPTOP.tables[table]:
        row = known[name]
        words = dict(word.split("=", 1) for word in (f"method={row.method}", *row.settings))
        made.append((words["method"], words.get("stop", "sampled"), words.get("judge.kind", ""), row.label))
    group = published_rows(table)[0].group
    for published in [row for row in published_rows(table) if row.group == group]:
        wanted = settings_of(published.method, two_turn)
        alike = (wanted["method"], wanted.get("stop", "sampled"), wanted.get("judge.kind", ""))
        found = [label for *how, label in made if tuple(how) == alike and is_same_method(label, published.method)]
        assert bool(found) is ((table, published.method) not in ELSEWHERE), (published.method, wanted)


def test_recipes_on_synthetic_problems_ask_for_no_more_than_there_are() -> None:
    """The shipped `calibration` asked for 1,000 validation problems of 823, so its command could not run."""
    from selfcorrect.problems.arithmetic import available

    found = 0
    for path in shipped_recipes("eval").values():
        problems = load_recipe(EvalRecipe, path).problems
        if problems.source == "arithmetic":
            found += 1
            assert (problems.count or 0) <= available(problems.split), path.name
    assert found >= 3


@pytest.mark.parametrize("scale", SCALE_NAMES)
def test_the_dry_run_prints_the_plan_of_every_scale(scale: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["reproduce", "all", "--scale", scale, "--dry-run", "--json"])
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["step"] for step in steps if step["command"][1] == "report"]
    if scale == "gpu":
        hours = {step["step"]: step["gpu_hours"] for step in steps}
        assert hours["qwen s0 ppo"] > hours["qwen s0 sft ift"] > 0
    else:
        assert all(step["seconds"] > 0 and not step["gpu_hours"] for step in steps)
    assert all(step["gb"] > 0 for step in steps if step["command"][1] != "report")


def test_what_cannot_be_made_is_refused_with_what_can() -> None:
    with pytest.raises(InputError, match=r"no 'table6' at the scale laptop.*table3"):
        tables_of(["table6"], "laptop")
    for text in ("a", "0,0", "-1", ""):
        with pytest.raises(InputError, match="--seeds"):
            numbers(text)


def test_a_table_is_made_from_the_rows_of_every_seed_at_once() -> None:
    (report,) = [s for s in study_steps(["table3"], "laptop", (0, 1, 2), Path("runs/study")) if "table3" in s.args]
    places = [word for word in report.args if "/eval/" in word]
    assert [f"runs/study/s{seed}/eval/ift" in places for seed in range(3)] == [True] * 3
    assert [f"runs/study/s{seed}/eval/gold" in places for seed in range(3)] == [True, False, False]


def test_only_the_first_seed_evaluates_what_no_training_changes() -> None:
    steps = steps_at("laptop", (0, 1))
    rows = {
        seed: {s.folder.name for s in steps if s.folder and f"/{seed}/eval/" in str(s.folder)} for seed in ("s0", "s1")
    }
    assert {"gold", "asked", "intrinsic", "chat-misleading"} <= rows["s0"] - rows["s1"]
    assert {"ift", "grpo", "chat-cross"} <= rows["s1"], "a judge that is trained makes another row of each seed"


def test_a_study_that_names_what_it_has_not_is_refused() -> None:
    checkpoints = (Checkpoint("ift", "sft", "embedded-sft"),)
    study = Study("embedded", (DataSet("gen", "embedded"),), checkpoints, (Row("a", "", "gold", "itf"),), {"t": ("a",)})
    with pytest.raises(InputError, match=r"no checkpoint 'itf'.*ift"):
        Plan(study, Path("x")).evaluate(["a"])


FEW = ("problems.count=4",)


def test_a_step_that_is_done_is_skipped_only_while_recipe_and_inputs_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfcorrect.cli.plan import run_steps
    from selfcorrect.cli.unchanged import unchanged
    from selfcorrect.errors import SelfCorrectError

    def plan(*settings: str) -> list[Step]:
        args = ("eval", "embedded", "row=a", "method=single-turn", *settings, "--run", str(tmp_path))
        return [Step("eval a", args, tmp_path / "eval" / "a")]

    assert run_steps(plan(*FEW), tmp_path, check=unchanged).keys() == {"eval a"}
    before = (tmp_path / "eval" / "a" / "scores.json").stat().st_mtime_ns
    run_steps(plan(*FEW), tmp_path, check=unchanged)
    assert (tmp_path / "eval" / "a" / "scores.json").stat().st_mtime_ns == before
    with pytest.raises(SelfCorrectError, match=r"'eval a' is done, and cannot be skipped[\s\S]*max_tokens"):
        run_steps(plan(*FEW, "max_tokens=99"), tmp_path, check=unchanged)
    inputs, done = tmp_path / "eval" / "a" / "inputs.json", tmp_path / "eval" / "a" / "DONE"
    record = json.loads(inputs.read_text()) | {"model": {"config.json": "another"}}
    inputs.write_text(json.dumps(record))
    summary = json.loads(done.read_text())
    del summary["files"]["inputs.json"]  # as if it had been finished from another model
    done.write_text(json.dumps(summary))
    with pytest.raises(SelfCorrectError, match=r"cannot be skipped[\s\S]*model: 1 changed"):
        run_steps(plan(*FEW), tmp_path, check=unchanged)


def test_reproduce_makes_the_table_and_the_claims_and_does_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, on a study of one row and four problems."""
    rows = (Row("intrinsic", "intrinsic self-correction", "intrinsic"),)
    tiny = Study("embedded", (), (), rows, {"table3": ("intrinsic",)}, everywhere=FEW)
    monkeypatch.setattr("selfcorrect.cli.reproduce.SCALES", {"laptop": {"": tiny}})
    words = ["reproduce", "table3", "--run", str(tmp_path), "--jobs", "1"]
    with pytest.raises(SystemExit, match="0"):
        main(words)
    assert "intrinsic self-correction" in (tmp_path / "tables" / "table3.md").read_text().casefold()
    (claim,) = [
        claim
        for claim in json.loads((tmp_path / "tables" / "claims.json").read_text())["claims"]
        if claim["claim"].startswith("5.1")
    ]
    assert claim["n"] == 4
    took = json.loads((tmp_path / "logs" / "seconds.json").read_text())
    assert took.keys() == {"s0 eval intrinsic", "report table3", "report claims"}
    monkeypatch.setattr(
        "selfcorrect.cli.reproduce.run_steps", lambda steps, run, jobs, check: [check(s) for s in steps[:1]]
    )
    with pytest.raises(SystemExit, match="0"):
        main(words)
    assert "2 of 3 steps to do" in capsys.readouterr().out
