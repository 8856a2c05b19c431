"""DPO and M-DPO: the loss against float64 loops on ragged multi-turn pairs, pairs as data, and both programs run."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfcorrect.chat import ChatCodec
from selfcorrect.errors import DataError, ModelError, RecipeError
from selfcorrect.runs.jsonl import read_jsonl, write_jsonl
from selfcorrect.train import dpo
from selfcorrect.train.data.pairs import Pair, Side, mix_pairs, pair_of
from selfcorrect.train.dpo import DpoRecipe, best_iteration, build_trainer, outcome_pairs
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.rollouts import Rollout
from selfcorrect.training_row import PreferencePair
from selfcorrect.types import Attempt, Grade, Outcome, Problem, Trajectory

GENERATOR = torch.Generator().manual_seed(0)


def side(*runs: tuple[int, int]) -> Side:
    """Return random tokens: runs of (length, counted)."""
    mask = [counted for length, counted in runs for _ in range(length)]
    return Side(tuple(torch.randint(5, 200, (len(mask),), generator=GENERATOR).tolist()), tuple(mask))


# Prompt, attempt and check are shared and not counted; a user's message stands between two counted turns.
PAIRS = [
    Pair("0", "P1", side((9, 0), (4, 1), (3, 0), (6, 1)), side((9, 0), (4, 1), (3, 0), (2, 1))),
    Pair("1", "P2", side((5, 0), (7, 1)), side((5, 0), (3, 1), (4, 0), (9, 1))),
    Pair("2", "P3", side((12, 0), (2, 1), (5, 0), (8, 1)), side((12, 0), (1, 1))),
    Pair("3", "P3", side((6, 0), (1, 1)), side((6, 0), (5, 1), (2, 0), (5, 1))),
]


def summed_log_prob(model: Any, path: Side) -> tuple[float, int]:
    """Return the float64 sum of counted tokens' log-probabilities, one unpadded row, and how many they are."""
    double = copy.deepcopy(model).double()
    double.__dict__.pop("forward", None)
    with torch.no_grad():
        rows = type(double).forward(double, torch.tensor([path.ids])).logits[0].log_softmax(-1)
    counted = [t for t, learned in enumerate(path.mask) if learned]
    return sum(rows[t - 1, path.ids[t]].item() for t in counted), len(counted)


@pytest.mark.parametrize("nll_weight", [0.0, 0.3])
def test_the_loss_is_the_papers_over_all_turns_of_the_assistant(
    tiny_model: Path, tmp_path: Path, nll_weight: float
) -> None:
    recipe = DpoRecipe(model=str(tiny_model), beta=0.4, nll_weight=nll_weight, batch_pairs=4, precision="fp32")
    trainer = build_trainer(recipe, ChatCodec.load(recipe.model), PAIRS, recipe.model, None, tmp_path)
    reference = copy.deepcopy(trainer.model)
    with torch.no_grad():
        for parameter in trainer.model.parameters():  # away from the reference
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    expected, chosen_logp, chosen_tokens = 0.0, 0.0, 0
    for pair in PAIRS:
        (chosen, tokens), (rejected, _) = (summed_log_prob(trainer.model, s) for s in (pair.chosen, pair.rejected))
        (ref_chosen, _), (ref_rejected, _) = (summed_log_prob(reference, s) for s in (pair.chosen, pair.rejected))
        margin = 0.4 * ((chosen - ref_chosen) - (rejected - ref_rejected))
        expected += math.log1p(math.exp(-margin)) / len(PAIRS)
        chosen_logp, chosen_tokens = chosen_logp + chosen, chosen_tokens + tokens
    expected -= nll_weight * chosen_logp / chosen_tokens
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, abs=1e-5)
    assert abs(expected - math.log(2)) > 0.01


