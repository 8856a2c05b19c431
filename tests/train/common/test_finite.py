"""A step that is not finite ends every program, named; a damaged checkpoint is not gone on from."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from selfcorrect.errors import GuardError
from selfcorrect.runs.jsonl import write_jsonl
from selfcorrect.train import dpo, grpo, orm, ppo, sft
from selfcorrect.train.common.finite import largest, require_finite, stop_where_not_finite
from selfcorrect.train.dpo import DpoRecipe
from selfcorrect.train.embedded import pretrain
from selfcorrect.train.embedded.pretrain import PretrainRecipe
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.orm import OrmRecipe
from selfcorrect.train.ppo import PpoRecipe
from selfcorrect.train.rl.logprob_gap import Gap
from selfcorrect.train.sft import SftRecipe

Program = Callable[[GrpoRecipe, Path, float], Any]


def run_sft(start: GrpoRecipe, run: Path, rate: float) -> Any:
    settings: dict[str, Any] = {"epochs": 8, "batch_rows": 4, "precision": "fp32", "warmup": 0.0}
    return sft.run(SftRecipe(model=start.model, learning_rate=rate, **settings), run)


def run_orm(start: GrpoRecipe, run: Path, rate: float) -> Any:
    rows = [json.loads(line) for line in (run / "data/sft/self-rewarding.jsonl").read_text().splitlines()]
    graded = [row | {"problem_id": row["id"], "first": "right" if row["id"][-1] == "3" else "wrong"} for row in rows]
    write_jsonl(run / "data/attempts.jsonl", graded)
    settings: dict[str, Any] = {"data": "data/attempts.jsonl", "epochs": 8, "batch_rows": 4, "precision": "fp32"}
    return orm.run(OrmRecipe(model=start.model, learning_rate=rate, warmup=0.0, **settings), run)


def run_dpo(start: GrpoRecipe, run: Path, rate: float) -> Any:
    recipe = DpoRecipe(
        model=start.model, pairs=None, problems_per_iteration=4, generations=8, validation=2, max_tokens=48, epochs=8,
        batch_pairs=1, precision="fp32", learning_rate=rate, warmup=0.0,
    )  # fmt: skip
    return dpo.run(recipe, run)


def run_grpo(start: GrpoRecipe, run: Path, rate: float) -> Any:
    return grpo.run(replace(start, learning_rate=rate, steps=4, updates=4, max_logprob_gap=1e9), run)


def run_ppo(start: GrpoRecipe, run: Path, rate: float) -> Any:
    recipe = PpoRecipe(
        model=start.model, steps=4, prompts_per_step=6, generations=2, micro_rows=3, updates=4, max_tokens=48,
        precision="fp32", learning_rate=rate, value_learning_rate=rate, max_logprob_gap=1e9, guard=start.guard,
    )  # fmt: skip
    return ppo.run(recipe, run)


PROGRAMS = {"ift": run_sft, "orm": run_orm, "dpo": run_dpo, "grpo": run_grpo, "ppo": run_ppo}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_learning_rate_that_breaks_the_weights_ends_the_training(
    recipe: GrpoRecipe, guesser: Path, tmp_path: Path, name: str
) -> None:
    """Weights of 1e38 overflow at the latest in the second step."""
    shutil.copytree(guesser / "data/sft", tmp_path / "data/sft")
    with pytest.raises(GuardError, match=r"step \d+: the (loss|gradient norm|largest weight) is (nan|inf)"):
        PROGRAMS[name](recipe, tmp_path, 3e38)
    assert not list((tmp_path / "checkpoints").rglob("DONE"))
    assert not list((tmp_path / "checkpoints" / name).glob("model.safetensors"))


@pytest.mark.parametrize("processes", [1, 2])
def test_so_does_pretraining(tmp_path: Path, processes: int) -> None:
    tiny = PretrainRecipe(
        phases=({"conversations": 60},), hidden=32, layers=1, feed_forward=32, batch_tokens=512, processes=processes,
        warmup_steps=1, learning_rate=3e38,
    )  # fmt: skip
    with pytest.raises(GuardError, match=r"^step \d+: the (loss|gradient norm|largest weight) is (nan|inf); training"):
        pretrain.run(tiny, tmp_path)
    assert not list(tmp_path.rglob("DONE"))


class Toy(nn.Module):
    """A loss of one weight, whatever it is given."""

    def __init__(self, loss: Callable[[torch.Tensor], torch.Tensor], start: float) -> None:
        super().__init__()
        self.loss, self.weight = loss, nn.Parameter(torch.tensor([start]))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"loss": self.loss(self.weight).sum()}


CAUSES = {
    "loss": (lambda weight: (weight - 1).log(), 0.5, 0.1, "step 1: the loss is nan"),
    "gradient": (lambda weight: weight.sqrt(), 0.0, 0.1, "step 1: the gradient norm is inf"),
    "weights": (lambda weight: -weight, 1.0, 3e38, "step 2: the largest weight is inf"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_what_was_not_finite_is_named(tmp_path: Path, cause: str) -> None:
    from transformers import Trainer, TrainingArguments

    loss, start, rate, said = CAUSES[cause]
    settings: dict[str, Any] = {"max_steps": 4, "use_cpu": True, "report_to": "none", "save_strategy": "no"}
    arguments = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=rate, lr_scheduler_type="constant", optim="sgd", **settings
    )
    rows = [{"x": torch.tensor([1.0]), "labels": torch.tensor(0)}] * 8
    trainer = Trainer(model=Toy(loss, start), args=arguments, train_dataset=rows)
    stop_where_not_finite(trainer)
    with pytest.raises(GuardError, match=said):
        trainer.train()


def test_finite_values_pass() -> None:
    require_finite(1, "loss", 1e38, 0.1)
    with pytest.raises(GuardError, match=r"step 3: the loss is -inf; .* learning_rate is 0.1"):
        require_finite(3, "loss", -math.inf, 0.1)
    assert largest([torch.tensor([1.0, -3.0]), torch.tensor([]), torch.tensor([2.0])]) == 3.0
    assert largest([]) == 0.0
    assert math.isnan(largest([torch.tensor([1.0, math.nan]), torch.tensor([5.0])]))
    assert largest([torch.tensor([1.0, -math.inf])]) == math.inf


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_the_canary_speaks_where_it_cannot_compare(broken: float) -> None:
    with pytest.raises(GuardError, match="not finite for 1 of 2 tokens"):
        Gap().add(torch.tensor([[broken, 0.1]]), torch.tensor([[1, 1]]))
    gap = Gap()
    gap.add(torch.tensor([[broken, 0.1]]), torch.tensor([[0, 1]]))  # nothing is learned there
    gap.add(torch.tensor([[0.3, -0.5]]), torch.tensor([[1, 1]]))
    gap.add(torch.tensor([[9.0]]), torch.tensor([[0]]))
    assert (gap.mean, gap.tokens, gap.largest) == (pytest.approx(0.3), 3, pytest.approx(0.5))


# --- damaged checkpoints ---------------------------------------------------------------------------------------------


def _truncate(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _half_a_state(checkpoint: Path) -> None:
    state = checkpoint / "trainer_state.json"
    state.write_text(state.read_text()[: len(state.read_text()) // 2])


def _flip_a_bit(checkpoint: Path) -> None:
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    weights[-500] ^= 1
    (checkpoint / "model.safetensors").write_bytes(weights)


def _lose_the_optimizer(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()


@pytest.mark.parametrize("damage", [_truncate, _half_a_state, _flip_a_bit, _lose_the_optimizer])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(
    recipe: GrpoRecipe, tmp_path: Path, killed_at: Any, capsys: Any, damage: Callable[[Path], None]
) -> None:
    """Going on from there ends with the weights and rows of an undisturbed run."""
    recipe = replace(recipe, steps=4, save_every=1)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        shutil.copytree(tmp_path / "data", folder / "data")
    grpo.run(recipe, whole)
    with killed_at(4):
        grpo.run(recipe, torn)
    resume = torn / "checkpoints/grpo/resume"
    assert {path.name for path in resume.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    damage(resume / "checkpoint-3")
    capsys.readouterr()
    grpo.run(recipe, torn)
    said = capsys.readouterr()
    assert "checkpoint-3 is damaged" in (said.out + said.err).replace("\n", " ")
    weights = [(folder / "checkpoints/grpo/model.safetensors").read_bytes() for folder in (whole, torn)]
    assert weights[0] == weights[1]
    rows = [(folder / "checkpoints/grpo/metrics.jsonl").read_text().splitlines() for folder in (whole, torn)]
    assert [json.loads(line)["step"] for line in rows[1]] == [json.loads(line)["step"] for line in rows[0]]
