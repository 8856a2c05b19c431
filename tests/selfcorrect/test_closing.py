"""What a finished stage says, and that its commands can be run."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.cli import main, train
from selfcorrect.cli.closing import show_closing, without_rows
from selfcorrect.cli.generation import generation
from selfcorrect.cli.stages import Stage
from selfcorrect.data_gen.recipe import GenRecipe
from selfcorrect.engines import EngineRecipe
from selfcorrect.eval.run import EvalRecipe
from selfcorrect.printing import Terminal
from selfcorrect.runs.jsonl import read_jsonl, write_jsonl
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.shipped import made_by
from selfcorrect.train.dpo import DpoRecipe
from selfcorrect.train.embedded.pretrain import PretrainRecipe
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.orm import OrmRecipe
from selfcorrect.train.ppo import PpoRecipe
from selfcorrect.train.sft import SftRecipe

ROOT = Path(__file__).parents[2]
SCHEMAS: dict[str, Any] = {"sft": SftRecipe, "grpo": GrpoRecipe, "dpo": DpoRecipe, "orm": OrmRecipe}


def gen_summary(right: int, wrong: int, **rows: int) -> dict[str, Any]:
    share = right / (right + wrong)
    return {
        "rows": rows,
        "classes": {},
        "short": {"D1": 4},
        "problems": {"sampled from": right + wrong, "dropped": {}},
        "samples": {"attempts": {"right": right, "wrong": wrong, "acceptance": share}},
    }


def said(what: Any) -> str:
    file = io.StringIO()
    Terminal(file=file, width=100).print(what, crop=False)
    return file.getvalue()


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines() if line.startswith("selfcorrect ")]


def check(words: list[str]) -> None:
    """Read a command's recipe as the command line would."""
    program, stage, *rest = words
    assert program == "selfcorrect"
    if stage == "report":
        return
    name = rest.pop(0) if stage == "train" else None
    recipe, overrides = rest[0], rest[1 : rest.index("--run")]
    folder = {"gen": "data_gen"}.get(stage, stage)
    schema = {"gen": GenRecipe, "eval": EvalRecipe}.get(stage) or SCHEMAS[name or ""]
    load_recipe(schema, ROOT / folder / "recipes" / f"{recipe}.yaml", overrides)


STAGES: list[tuple[Callable[[], Stage[Any, Any]], Any, dict[str, Any]]] = [
    (generation, GenRecipe(), gen_summary(5, 5, **{"self-rewarding": 7, "preferences": 3, "prompts": 9})),
    (generation, GenRecipe(engine=EngineRecipe(model="a/b")), gen_summary(5, 5, **{"self-rewarding": 7})),
    (train.sft_stage, SftRecipe(), {"rows": 7, "last_loss": 0.25}),
    (train.sft_stage, SftRecipe(name="mine", model="a/b"), {"rows": 7}),
    (train.grpo_stage, GrpoRecipe(), {"rollouts": 5}),
    (train.ppo_stage, PpoRecipe(), {"rollouts": 5}),
    (train.dpo_stage, DpoRecipe(), {"selected": 1}),
    (train.orm_stage, OrmRecipe(), {"rows": 7, "right": 3}),
    (train.pretrain_stage, PretrainRecipe(), {"steps": 7}),
]


def closing(stage: Stage[Any, Any], recipe: Any, run: Path, summary: dict[str, Any], before: bool) -> str:
    shown = show_closing(stage.name, stage.folder(recipe, run), stage.closing(recipe, run, summary), before)
    return said(shown)


@pytest.mark.parametrize(("stage", "recipe", "summary"), STAGES)
@pytest.mark.parametrize("before", [False, True])
def test_a_stage_says_what_was_made_where_and_what_is_next(
    stage: Callable[[], Stage[Any, Any]], recipe: Any, summary: dict[str, Any], before: bool
) -> None:
    text = closing(stage(), recipe, Path("runs/my run"), summary, before)
    assert ("already done: nothing was run" in text) == before
    assert f"{'already done' if before else 'done'}: {stage().name}" in text
    assert "runs/my run/" in text
    found = commands(text)
    assert found
    for words in found:
        check(words)
        assert words[words.index("--run") + 1] == "runs/my run"