def test_precomputed_reference_is_the_start_so_the_first_loss_is_log_two(tiny_model: Path, tmp_path: Path) -> None:
    recipe = DpoRecipe(model=str(tiny_model), batch_pairs=4, precision="fp32")
    trainer = build_trainer(recipe, ChatCodec.load(recipe.model), PAIRS, recipe.model, None, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(math.log(2), abs=1e-5)


def row(**changed: Any) -> dict[str, Any]:
    spans = [("external", 0, 3, False), ("revision", 3, 5, True)]
    path = {
        "token_ids": [1, 2, 3, 4, 5],
        "spans": [{"role": r, "start": a, "end": b, "sampled": True, "learn": learn} for r, a, b, learn in spans],
    }
    rejected = json.loads(json.dumps(path))
    rejected["token_ids"][4] = 9
    return {"id": "x", "kind": "P1", "shared": 4, "chosen": path, "rejected": rejected} | changed


def test_a_pair_of_gen_is_read_and_checked() -> None:
    pair = pair_of(PreferencePair.from_json(row()))
    assert pair.chosen == Side((1, 2, 3, 4, 5), (0, 0, 0, 1, 1))
    with pytest.raises(DataError, match="differ before token 5"):
        PreferencePair.from_json(row(shared=5))
    with pytest.raises(DataError, match="not a pair"):
        PreferencePair.from_json({"id": "x"})
    taught = row()
    taught["chosen"]["spans"][0]["learn"] = True
    with pytest.raises(DataError, match="the policy never writes it"):
        PreferencePair.from_json(taught)
    silent = row()
    silent["rejected"]["spans"][1]["learn"] = False
    with pytest.raises(ModelError, match="counts no token"):
        PreferencePair.from_json(silent)


def test_a_mix_takes_as_many_as_its_scarcest_kind_allows() -> None:
    pairs = [Pair(str(n), kind, PAIRS[0].chosen, PAIRS[0].rejected) for n, kind in enumerate(["P1"] * 9 + ["P2"] * 4)]
    kinds = [pair.kind for pair in mix_pairs(pairs, {"P1": 2, "P2": 1}, seed=0)]
    assert (kinds.count("P1"), kinds.count("P2")) == (8, 4)
    assert {pair.kind for pair in mix_pairs(pairs, {"P1": 1, "P2": 0}, seed=0)} == {"P1"}
    assert mix_pairs(pairs, {}, seed=0) == pairs
    with pytest.raises(RecipeError, match="no pairs of kind P3"):
        mix_pairs(pairs, {"P3": 1}, seed=0)


def test_fresh_pairs_are_one_right_and_one_wrong_path_of_a_problem() -> None:
    def rollout(problem: str, outcome: Outcome, token: int) -> Rollout:
        path = Trajectory(Problem(problem, "", "", "math"), (Attempt("", None, Grade(outcome, method="undecided")),))
        return Rollout(path, (1, 2), (token, 9), (0.0, 0.0), (1, 0), ())

    right, wrong, unknown = Outcome.CORRECT, Outcome.WRONG, Outcome.UNGRADABLE
    rollouts = [rollout("a", right, 3), rollout("a", wrong, 4), rollout("a", right, 3), rollout("a", unknown, 7)]
    rollouts += [rollout("b", right, 5), rollout("b", right, 6), rollout("c", wrong, 5), rollout("c", unknown, 5)]
    assert outcome_pairs(rollouts, 0) == [
        Pair("a", "outcome", Side((1, 2, 3, 9), (0, 0, 1, 0)), Side((1, 2, 4, 9), (0, 0, 1, 0)))
    ]


def test_the_best_iteration_is_that_of_the_highest_final_then_delta_then_the_first() -> None:
    scores = [{"final": 99.0, "delta": 9.0}] + [
        {"final": f, "delta": d} for f, d in ((70, 1), (72, 1), (72, 3), (72, 3))
    ]
    assert best_iteration(scores) == 3


@pytest.fixture
def dpo_recipe(recipe: GrpoRecipe) -> DpoRecipe:
    return DpoRecipe(
        model=recipe.model, pairs=None, iterations=2, problems_per_iteration=4, generations=8, validation=2,
        max_tokens=48, epochs=3, batch_pairs=4, precision="fp32", learning_rate=1e-3, save_every=2,
    )  # fmt: skip


def test_iterations_generate_pair_train_and_select(dpo_recipe: DpoRecipe, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    summary = dpo.run(dpo_recipe, tmp_path)
    folder = tmp_path / "checkpoints/dpo"
    assert len(summary["validation"]) == 3
    assert [part["kinds"].keys() for part in summary["iterations"]] == [{"outcome"}] * 2
    assert summary["iterations"][0]["first"]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert summary["iterations"][0]["last"]["loss"] < summary["iterations"][0]["first"]["loss"]
    chosen = folder / f"iteration-{summary['selected']}/model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == chosen.read_bytes()
    AutoModelForCausalLM.from_pretrained(folder)
    assert not list(folder.rglob("resume"))
    assert dpo.run(dpo_recipe, tmp_path) == summary


def test_the_reference_of_later_iterations_is_the_start_or_the_previous_policy(
    dpo_recipe: DpoRecipe, tmp_path: Path
) -> None:
    """An iteration starts at log 2 where its reference is the policy it starts from, and only there."""
    first_losses = {}
    for reference in ("start", "previous"):
        shutil.copytree(tmp_path / "data", tmp_path / reference / "data")
        summary = dpo.run(replace(dpo_recipe, reference=reference), tmp_path / reference)  # type: ignore[arg-type]
        first_losses[reference] = [part["first"]["loss"] for part in summary["iterations"]]
    assert first_losses["previous"] == pytest.approx([math.log(2)] * 2, abs=1e-3)
    assert first_losses["start"][0] == pytest.approx(math.log(2), abs=1e-3)
    assert abs(first_losses["start"][1] - math.log(2)) > 1e-2


def test_a_file_of_pairs_trains_and_an_interrupted_run_equals_a_whole_one(
    dpo_recipe: DpoRecipe, tmp_path: Path, killed_at: Any
) -> None:
    spans = lambda s: [
        {"role": "external" if not on else "revision", "start": t, "end": t + 1, "sampled": True, "learn": bool(on)}
        for t, on in enumerate(s.mask)
    ]
    rows = [
        {"id": p.id, "kind": p.kind, "shared": 0}
        | {
            name: {"token_ids": list(s.ids), "spans": spans(s)}
            for name, s in (("chosen", p.chosen), ("rejected", p.rejected))
        }
        for p in PAIRS
    ]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        (folder / "data/preferences").mkdir(parents=True)
        write_jsonl(folder / "data/preferences/pairs.jsonl", rows)
    recipe = replace(dpo_recipe, pairs="data/preferences/pairs.jsonl", iterations=1, epochs=3, batch_pairs=2)
    summary = dpo.run(recipe, whole)
    assert summary["kinds"] == {"P1": 1, "P2": 1, "P3": 2}
    assert summary["last"]["loss"] < summary["first"]["loss"]

    with killed_at(5):
        dpo.run(recipe, torn)
    dpo.run(recipe, torn)
    folders = [folder / "checkpoints/dpo" for folder in (whole, torn)]
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    rows = [list(read_jsonl(folder / "metrics.jsonl")) for folder in folders]
    assert [row | {"seconds": 0} for row in rows[0]] == [row | {"seconds": 0} for row in rows[1]]


def test_contradictory_settings_are_refused() -> None:
    with pytest.raises(RecipeError, match="set pairs=null"):
        DpoRecipe(iterations=2)
    with pytest.raises(RecipeError, match="mix chooses among"):
        DpoRecipe(pairs=None, mix={"P1": 1})
