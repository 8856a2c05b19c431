"""verl's own code calls our estimator and our grader: registry, `compute_advantage`, reward manager, data set, config.

Its trainer needs GPUs and is not run here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="make test-doors")

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.reward import load_reward_manager

import selfcorrect.adapters.verl  # noqa: F401 (registers)
from selfcorrect.data_gen.output.exports import to_verl
from selfcorrect.errors import InputError
from selfcorrect.problems.arithmetic import problems
from selfcorrect.prompts import solve
from selfcorrect.shipped import PACKAGE
from selfcorrect.train.rl.advantages import returns_to_go, role_advantages, trajectory_advantages
from tests.doors.page import lines_of

EMBEDDED = PACKAGE / "assets" / "embedded"
NAME = "selfcorrect_turns"

# (uid, rewards of the turns): groups of four and of three, in the order in which verl's balancing may leave them.
ROWS = [
    ("p", [0.0, 1.0]),
    ("q", [1.0]),
    ("p", [1.0]),
    ("q", [0.0, 0.5, 1.0]),
    ("p", [0.0, 0.0]),
    ("q", [0.25]),
    ("p", [0.5, 1.0]),
]
BETWEEN, LENGTH = 2, 3  # tokens of a user's message, of a turn


def layout(rows: list[tuple[str, list[float]]], width: int = 16) -> dict[str, Any]:
    """Return rows as verl lays them out: a turn's reward on its last token, 0 in the mask for the user's tokens."""
    mask, rewards = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    for row, (_, earned) in enumerate(rows):
        for turn, reward in enumerate(earned):
            start = turn * (LENGTH + BETWEEN)
            mask[row, start : start + LENGTH] = 1
            rewards[row, start + LENGTH - 1] = reward
    uid = np.array([group for group, _ in rows], dtype=object)
    return {"token_level_rewards": rewards, "response_mask": mask, "uid": uid}


def advantages_of(rows: list[tuple[str, list[float]]], **config: Any) -> list[list[float]]:
    """Return each turn's advantage as `compute_advantage` of verl's trainer leaves it in the batch."""
    tensors = layout(rows)
    data = compute_advantage(
        DataProto.from_single_dict(tensors), adv_estimator=NAME, config=AlgoConfig(adv_estimator=NAME, **config)
    )
    found, mask = data.batch["advantages"], tensors["response_mask"]
    assert found.shape == data.batch["returns"].shape == mask.shape
    assert not (found * (1 - mask)).any(), "the user's tokens and the padding have none"
    turns = []
    for row, (_, earned) in enumerate(rows):
        starts = [turn * (LENGTH + BETWEEN) for turn in range(len(earned))]
        for start in starts:
            assert len(set(found[row, start : start + LENGTH].tolist())) == 1, "one number a turn"
        turns.append([found[row, start].item() for start in starts])
    return turns


def written_out(rows: list[tuple[str, list[float]]], gamma: float) -> list[list[float]]:
    """Return the advantages by a loop over rows: the return, minus the mean of that turn in the other rows."""
    returns = [returns_to_go(earned, gamma) for _, earned in rows]
    turns = []
    for row, own in enumerate(returns):
        turns.append([])
        for turn, value in enumerate(own):
            others = [n for n in range(len(rows)) if n != row and len(returns[n]) > turn]
            near = [n for n in others if rows[n][0] == rows[row][0]]
            baseline = [returns[n][turn] for n in near or others]
            turns[-1].append(value - (sum(baseline) / len(baseline) if baseline else 0.0))
    return turns


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_verls_trainer_calls_ours_and_gets_the_written_numbers(gamma: float) -> None:
    found = advantages_of(ROWS, gamma=gamma, norm_adv_by_std_in_grpo=False)
    for own, wanted in zip(found, written_out(ROWS, gamma), strict=True):
        assert own == pytest.approx(wanted, abs=1e-6)
    if gamma == 0:
        # turn 1 of p: 0 1 0 0.5; turn 2 of p: 1 0 1; turn 3 is in no other row
        assert found[0] == pytest.approx([0 - 1.5 / 3, 1 - 1 / 2])
        assert found[3][2] == pytest.approx(1.0)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_numbers_are_those_of_our_trainer(scaled: bool) -> None:
    rows = [("p", earned) for group, earned in ROWS if group == "p"] + [("q", [1.0]), ("q", [0.0, 1.0]), ("q", [0.5]),
                                                                        ("q", [0.0, 0.0])]  # fmt: skip
    parts = [(row, turn, value) for row, (_, earned) in enumerate(rows)
             for turn, value in enumerate(returns_to_go(earned, 1.0))]  # fmt: skip
    row_P, turn_P, return_P = (torch.tensor(values) for values in zip(*parts, strict=True))
    ours = role_advantages(return_P, row_P, turn_P, generations=4, scaled=scaled)
    shuffled = [6, 1, 3, 7, 0, 5, 2, 4]
    found = advantages_of([rows[row] for row in shuffled], gamma=1.0, norm_adv_by_std_in_grpo=scaled)
    by_part = {(row, turn): value for (row, turn, _), value in zip(parts, ours.tolist(), strict=True)}
    for row, own in zip(shuffled, found, strict=True):
        assert own == pytest.approx([by_part[row, turn] for turn in range(len(own))], abs=1e-5)


def test_one_message_a_row_is_rloo_verls_and_ours() -> None:
    rows = [(group, [reward]) for group in "abc" for reward in (0.0, 1.0, 1.0, 0.25)]
    tensors = layout(rows)
    arguments = {"token_level_rewards": tensors["token_level_rewards"], "response_mask": tensors["response_mask"]}
    theirs, _ = get_adv_estimator_fn("rloo")(**arguments, index=tensors["uid"])
    config = AlgoConfig(adv_estimator=NAME, norm_adv_by_std_in_grpo=False)
    found, returns = get_adv_estimator_fn(NAME)(**arguments, index=tensors["uid"], config=config)
    torch.testing.assert_close(found, theirs.to(found))
    ours = trajectory_advantages(torch.tensor([reward for _, (reward,) in rows]), 4, "leave-one-out")
    torch.testing.assert_close(found[:, 0], ours)
    assert returns[:, 0].tolist() == [reward for _, (reward,) in rows]


def test_an_outcome_on_a_users_token_is_of_the_turn_before_it_and_a_row_without_tokens_has_nothing() -> None:
    tensors = layout([("p", [0.0, 0.0]), ("p", [0.0, 0.0]), ("p", [])])
    tensors["token_level_rewards"][0, LENGTH + BETWEEN - 1] = 1.0  # on the last token of the user's message
    arguments = {name: tensors[name] for name in ("token_level_rewards", "response_mask")}
    config = AlgoConfig(adv_estimator=NAME, norm_adv_by_std_in_grpo=False)
    found, _ = get_adv_estimator_fn(NAME)(**arguments, index=tensors["uid"], config=config)
    second = LENGTH + BETWEEN
    assert found[:, 0].tolist() == [1.0, -1.0, 0.0]
    assert found[:, second].tolist() == [0.0, 0.0, 0.0]
    assert not found[2].any()
    empty = {name: values[2:] for name, values in arguments.items()}
    assert not get_adv_estimator_fn(NAME)(**empty, index=tensors["uid"][2:], config=config)[0].any()
    with pytest.raises(InputError, match="these have no uid"):
        get_adv_estimator_fn(NAME)(**arguments, config=config)


def test_a_fresh_process_registers_it_by_verls_own_variable() -> None:
    code = f"from verl.trainer.ppo.core_algos import get_adv_estimator_fn as get; print(get('{NAME}').__module__)"
    known = os.environ | {"VERL_USE_EXTERNAL_MODULES": "selfcorrect.adapters.verl"}
    ended = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True, timeout=120)
    assert ended.stdout.split()[-1:] == ["selfcorrect.adapters.verl"], ended.stderr[-2000:]


def page_config(folder: Path) -> Any:
    """Return the configuration that verl makes of the page's command, which `--cfg job` prints in place of a run."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = os.environ | {"PATH": path, "MODEL": str(EMBEDDED), "FLAGS": "--cfg job"}
    command = ["bash", "-ec", lines_of("verl", "bash")]
    ended = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return OmegaConf.create(yaml.safe_load(ended.stdout[ended.stdout.index("actor_rollout_ref:") :]))


