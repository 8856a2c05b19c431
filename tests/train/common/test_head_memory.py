"""A large vocabulary's logits are never made for a whole batch, in any program; in tiles they are the plain ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.train import grpo, orm, ppo, sft
from selfcorrect.train.common import lean_cpu
from selfcorrect.train.common.models import load_model
from selfcorrect.train.data.pairs import Pair, Side
from selfcorrect.train.dpo import DpoRecipe
from selfcorrect.train.dpo import build_trainer as build_dpo
from selfcorrect.train.rl.guards import GuardRecipe
from tests.train.conftest import PROBLEMS, rollout_function_of

WORDS = 70_000
ROWS, TOKENS = 8, 64
WHOLE = ROWS * TOKENS * WORDS
"""Numbers that the logits of one batch would have."""


class Largest(TorchDispatchMode):
    """Keeps the most numbers that one tensor had, of all that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.of = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and leaf.numel() > self.numbers:
                self.numbers, self.of = leaf.numel(), f"{func} {tuple(leaf.shape)}"
        return found


@contextmanager
def at_most(share: float) -> Iterator[None]:
    """Fail where a tensor has more than this share of the numbers of a batch's logits."""
    with Largest() as largest:
        yield
    assert largest.numbers < share * WHOLE, largest.of
    assert largest.numbers >= 16 * WORDS, "the mode saw not even the head's weights"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model folder of 16 units and 70,000 words, almost all of which the tokenizer never writes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class RandomSampler:
    """Writes random bytes; follows no model."""

    context = 1024

    def follow(self, model: Any) -> None:
        """Look away."""

    def rest(self) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Nothing is held."""

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        drawn = [np.random.default_rng(request.seed).integers(10, 200, TOKENS).tolist() for request in requests]
        return [Sample(tuple(ids), (-11.0,) * TOKENS, "length") for ids in drawn]


RL = {
    "steps": 1, "prompts_per_step": 2, "generations": ROWS // 2, "micro_rows": ROWS, "max_tokens": TOKENS,
    "precision": "fp32", "max_logprob_gap": 100.0, "beta": 0.01, "guard": GuardRecipe(action="ignore"),
}  # fmt: skip


@pytest.mark.parametrize("program", [grpo, ppo])
def test_rl_makes_no_logits_of_a_batch(program: Any, wide: Path, tmp_path: Path) -> None:
    kind = grpo.GrpoRecipe if program is grpo else ppo.PpoRecipe
    recipe = kind(model=str(wide), **RL) if program is ppo else kind(model=str(wide), zero_variance="keep", **RL)
    trainer = program.build_trainer(recipe, rollout_function_of(recipe, PROBLEMS, RandomSampler()), tmp_path)
    with at_most(0.1):
        trainer.train()
    assert trainer.used_rows == ROWS


def rows_of(codec: ChatCodec, path: Path) -> None:
    """Write rows of random bytes that are learned from the first to the last, half of them right."""
    draw = np.random.default_rng(0)
    lines = []
    for row in range(2 * ROWS):
        ids = draw.integers(10, 200, TOKENS + 2).tolist()
        spans = [
            {"role": "external", "start": 0, "end": 1, "sampled": False, "learn": False},
            {"role": "attempt", "start": 1, "end": len(ids), "sampled": True, "learn": True},
        ]
        first = "right" if row % 2 else "wrong"
        lines.append(
            {"id": f"{row}", "kind": "D3", "problem_id": f"{row}", "first": first, "token_ids": ids, "spans": spans}
        )
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize("program", [sft, orm])
def test_fine_tuning_makes_no_logits_of_a_batch(program: Any, wide: Path, tmp_path: Path) -> None:
    rows_of(ChatCodec.load(str(wide)), tmp_path / "data/sft/self-rewarding.jsonl")
    kind = sft.SftRecipe if program is sft else orm.OrmRecipe
    recipe = kind(model=str(wide), epochs=1, batch_rows=ROWS, precision="fp32")
    with at_most(0.1):
        program.run(recipe, tmp_path)


def test_dpo_makes_tiles_of_the_librarys_size(wide: Path, tmp_path: Path) -> None:
    """TRL's own: at most 32,768 words at once, for both sides of the pairs."""
    draw = np.random.default_rng(0)
    sides = [Side(tuple(draw.integers(10, 200, TOKENS).tolist()), (0, *(1,) * (TOKENS - 1))) for _ in range(ROWS)]
    pairs = [Pair(f"{n}", "P1", sides[2 * n], sides[2 * n + 1]) for n in range(ROWS // 2)]
    recipe = DpoRecipe(model=str(wide), batch_pairs=ROWS // 2, precision="fp32")
    trainer = build_dpo(recipe, ChatCodec.load(str(wide)), pairs, recipe.model, None, tmp_path)
    with at_most(0.5):
        trainer.train()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tiles_give_the_plain_values_and_gradients(wide: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """In bf16 tiles sum gradients in fp32, which the plain way rounds, so they are nearer to those of fp32.

    Values differ by the order of fp32 sums, 1e-6 with AVX2; what bf16 itself changes is 2e-4.
    """
    ids = torch.randint(5, 200, (3, 40), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :7] = -100
    weights = torch.randn(3 * 33, generator=torch.Generator().manual_seed(1))
    found: dict[str, Any] = {}
    for name, plain_words, bf16 in (
        ("plain", 10**6, False),
        ("plain_bf16", 10**6, True),
        ("tiles", 0, precision == "bf16"),
    ):
        monkeypatch.setattr(lean_cpu, "PLAIN_WORDS", plain_words)
        model = load_model(str(wide), "lean")
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(20)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            log_probs, entropy = lean_cpu.log_probs_of(model, {"input_ids": ids}, labels, "entropy")
            _, hits = lean_cpu.log_probs_of(model, {"input_ids": ids}, labels, "is_top1")
        (log_probs * weights).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert not entropy.requires_grad
        assert hits.dtype == torch.bool
        found[name] = (log_probs.detach(), entropy, gradient, hits)
    plain, tiles, plain_bf16 = found["plain"], found["tiles"], found["plain_bf16"]

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return ((one - other).norm() / other.norm()).item()

    if precision == "fp32":
        assert [apart(tiles[part], plain[part]) < 1e-6 for part in range(3)] == [True] * 3
        assert torch.equal(tiles[3], plain[3])
    else:
        assert [apart(tiles[part], plain_bf16[part]) < 5e-6 for part in range(2)] == [True] * 2
        assert apart(tiles[2], plain[2]) <= apart(plain_bf16[2], plain[2])
