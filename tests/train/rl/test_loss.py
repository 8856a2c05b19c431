"""The loss of every variant against plain float64 loops, on ragged multi-turn batches with masked user tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from selfcorrect.train.grpo import GrpoRecipe, build_trainer
from selfcorrect.train.rl.advantages import role_advantages, trajectory_advantages
from selfcorrect.train.rl.toy_mdp import token_weights
from selfcorrect.train.rl.variants import VARIANTS
from selfcorrect.types import Problem
from tests.train.conftest import rollout_function_of

EPSILON, EPSILON_HIGH, CAP, BETA = 0.2, 0.3, 1.3, 0.04
GENERATIONS = 4
REWARDS = [1.0, 0.0, 1.0, 1.0, 0.0, 1.5, 0.0, 0.0, 0.0, 1.0, 1.0, 0.5]
BUDGET = 40

# (role, tokens) of each path; a user's message "u" stands between turns. Twelve paths of three problems.
SHAPES = [
    "a5 e3",
    "a4 e2 u3 r6 e1",
    "a7",
    "a2 e2 u4 r1",
    "a6 e1",
    "a1 e5 u2 r3 e2",
    "a3 e3 u1 r9",
    "a8 e2",
    "a2 e1",
    "a4 e4 u5 r2 e3",
    "a9 e1",
    "a3 e2",
]


@dataclass(frozen=True)
class Ragged:
    """A path as its tokens: prompt, completion, which are learned, whose they are, log-probs that came with it."""

    prompt: list[int]
    ids: list[int]
    learned: list[int]
    parts: list[tuple[str, int, int]]
    old: list[float]
    reference: list[float]


@pytest.fixture(scope="module")
def paths() -> list[Ragged]:
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> list[int]:
        return torch.randint(5, 200, (count,), generator=generator).tolist()

    made = []
    for place, shape in enumerate(SHAPES):
        parts, position = [], 0
        for word in shape.split():
            parts.append((word[0], position, position + int(word[1:])))
            position += int(word[1:])
        learned = [int(role != "u") for role, start, end in parts for _ in range(start, end)]
        noise = (torch.rand(2, position, generator=generator) - 0.5).tolist()
        made.append(Ragged(draw(3 + place % 5), draw(position), learned, parts, noise[0], noise[1]))
    return made


@pytest.fixture(scope="module")
def trainer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One trainer whose loss settings the tests change; the batch never comes from it."""
    recipe = GrpoRecipe(
        model=str(tiny_model), steps=1, prompts_per_step=3, generations=GENERATIONS, micro_rows=4, max_tokens=BUDGET,
        precision="fp32", zero_variance="keep", epsilon=EPSILON, epsilon_high=EPSILON_HIGH, beta=BETA,
        trainer={"importance_sampling_level": "token"},
    )  # fmt: skip
    problems = [Problem(f"p{i}", f"Guess {i}.", "3", "arithmetic") for i in range(3)]
    folder = tmp_path_factory.mktemp("loss")
    made = build_trainer(recipe, rollout_function_of(recipe, problems), folder)
    made.model.train()
    made._with_reference = lambda micro: micro  # the batch brings its reference log-probabilities
    return made


def float64_log_probs(model: Any, path: Ragged) -> list[float]:
    """Return the log-probability of each completion token, one unpadded row in double precision."""
    import copy

    double = copy.deepcopy(model).double()
    double.__dict__.pop("forward", None)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        logits = type(double).forward(double, torch.tensor([path.prompt + path.ids])).logits[0].log_softmax(-1)
    return [logits[len(path.prompt) + t - 1, token].item() for t, token in enumerate(path.ids)]


