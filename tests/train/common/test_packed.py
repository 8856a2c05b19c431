"""One row without padding gives what padded rows give: log-probabilities, entropies, gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfcorrect.train.common.packed import packed
from selfcorrect.train.grpo import GrpoRecipe, build_trainer
from tests.train.conftest import rollout_function_of

KEPT = 6
MASK = torch.tensor(
    [
        [0, 0, 1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 1, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 1, 1, 0, 0],
    ]
)  # prompts padded on the left, completions on the right, as TRL pads them
IDS = torch.randint(5, 200, MASK.shape, generator=torch.Generator().manual_seed(0)).masked_fill(MASK == 0, 0)


def test_the_row_holds_the_tokens_and_knows_where_rows_begin() -> None:
    row = packed(IDS, MASK, IDS)
    assert row["input_ids"].tolist() == [IDS[MASK == 1].tolist()]
    assert row["position_ids"].tolist() == [[*range(5), *range(10), *range(2), *range(7)]]
    assert row["cu_seq_lens_q"].tolist() == row["cu_seq_lens_k"].tolist() == [0, 5, 15, 17, 24]
    assert row["max_length_q"] == row["max_length_k"] == 10
    assert (row["labels"][0] == -100).nonzero()[:, 0].tolist() == [0, 5, 15, 17]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_are_learned_from_as_padded_ones(recipe: GrpoRecipe, tmp_path: Path, attention: str) -> None:
    """By attention that runs on a CPU, which makes the mask of a packed row from its positions."""
    recipe = replace(recipe, attention=attention)
    trainer = build_trainer(recipe, rollout_function_of(recipe), tmp_path)
    weights = torch.randn(len(MASK), KEPT, generator=torch.Generator().manual_seed(1))
    found = []
    for way in (trainer._lean_log_probs, trainer._packed_log_probs):
        trainer.model.zero_grad()
        log_probs, entropies = way(trainer.model, IDS, MASK, KEPT)
        (log_probs * weights).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        assert log_probs.shape == entropies.shape == (len(MASK), KEPT)
        found.append((log_probs.detach(), entropies.detach(), gradient))
    for padded, without in zip(*found, strict=True):
        torch.testing.assert_close(without, padded, rtol=1e-5, atol=1e-5)
    assert (found[1][0] != 0).equal(MASK[:, -KEPT:] == 1)


def test_a_packed_row_is_taken_where_attention_is_flash_attention(recipe: GrpoRecipe, tmp_path: Path) -> None:
    """Here no GPU runs it; which way is taken is decided by the model's configuration and device alone."""
    trainer = build_trainer(recipe, rollout_function_of(recipe), tmp_path)
    assert trainer._way_of(trainer.model, {}) == trainer._lean_log_probs
    trainer.model.config.logit_scale = 1.0  # no plain head, as on a GPU
    assert trainer._way_of(trainer.model, {}) is None
    trainer.model.config._attn_implementation_internal = "flash_attention_2"
    assert trainer._way_of(trainer.model, {}) == trainer._packed_log_probs
    assert trainer._way_of(trainer.model, {"compute_aux_loss": True}) is None
