"""GRPO on two-turn chats through the whole program, on a minuscule model that was taught to speak that way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.rewards import RewardRecipe
from selfcorrect.runs.jsonl import write_jsonl
from selfcorrect.train import grpo, sft
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.sft import SftRecipe
from selfcorrect.types import Problem

PROBLEMS = [Problem(f"p{i}", f"Guess {i}.", "3", "arithmetic") for i in range(3)]
YES, NO = (f" {prompts.SELF_QUESTION} {word}" for word in ("Yes", "No"))


@pytest.fixture(scope="module")
def talker(tiny_model: Path, codec: ChatCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says 3 and is sure, or says 4, doubts it, and says 3 when it is told to rewrite."""
    folder = tmp_path_factory.mktemp("talker")
    (folder / "data/sft").mkdir(parents=True)
    lines = []
    for problem in PROBLEMS:
        opening, end = codec.opening(prompts.solve_messages(problem.question)), (codec.turn_end,)
        sure = (*codec.encode("\\boxed{3}." + YES), *end)
        doubts = (*codec.encode("\\boxed{4}." + NO), *codec.reply(prompts.CHAT_WRONG), *sure)
        for name, path in (("sure", sure), ("doubts", doubts)):
            ends = (0, len(opening), len(opening + path))
            spans = [
                {"role": role, "start": start, "end": stop, "sampled": start > 0, "learn": start > 0}
                for role, start, stop in zip(("external", "attempt"), ends, ends[1:], strict=False)
            ]
            lines.append({"id": problem.id + name, "kind": name, "token_ids": opening + path, "spans": spans})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "data/sft/self-rewarding.jsonl").write_text(text, encoding="utf-8")
    sft.run(SftRecipe(model=str(tiny_model), precision="fp32", epochs=300, batch_rows=6, learning_rate=1e-2), folder)
    return folder / "checkpoints/ift"


@pytest.mark.slow
def test_a_chat_is_rolled_out_rewarded_by_turn_and_learned(talker: Path, tmp_path: Path) -> None:
    names = ("id", "question", "gold", "source")
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data/prompts.jsonl", [{name: getattr(p, name) for name in names} for p in PROBLEMS])
    recipe = GrpoRecipe(
        model=str(talker), format="two-turn", max_tokens=96, steps=4, prompts_per_step=3, generations=8, micro_rows=8,
        credit="turn", normalise="role", reward=RewardRecipe(verdict=0.5), precision="fp32", learning_rate=1e-3,
        max_logprob_gap=1e-3, guard=GuardRecipe(action="ignore"),
    )  # fmt: skip
    summary = grpo.run(recipe, tmp_path)
    folder = tmp_path / "checkpoints/grpo"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4
    assert rows[0]["revisions"] > 0
    assert rows[0]["i2c"] > 0
    assert rows[0]["verdict_rate"] > 80
    assert max(row["logprob_gap"] for row in rows) < 1e-3
    assert all(row["loss"] is not None and row["used_rows"] > 0 for row in rows)
    assert summary["last"]["mean_length"] > 20
    weights = [(path / "model.safetensors").read_bytes() for path in (talker, folder)]
    assert weights[0] != weights[1]