def padded_batch(paths: list[Ragged], logps: list[list[float]], advantages: torch.Tensor, off: float) -> dict[str, Any]:
    prompts, columns = max(len(p.prompt) for p in paths), max(len(p.ids) for p in paths)

    def right(rows: list[list[Any]], fill: float = 0) -> torch.Tensor:
        return torch.tensor([row + [fill] * (columns - len(row)) for row in rows])

    def left(rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor([[0] * (prompts - len(row)) + row for row in rows])

    both = list(zip(logps, paths, strict=True))
    batch = {
        "prompt_ids": left([p.prompt for p in paths]),
        "prompt_mask": left([[1] * len(p.prompt) for p in paths]),
        "completion_ids": right([p.ids for p in paths]),
        "completion_mask": right([[1] * len(p.ids) for p in paths]),
        "tool_mask": right([p.learned for p in paths], 1),
        "old_per_token_logps": right([[x + off * n for x, n in zip(row, p.old, strict=True)] for row, p in both]),
        "ref_per_token_logps": right([[x + n for x, n in zip(row, p.reference, strict=True)] for row, p in both]),
        "advantages": advantages,
    }
    return batch | {"num_items_in_batch": torch.tensor(float(sum(sum(p.learned) for p in paths)))}


def reference_loss(
    loss: str,
    paths: list[Ragged],
    logps: list[list[float]],
    advantages: list[list[float]],
    used: list[bool],
    off: float,
) -> float:
    """The formulas, written out token by token. ``advantages`` are given per token."""
    rows = len(paths)
    tokens = sum(sum(path.learned) for path, use in zip(paths, used, strict=True) if use)
    total = 0.0
    for path, row, weights, use in zip(paths, logps, advantages, used, strict=True):
        if not use:
            continue
        terms = 0.0
        off_policy = sum(-off * old for old, learned in zip(path.old, path.learned, strict=True) if learned)
        for t, learned in enumerate(path.learned):
            if not learned:
                continue
            ratio = math.exp(-off * path.old[t])  # new - old
            clipped = min(max(ratio, 1 - EPSILON), 1 + EPSILON_HIGH)
            if loss == "cispo":
                policy = -min(ratio, CAP) * weights[t] * row[t]
            elif loss == "sapo":
                temperature = 1.0 if weights[t] > 0 else 1.05
                policy = -4 / temperature / (1 + math.exp(-temperature * (ratio - 1))) * weights[t]
            elif loss == "vespo":  # weighs a whole sequence by its ratio w: w^k e^(d - dw), 1 at w = 1
                power, decay = (2.0, 3.0) if weights[t] >= 0 else (3.0, 2.0)
                policy = -math.exp(decay + power * off_policy - decay * math.exp(off_policy)) * weights[t] * row[t]
            else:
                policy = -min(ratio * weights[t], clipped * weights[t])
            difference = path.reference[t]  # reference - new; TRL weighs the estimate by the ratio, off-policy
            terms += policy + BETA * (math.exp(difference) - difference - 1) * ratio
        if loss in ("grpo", "sapo"):
            total += terms / sum(path.learned) / rows
        elif loss == "dr_grpo":
            total += terms / (rows * BUDGET)
        elif loss == "luspo":
            total += terms / rows
        else:
            total += terms / tokens
    return total


def our_loss(trainer: Any, batch: dict[str, Any]) -> float:
    micro_batches = trainer.micro_batches(batch, REWARDS)
    trainer.current_gradient_accumulation_steps = len(micro_batches)
    return float(sum(trainer.compute_loss(trainer.model, micro).item() for micro in micro_batches))


def spread(values: torch.Tensor, paths: list[Ragged]) -> list[list[float]]:
    return [[value] * len(path.ids) for value, path in zip(values.tolist(), paths, strict=True)]


@pytest.mark.parametrize("off", [0.0, 1.0], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("loss", [name for name, variant in VARIANTS.items() if name != "gspo"])
def test_each_variant(trainer: Any, paths: list[Ragged], loss: str, off: float) -> None:
    """Token by token through the model; tests/train/rl/test_variants.py has the papers' own settings and gradients."""
    aggregation, rule = VARIANTS[loss].aggregation, VARIANTS[loss].rule
    advantages = trajectory_advantages(torch.tensor(REWARDS), GENERATIONS, rule)
    used = [True] * 12
    if loss == "raft++":  # the others are in the mean, with a loss of their KL only where they are computed
        used = [False] * 5 + [True] + [False] * 6
        used[0] = used[2] = used[3] = used[9] = used[10] = True
    trainer.loss_type, trainer.positives_only = aggregation, loss == "raft++"
    trainer.epsilon_high = CAP if loss == "cispo" else EPSILON_HIGH
    logps = [float64_log_probs(trainer.model, path) for path in paths]
    expected = reference_loss(aggregation, paths, logps, spread(advantages, paths), used, off)
    assert our_loss(trainer, padded_batch(paths, logps, advantages, off)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_advantages_by_role_reach_their_own_tokens(trainer: Any, paths: list[Ragged]) -> None:
    roles = "aer"
    owners = [n for n, path in enumerate(paths) for role, *_ in path.parts if role != "u"]
    kinds = [roles.index(role) for path in paths for role, *_ in path.parts if role != "u"]
    values = role_advantages(
        torch.tensor([REWARDS[n] for n in owners]), torch.tensor(owners), torch.tensor(kinds), GENERATIONS, scaled=True
    )
    flat = iter(values.tolist())
    weights = [[0.0] * len(path.ids) for path in paths]
    for path, row in zip(paths, weights, strict=True):
        for role, start, end in path.parts:
            if role != "u":
                row[start:end] = [next(flat)] * (end - start)
    columns = max(len(path.ids) for path in paths)
    advantages = torch.tensor([row + [0.0] * (columns - len(row)) for row in weights])
    trainer.loss_type, trainer.positives_only = "dapo", False
    logps = [float64_log_probs(trainer.model, path) for path in paths]
    expected = reference_loss("dapo", paths, logps, weights, [True] * 12, 1.0)
    assert our_loss(trainer, padded_batch(paths, logps, advantages, 1.0)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo"])
def test_the_toy_games_token_weights_are_those_of_the_loss(trainer: Any, paths: list[Ragged], loss: str) -> None:
    """On-policy, the loss moves each token's log-probability by -advantage x `toy_mdp.token_weights`."""
    trainer.loss_type, trainer.positives_only = loss, False
    beta, trainer.beta = trainer.beta, 0.0
    advantages = trajectory_advantages(torch.tensor(REWARDS), GENERATIONS)
    logps = [float64_log_probs(trainer.model, path) for path in paths]
    try:
        batch = padded_batch(paths, logps, advantages, 0.0)
        leaves: list[torch.Tensor] = []

        def recorded(model: Any, ids: Any, mask: Any, kept: int, **_: Any) -> Any:
            leaves.append(torch.zeros(ids.shape[0], kept, requires_grad=True))
            return leaves[-1], torch.zeros(ids.shape[0], kept), None

        trainer._get_per_token_logps_and_entropies = recorded
        trainer._check_gap, batch["old_per_token_logps"] = (
            (lambda inputs: None),
            torch.zeros_like(batch["ref_per_token_logps"]),
        )
        micro_batches = trainer.micro_batches(batch, REWARDS)
        trainer.current_gradient_accumulation_steps = len(micro_batches)
        moved: dict[float, float] = {}
        for micro in micro_batches:
            trainer.compute_loss(trainer.model, micro).backward()
            mask = micro["completion_mask"] * micro["tool_mask"]
            for row in range(len(mask)):
                gradient = leaves[-1].grad[row]  # type: ignore[index]
                assert gradient[mask[row] == 0].abs().sum() == 0
                (step,) = {round(value, 9) for value in gradient[mask[row] == 1].tolist()}
                moved[round(micro["advantages"][row].item(), 5), int(mask[row].sum())] = step  # type: ignore[index]
    finally:
        del trainer._get_per_token_logps_and_entropies, trainer._check_gap
        trainer.beta = beta
    weights = token_weights(loss, [sum(path.learned) for path in paths], BUDGET)
    for path, advantage, weight in zip(paths, advantages.tolist(), weights, strict=True):
        assert moved[round(advantage, 5), sum(path.learned)] == pytest.approx(-advantage * weight, abs=1e-7)  # type: ignore[index]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_our_advantages_are_trls(scale: str) -> None:
    """The toy game studies `trajectory_advantages`; TRL's own code computes those of its variants (grpo_trainer.py)."""
    from trl.trainer.utils import nanstd

    rewards = torch.tensor([*REWARDS[:5], math.nan, *REWARDS[6:]])
    groups = rewards.view(-1, GENERATIONS)
    mean = torch.nanmean(groups, dim=1).repeat_interleave(GENERATIONS)
    deviation = nanstd(groups, dim=1).repeat_interleave(GENERATIONS) if scale == "group" else nanstd(rewards)
    expected = (rewards - mean) if scale == "none" else (rewards - mean) / (deviation + 1e-4)
    ours = trajectory_advantages(rewards, GENERATIONS, "group", scale)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, expected.nan_to_num(0.0), rtol=0, atol=1e-6)