def test_the_lines_of_the_page_make_a_configuration_and_its_reward_manager_grades(tmp_path: Path) -> None:
    config = page_config(tmp_path)
    assert (config.algorithm.adv_estimator, config.algorithm.norm_adv_by_std_in_grpo) == (NAME, False)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    manager = load_reward_manager(config, tokenizer)

    def scored(response: str, gold: str, **extra: Any) -> float:
        ids = torch.tensor([tokenizer.encode(response, add_special_tokens=False)])
        padded = torch.nn.functional.pad(ids, (0, 3))
        attention = torch.tensor([[1] * ids.shape[1] + [0] * 3])
        columns: dict[str, Any] = {"responses": padded, "attention_mask": attention}
        for name, value in (
            ("data_source", "arithmetic"),
            ("reward_model", {"ground_truth": gold}),
            ("extra_info", extra),
        ):
            columns[name] = np.array([value], dtype=object)
        found = manager.loop.run_until_complete(manager.run_single(DataProto.from_single_dict(columns)))
        return float(found["reward_score"])

    assert scored("2+5=7\n\\boxed{7}", "7") == 1.0
    assert scored("2+5=8\n\\boxed{8}", "7") == 0.0
    assert scored("2+5=7", "7", finish_reason="length") == 0.0
    assert scored("\\boxed{7}", "") == 0.0, "no reference answer: verl needs a number"


def test_verls_data_set_reads_our_prompts(tmp_path: Path) -> None:
    from verl.utils.dataset.rl_dataset import RLHFDataset

    some = problems("train", 3, seed=0)
    lines = [{"id": p.id, "question": p.question, "gold": p.gold, "source": p.source} for p in some]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert to_verl(tmp_path, tmp_path, codec=None) == {"prompts.parquet": 3}  # type: ignore[arg-type]
    settings = OmegaConf.create({"max_prompt_length": 128, "prompt_key": "prompt"})
    data = RLHFDataset(str(tmp_path / "prompts.parquet"), AutoTokenizer.from_pretrained(EMBEDDED), settings)
    assert len(data) == 3
    for problem, row in zip(some, (data[n] for n in range(3)), strict=True):
        assert row["raw_prompt"] == [{"role": "user", "content": solve(problem.question)}]
        assert row["reward_model"]["ground_truth"] == problem.gold
        assert row["data_source"] == problem.source
