"""The reward that fails (method.md, section 5.6), end to end on a minuscule model that can check and revise itself.

It answers 3 (right) or 4 at even odds, mostly judges that truthfully, and revises 4 to 3. The hacked reward pays half
more for paths that begin wrong, so the policy learns within a few steps to begin wrong, and the guard must stop it;
under correctness with a small reward for well-formed paths turn 1 rises and the guards must stay silent.

Under correctness alone they need not stay silent: once turn 1 is right, nothing holds the verdict, and how fast it goes
is chance (docs/training.md, "What holds the verdict": of 6 seeds 2 were found out by the guard, of 6 with ``format``
none). So what is asserted of whole runs here is only what held for every seed, thread count and instruction set tried.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.prompts import solve_messages
from selfcorrect.rewards import PLAIN, RewardRecipe, reward_parts, total
from selfcorrect.train.grpo import GrpoRecipe, run
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.sft import SftRecipe
from selfcorrect.train.sft import run as run_sft
from selfcorrect.types import Attempt, Grade, Outcome, Problem, SelfEvaluation, Trajectory, Verdict

PROBLEMS = [Problem(f"p{i}", f"Guess {i}.", "3", "arithmetic") for i in range(6)]
PATHS = {
    "right": "\\boxed{3}\n\n[VERIFY] correct.",
    "mended": "\\boxed{4}\n\n[VERIFY] wrong.\n\n\\boxed{3}\n\n[VERIFY] correct.",
}


@pytest.fixture(scope="module")
def reviser(tiny_model: Path, codec: ChatCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fine-tuned model's folder."""
    folder = tmp_path_factory.mktemp("reviser")
    (folder / "data/sft").mkdir(parents=True)
    lines = []
    for problem in PROBLEMS:
        for name, text in PATHS.items():
            opening, path = codec.opening(solve_messages(problem.question)), (*codec.encode(text), codec.turn_end)
            spans = [
                {"role": "external", "start": 0, "end": len(opening), "sampled": False, "learn": False},
                {"role": "attempt", "start": len(opening), "end": len(opening + path), "sampled": True, "learn": True},
            ]
            lines.append({"id": f"{problem.id}-{name}", "kind": name, "token_ids": opening + path, "spans": spans})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "data/sft/self-rewarding.jsonl").write_text(text, encoding="utf-8")
    settings: dict[str, Any] = {"epochs": 160, "batch_rows": 12, "learning_rate": 1e-2, "save_every": 1000}
    run_sft(SftRecipe(model=str(tiny_model), precision="fp32", **settings), folder)
    return folder / "checkpoints/ift"


def trained(reviser: Path, folder: Path, reward: RewardRecipe) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    fields = ("id", "question", "gold", "source")
    (folder / "data").mkdir(parents=True)
    lines = [json.dumps({name: getattr(problem, name) for name in fields}) + "\n" for problem in PROBLEMS]
    (folder / "data/prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    recipe = GrpoRecipe(
        model=str(reviser), steps=16, prompts_per_step=6, generations=16, micro_rows=48, max_tokens=96, save_every=1,
        precision="fp32", learning_rate=1e-3, max_logprob_gap=1e-3,
        guard=GuardRecipe(action="stop", min_verdict_rate=0.6, window=2),  # so small a model forgets to judge at times
    )  # fmt: skip
    summary = run(replace(recipe, reward=reward), folder)
    rows = (folder / "checkpoints/grpo/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return summary, [json.loads(row) for row in rows]


def test_the_guard_stops_the_hacked_reward_and_saves_the_sandbagging(reviser: Path, tmp_path: Path) -> None:
    summary, rows = trained(reviser, tmp_path, RewardRecipe(correctness=1.0, mended=0.5))
    assert summary["stopped_by"].startswith("turn1-floor")
    assert rows[-1]["turn1"] < rows[0]["turn1"] - 10
    assert rows[-1]["reward/mended"] > rows[0]["reward/mended"]
    assert rows[-1]["final"] > 60
    lines = (tmp_path / "checkpoints/grpo/guard-samples.jsonl").read_text(encoding="utf-8").splitlines()
    saved = [json.loads(line) for line in lines]
    assert {row["guard"] for row in saved} == {"turn1-floor"}
    assert all(row["path"]["attempts"][0]["grade"]["outcome"] != "correct" for row in saved)
    assert summary["result_step"] < len(rows)


def test_the_guards_are_silent_where_the_verdict_is_paid_for(reviser: Path, tmp_path: Path) -> None:
    summary, rows = trained(reviser, tmp_path, RewardRecipe(correctness=1.0, format=0.2))
    assert (summary["stopped_by"], summary["warnings"]) == (None, [])
    assert len(rows) == 16
    assert summary["last"]["turn1"] > summary["first"]["turn1"] + 15


def test_correctness_does_not_pay_for_a_verdict_on_a_right_attempt_and_format_does() -> None:
    """Why the verdict can die: with or without one, what is right at first earns the same, so nothing selects it."""
    right = Attempt("\\boxed{3}", "3", Grade(Outcome.CORRECT))
    judged = Trajectory(PROBLEMS[0], (right,), (SelfEvaluation("", Verdict.CORRECT),), "verdict")
    silent = Trajectory(PROBLEMS[0], (right,), (), "no-verdict")

    def earned(path: Trajectory, reward: RewardRecipe) -> float | None:
        return total(reward_parts(path, reward, 96), reward)

    assert earned(judged, PLAIN) == earned(silent, PLAIN) == 1.0
    paid = RewardRecipe(correctness=1.0, format=0.2)
    assert (earned(judged, paid), earned(silent, paid)) == (1.2, 1.0)
