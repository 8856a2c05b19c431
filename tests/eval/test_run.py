"""Evaluation runs: recipes that are refused, whole test sets, what a result file says, paths without barriers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from selfcorrect.chat import EMBEDDED, ChatCodec
from selfcorrect.cli import main
from selfcorrect.correction.judges import JudgeRecipe
from selfcorrect.correction.loop import LoopSettings
from selfcorrect.engines import EngineRecipe, SampleRequest
from selfcorrect.engines.scripted import ScriptedEngine
from selfcorrect.errors import DataError, InputError
from selfcorrect.eval.results import find_rows, read_result, read_trajectories
from selfcorrect.eval.run import EvalRecipe, load_whole, run, sample_trajectories, summary, template_fingerprint
from selfcorrect.problems import TEST_SETS, ProblemsRecipe
from selfcorrect.runs.jsonl import Journal, read_json
from selfcorrect.runs.progress import meter
from selfcorrect.types import Problem, Role, Verdict


def test_several_seeds_wherever_sampling_is_random() -> None:
    assert EvalRecipe().seeds == (0,)
    assert EvalRecipe(temperature=0.7).seeds == (0, 1, 2)
    assert EvalRecipe(temperature=0.7, seeds=(5,)).seeds == (5,)
    with pytest.raises(InputError, match="greedy trajectories do not depend on the seed"):
        EvalRecipe(seeds=(0, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "judged"},
        {"stop": "judge"},
        {"judge": JudgeRecipe("orm")},
        {"method": "gold", "judge": JudgeRecipe("orm")},
    ],
)
def test_a_judge_goes_with_what_needs_one(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match="a judge goes with"):
        EvalRecipe(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", ["/abs", "../../x", "a/b", ""])
def test_a_row_that_leads_elsewhere_is_refused(row: str) -> None:
    with pytest.raises(InputError, match="row: expected a plain folder name"):
        EvalRecipe(row=row)


@pytest.mark.parametrize("name", TEST_SETS)
def test_the_published_number_of_problems(shared: Path, name: str) -> None:
    loaded = load_whole(ProblemsRecipe(source=str(shared / "data" / f"{name}.test.jsonl")))
    assert len(loaded.problems) + sum(loaded.dropped.values()) == TEST_SETS[name]


def test_a_test_set_of_another_size_is_refused(shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "aime24.test.jsonl"
    lines = (shared / "data" / "aime24.test.jsonl").read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:29]))
    with pytest.raises(DataError, match="29 problems, the published aime24 test set has 30"):
        load_whole(ProblemsRecipe(source=str(file)))
    assert len(load_whole(ProblemsRecipe(source=str(file), count=29)).problems) == 29
    math = tmp_path / "math.test.jsonl"  # whole MATH, not MATH500 under its name
    math.write_text("".join(f'{{"problem": "{i}?", "answer": "{i}"}}\n' for i in range(500)))
    with pytest.raises(DataError, match="500 problems, the published math test set has 5,000"):
        load_whole(ProblemsRecipe(source=str(math)))


def test_a_result_file_says_what_made_it(path, codec: ChatCodec) -> None:  # type: ignore[no-untyped-def]
    made = summary(EvalRecipe(label="A", temperature=1.0), [path(0, True, p=0.9), path(1, False, True, p=0.1)], {})
    row = made.to_json()
    for key in ("grader", "prompts", "versions", "temperature", "top_p", "max_tokens", "horizon", "seeds", "stop"):
        assert row[key] is not None
    assert row["budget"]["fixed"] == 50
    assert row["versions"]["torch"]
    other = ChatCodec(codec.tokenizer)
    assert template_fingerprint(other) == template_fingerprint(codec)
    json.dumps(row)


def test_no_path_waits_for_a_turn_of_another(codec: ChatCodec, tmp_path: Path) -> None:
    """One slow first attempt: the others' revisions are asked for before it is there."""
    order: list[str] = []

    def script(request: SampleRequest, prompt: str) -> str:
        order.append(("slow" if "slow" in prompt else "quick") + ("-revision" if "may be an error" in prompt else ""))
        return "\\boxed{4}"

    engine = ScriptedEngine(script, codec, delay_s=lambda r: 0.3 if "slow" in codec.decode(r.prompt_ids) else 0.0)
    problems = [Problem(f"p{i}", "a slow one" if i == 0 else "quick", "4", "math") for i in range(5)]
    with Journal(tmp_path / "t.jsonl") as journal, meter("m", 5) as progress:
        waiting = [(f"{problem.id}#0", problem, 0) for problem in problems]
        asyncio.run(sample_trajectories(journal, LoopSettings("intrinsic"), waiting, engine, codec, progress))
        assert len(journal.rows) == 5
    assert order.index("quick-revision") < order.index("slow")  # the slow attempt answers last of all
    assert order[-1] == "slow-revision"


def test_a_finished_row_is_only_read(tmp_path: Path, path, row) -> None:  # type: ignore[no-untyped-def]
    recipe = EvalRecipe(row="a", engine=EngineRecipe("no/such/model"))
    folder = row(tmp_path, recipe, [path(0, True)])
    assert run(recipe, tmp_path) == read_result(folder)
    assert [r.name for r in find_rows([tmp_path, folder])] == ["a"]


def test_threshold_needs_its_calibration(tmp_path: Path) -> None:
    recipe = EvalRecipe(stop="threshold", calibration=str(tmp_path / "calibration.json"))
    with pytest.raises(DataError, match="selfcorrect eval calibrate"):
        run(recipe, tmp_path)


def test_a_broken_trajectory_is_named(tmp_path: Path) -> None:
    (tmp_path / "trajectories.jsonl").write_text('{"key": "a", "trajectory": {"problem": 1}}\n')
    with pytest.raises(DataError, match="record 1"):
        read_trajectories(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (EMBEDDED / "model.safetensors").exists(), reason="no embedded weights")
def test_a_real_model_is_overruled_token_for_token(tmp_path: Path) -> None:
    """Through the command line: every judged attempt is revised, and what was decided is in the path, unsampled."""
    command = "eval embedded method=asked stop=never row=never problems.split=validation problems.count=12"
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "--run", str(tmp_path)])
    assert left.value.code in (0, None)
    codec = ChatCodec.load("embedded")
    paths = read_trajectories(tmp_path / "eval" / "never")
    judged = [path for path in paths if path.evaluations and path.evaluations[0].verdict]
    assert len(judged) >= 8
    assert all(len(path.attempts) == 2 and path.evaluations[0].verdict is Verdict.WRONG for path in judged)
    overruled = 0
    for path in judged:
        forced = [s for s in path.spans if s.role is Role.EVALUATION and not s.sampled]
        overruled += len(forced)
        assert [codec.decode(path.token_ids[s.start : s.end]) for s in forced] in ([], [" wrong."])
        assert (path.evaluations[0].p_correct or 0) > 0.5 or not forced  # greedy: overruled where it meant correct
    assert overruled >= 4
    scores = read_json(tmp_path / "eval" / "never" / "scores.json")
    assert {"grader", "prompts", "template", "tokenizer", "versions", "budget", "faults", "power"} <= scores.keys()