def test_the_model_of_a_recipe_has_its_own_next_recipe() -> None:
    recipe = GenRecipe(engine=EngineRecipe(model="Qwen/Qwen2.5-Math-7B"))
    text = closing(generation(), recipe, Path("runs/x"), gen_summary(5, 5, **{"self-rewarding": 7}), False)
    assert "selfcorrect train sft qwen2.5-math-7b-sft --run runs/x" in text


@pytest.mark.parametrize(
    ("right", "wrong", "reason"), [(0, 40, "too weak"), (40, 0, "too easy"), (20, 20, "verdicts or revisions")]
)
def test_no_rows_is_an_error_with_the_likely_reason(right: int, wrong: int, reason: str) -> None:
    message = without_rows(gen_summary(right, wrong, **{"self-rewarding": 0, "pass_rates": 40}), Path("r"))
    assert message is not None
    assert reason in message
    assert "pass_rates.jsonl" in message
    assert without_rows(gen_summary(1, 1, **{"self-rewarding": 1}), Path("r")) is None


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("prompt-too-long", "Likely: 21 of 40 attempts do not fit the model's context"),
        ("refused", "Likely: 21 of 40 attempts were refused by the server"),
        ("cut", "Likely: 21 of 40 attempts were cut at max_tokens; raise it"),
        ("ungradable", "Likely: 21 of 40 attempts hold no answer"),
        ("marked", "Likely: 21 of 40 attempts hold a verdict mark"),
    ],
)
def test_attempts_that_could_not_be_used_are_not_called_wrong(outcome: str, reason: str) -> None:
    summary = gen_summary(0, 40, **{"self-rewarding": 0})
    summary["samples"]["attempts"] = {outcome: 21, "wrong": 19, "acceptance": 0.0}
    assert reason in str(without_rows(summary, Path("r")))
    summary["samples"]["attempts"] = {outcome: 20, "wrong": 20, "acceptance": 0.0}
    assert "too weak" in str(without_rows(summary, Path("r")))


def test_a_gen_without_rows_fails_and_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "odd.jsonl", [{"question": f"What is {i}+{i}?", "gold": "-999999"} for i in range(2)])
    words = ["gen", "embedded", f"problems.source={tmp_path}/odd.jsonl", "problems.count=2", "prompts=0"]
    words += ["attempts=1", "baselines=false", "--run", str(tmp_path / "run")]
    for _ in range(2):  # the second time it is only read
        with pytest.raises(SystemExit) as left:
            main(words)
        printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert left.value.code == 1
        assert "gen wrote no training row: 2 problems were sampled" in printed
        assert "too weak for these problems (0% of its attempts are correct)" in printed


def test_missing_data_names_the_command_that_makes_it(tmp_path: Path) -> None:
    for model, pairs in (("embedded", False), ("embedded", True), ("Qwen/Qwen2.5-Math-7B", False), ("a/b", False)):
        message = made_by(Path("x.jsonl"), model, Path("runs/y"), pairs)
        words = shlex.split(message[message.index("selfcorrect ") :])
        check(words)
        assert ("embedded-pairs" in words) == pairs
    checkpoint = tmp_path / "checkpoints" / "ift"
    checkpoint.mkdir(parents=True)
    (checkpoint / "recipe.yaml").write_text("model: Qwen/Qwen2.5-Math-7B\n")
    assert "gen qwen2.5-math-7b --run" in made_by(Path("x.jsonl"), str(checkpoint), Path("runs/y"))


def test_eval_closes_with_its_scores_and_says_when_it_was_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["eval", "embedded", "problems.count=2", "method=single-turn", "max_tokens=40", "--run", str(tmp_path)]
    for expected in ("done: eval", "already done: eval"):
        with pytest.raises(SystemExit) as left:
            main(words)
        captured = capsys.readouterr()
        assert not left.value.code
        assert expected in captured.out
        assert str(tmp_path / "eval") in "".join(captured.out.replace("│", "").split())
        assert "Loading weights" not in captured.out + captured.err
    assert "loading embedded" not in captured.err
    with pytest.raises(SystemExit):
        main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["n"] == 2
    assert list(read_jsonl(tmp_path / "eval" / "self-rewarding" / "trajectories.jsonl"))
