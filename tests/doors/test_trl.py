"""TRL's plain GRPOTrainer with our loop: its masks and rewards are our trainer's, credit by role, guards, refusals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="make test-doors")

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from selfcorrect.adapters.trl import Guards, RoleAdvantages, rollout
from selfcorrect.chat import EMBEDDED, ChatCodec
from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.errors import InputError
from selfcorrect.grading.reward_functions import AccuracyReward, accuracy_reward
from selfcorrect.problems.arithmetic import problems as arithmetic
from selfcorrect.prompts import SELF_QUESTION, solve_messages
from selfcorrect.rewards import RewardRecipe
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.rollout_function import RolloutFunction
from selfcorrect.types import Problem
from tests.doors.page import lines_of

RIGHT, WRONG = "\\boxed{3}", "\\boxed{4}"
JUDGED_RIGHT, JUDGED_WRONG = "\n\n[VERIFY] correct.", "\n\n[VERIFY] wrong."
PROBLEMS = [Problem("p", "Guess.", "3", "arithmetic"), Problem("q", "Guess again.", "3", "arithmetic")]
LONG_COT = [  # a group of four each; the last is cut
    [RIGHT + JUDGED_RIGHT + "\n\nAnd so on \\boxed{4}."],
    [WRONG + JUDGED_WRONG + "\n\n" + RIGHT],
    [WRONG + JUDGED_WRONG + "\n\n" + WRONG + JUDGED_RIGHT],
    ["so 3 is wh"],
    [WRONG + JUDGED_RIGHT],
    [RIGHT + JUDGED_WRONG + "\n\n" + WRONG],
    [RIGHT + JUDGED_RIGHT],
    [WRONG + JUDGED_WRONG],
]
REWARDS = [1, 1, 0, 0, 0, 0, 1, 0]
TWO_TURN = [
    [f"{RIGHT}\n{SELF_QUESTION} Yes"],
    [f"{WRONG}\n{SELF_QUESTION} No", f"{RIGHT}\n{SELF_QUESTION} Yes"],
    [f"{WRONG}\n{SELF_QUESTION} No", f"{WRONG}\n{SELF_QUESTION} Yes"],
    ["so 3 is wh"],
    [f"{WRONG}\n{SELF_QUESTION} Yes"],
    [f"{RIGHT}\n{SELF_QUESTION} No", f"{WRONG}\n{SELF_QUESTION} No"],
    [f"{RIGHT}\n{SELF_QUESTION} Yes"],
    [f"{WRONG}"],
]
SCRIPTS = {"long-cot": LONG_COT, "two-turn": TWO_TURN}


class Script:
    """Writes the messages of each trajectory in turn, round and round; a text without a box is cut."""

    context: int | None = 1024

    def __init__(self, codec: ChatCodec, trajectories: Sequence[Sequence[str]]) -> None:
        self.codec, self.trajectories = codec, trajectories
        self.followed = list[Any]()

    def follow(self, model: Any) -> None:
        """Remember who was followed, and begin with the first messages."""
        self.followed.append(model)
        self.left = [list(messages) for messages in self.trajectories]

    def rest(self) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Nothing to close."""

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Let all that still have a message say it: TRL's prompts come in the order of the script."""
        speaking = [messages for messages in self.left if messages]
        assert len(speaking) == len(requests)
        return [self._said(messages.pop(0)) for messages in speaking]

    def _said(self, text: str) -> Sample:
        ids = self.codec.encode(text)
        logprobs = tuple(-0.01 * place for place in range(len(ids)))
        if "boxed" not in text:
            return Sample(ids, logprobs, "length")
        return Sample(ids, logprobs, "stop", self.codec.turn_end, -0.25)


class Recording(GRPOTrainer):
    """TRL's trainer; ``batches`` are what it made of each rollout."""

    batches: list[dict[str, Any]]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        self.__dict__.setdefault("batches", []).append(batch)
        return batch


@pytest.fixture(scope="module")
def codec() -> ChatCodec:
    return ChatCodec.load("embedded")


def data(problems: Sequence[Problem], **more: list[Any]) -> Dataset:
    columns: dict[str, list[Any]] = {"prompt": [solve_messages(problem.question) for problem in problems]}
    return Dataset.from_dict(columns | {"gold": [problem.gold for problem in problems]} | more)


def trainer_of(folder: Path, loop: rollout, kind: type[Any] = Recording, **settings: Any) -> Any:
    """Return a plain trainer on the embedded model: two problems a step, four trajectories each."""
    of_trainer = {
        name: settings.pop(name) for name in ("callbacks", "reward_funcs", "train_dataset") if name in settings
    }
    arguments = {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "num_generations": 4, "max_steps": 3,
        "max_completion_length": 160, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "bf16": False, "shuffle_dataset": False, "learning_rate": 1e-4, "disable_tqdm": True,
        "gradient_checkpointing": False,
    }  # fmt: skip
    defaults = {"reward_funcs": [loop.reward], "train_dataset": data(PROBLEMS)}
    return kind(
        model=AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(EMBEDDED),
        args=GRPOConfig(**arguments | settings), rollout_func=loop, **defaults | of_trainer,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["long-cot", "two-turn"])
def test_tokens_masks_and_rewards_are_our_trainers(tmp_path: Path, codec: ChatCodec, kind: Any) -> None:
    ours = RolloutFunction(
        GrpoRecipe(model="embedded", format=kind, generations=4, prompts_per_step=2, max_tokens=160, steps=1),
        codec, PROBLEMS, Script(codec, SCRIPTS[kind]),
    )  # fmt: skip
    texts = [text for text in ours.prompt_texts for _ in range(4)]
    scored = ours.score(ours.roll_out(texts, None, 0))
    wanted = scored.columns()

    script = Script(codec, SCRIPTS[kind])
    trainer = trainer_of(tmp_path, rollout(kind, sampler=script), max_steps=1)
    trainer.train()
    assert script.followed == [trainer.model], "the live module"
    (batch,) = trainer.batches
    lengths = [len(ids) for ids in wanted["completion_ids"]]
    for name, key in (("completion_ids", "completion_ids"), ("tool_mask", "env_mask")):
        rows = [row[:length] for row, length in zip(batch[name].tolist(), lengths, strict=True)]
        assert rows == wanted[key], name
    assert batch["completion_mask"].sum(1).tolist() == lengths
    assert [0 in mask for mask in wanted["env_mask"]].count(True) >= 1, "something is not learned"
    prompts = [
        [token for token, kept in zip(*row, strict=True) if kept]
        for row in zip(batch["prompt_ids"].tolist(), batch["prompt_mask"].tolist(), strict=True)
    ]
    assert prompts == wanted["prompt_ids"]
    assert [pytest.approx(row[:length]) for row, length in
            zip(batch["sampling_per_token_logps"].tolist(), lengths, strict=True)] == wanted["logprobs"]  # fmt: skip
    assert list(trainer.rollout_func.scored.rewards) == list(scored.rewards) == REWARDS


def test_accuracy_reward_and_ours_agree_where_the_completion_ends_with_its_last_attempt(
    tmp_path: Path, codec: ChatCodec
) -> None:
    found: dict[str, list[float | None]] = {}

    def kept(name: str, reward: Any) -> Any:
        def call(**columns: Any) -> list[float | None]:
            found[name] = reward(**columns)
            return found[name]

        call.__name__ = name
        return call

    loop = rollout(sampler=Script(codec, LONG_COT))
    ends = AccuracyReward([*codec.stop_ids, codec.tokenizer.pad_token_id])
    rewards = [kept("ours", loop.reward), kept("plain", accuracy_reward), kept("ends", ends)]
    trainer_of(tmp_path, loop, reward_funcs=rewards, max_steps=1).train()
    assert found["ours"] == REWARDS
    assert found["plain"] == found["ends"] == [0.0, *REWARDS[1:]], "the first goes on after its verdict correct"


def test_three_steps_on_live_samples_learn_and_the_log_probabilities_agree(tmp_path: Path, codec: ChatCodec) -> None:
    problems = arithmetic("train", 6, seed=0)
    loop = rollout()
    trainer = trainer_of(tmp_path, loop, train_dataset=data(problems), max_completion_length=64)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    gaps = list[float]()
    sampled = trainer._generate_and_score_completions

    def compared(inputs: Any) -> Any:
        batch = sampled(inputs)
        with torch.no_grad():
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
            mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
            width = batch["completion_ids"].shape[1]
            logps = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)[0]
        learned = (batch["completion_mask"] * batch["tool_mask"]).bool()
        gaps.append((logps - batch["sampling_per_token_logps"]).abs()[learned].max().item())
        return batch

    trainer._generate_and_score_completions = compared
    trainer.train()
    assert trainer.state.global_step == len(trainer.batches) == len(gaps) == 3
    assert max(gaps) < 1e-3, "each rollout is sampled from the weights as they are"
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))
    assert any(not torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())
    assert len({tuple(batch["completion_ids"].flatten().tolist()) for batch in trainer.batches}) == 3


def test_credit_by_role(tmp_path: Path, codec: ChatCodec) -> None:
    class Trainer(RoleAdvantages, GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            self.batch = super()._generate_and_score_completions(inputs)
            return self.batch

    loop = rollout(weights=RewardRecipe(verdict=0.5), sampler=Script(codec, LONG_COT))
    trainer = trainer_of(tmp_path, loop, kind=Trainer, max_steps=1, scale_rewards="none")
    trainer.train()
    advantages = trainer.batch["advantages"]
    assert advantages.shape == trainer.batch["completion_ids"].shape
    found = [[advantages[row, part.start].item() for part in one.parts] for row, one in enumerate(loop.scored.rollouts)]
    # Returns of the first group: attempts 1 0 0 0, self-evaluations 0.5 0.5 (0.5, 0), revisions 1 0.
    attempts = [row[0] for row in found[:4]]
    assert attempts == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])
    assert [found[1][2], found[2][2]] == pytest.approx([1.0, -1.0])
    returns = [list(values) for values in loop.scored.returns]
    roles = [[part.role for part in one.parts] for one in loop.scored.rollouts]
    for row, values in enumerate(returns):
        group = range(row // 4 * 4, row // 4 * 4 + 4)
        for part, (role, value) in enumerate(zip(roles[row], values, strict=True)):
            others = [
                (n in group, other)
                for n in range(len(returns)) if n != row
                for said, other in zip(roles[n], returns[n], strict=True) if said is role
            ]  # fmt: skip
            mates = [other for near, other in others if near] or [other for _, other in others]
            assert found[row][part] == pytest.approx(value - sum(mates) / len(mates)), (row, role)
    assert all(math.isfinite(row["loss"]) for row in trainer.state.log_history if "loss" in row)


def test_guards_speak_and_end_the_run(tmp_path: Path, codec: ChatCodec) -> None:
    unjudged = [[RIGHT], [WRONG]] * 4
    loop = rollout(sampler=Script(codec, unjudged))
    guards = Guards(loop, GuardRecipe(action="stop", window=2, max_turn1_drop=None))
    trainer = trainer_of(tmp_path, loop, callbacks=[guards], max_steps=5)
    trainer.train()
    assert trainer.state.global_step == 2
    assert "unjudged" in {finding.guard for finding in guards.found}
    assert [(row["turn1"], row["final"], row["verdict_rate"]) for row in guards.rows] == [(50.0, 50.0, 0.0)] * 2

    healthy = rollout(sampler=Script(codec, LONG_COT))
    watching = Guards(healthy, GuardRecipe(action="warn", window=2, min_verdict_rate=0.5, max_turn1_drop=None))
    trainer_of(tmp_path, healthy, callbacks=[watching]).train()
    assert len(watching.rows) == 3
    assert not watching.found
    with pytest.raises(InputError, match="give max_turn1_drop=None"):
        Guards(healthy, GuardRecipe())


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"temperature": 0.7}, r"leave out temperature=0\.7"),
        ({"top_p": 0.9, "top_k": 5}, r"leave out top_p=0\.9, top_k=5"),
        ({"max_completion_length": 1020}, "more than the context of 1024"),
        ({"train_dataset": data(PROBLEMS).remove_columns("gold")}, "a column of reference answers"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, codec: ChatCodec, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        trainer_of(tmp_path, rollout(sampler=Script(codec, LONG_COT)), **settings).train()


def test_credit_by_role_needs_our_reward(tmp_path: Path, codec: ChatCodec) -> None:
    class Trainer(RoleAdvantages, GRPOTrainer):
        pass

    loop = rollout(sampler=Script(codec, LONG_COT))
    with pytest.raises(InputError, match=r"reward_funcs=\[loop\.reward\]"):
        trainer_of(tmp_path, loop, kind=Trainer, reward_funcs=[accuracy_reward]).train()


def test_what_the_grader_fails_on_has_no_reward(tmp_path: Path, codec: ChatCodec) -> None:
    loop = rollout(sampler=Script(codec, LONG_COT))
    trainer = trainer_of(
        tmp_path, loop, train_dataset=data([*PROBLEMS[:1], Problem("q", "Guess again.", "", "x")]), max_steps=1
    )
    trainer.train()
    assert list(loop.scored.rewards) == [*REWARDS[:4], *[None] * 4]
    assert trainer.batches[0]["advantages"][4:].tolist() == [0.0] * 4


def test_the_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"model": str(EMBEDDED)}
    exec(lines_of("TRL", "python"), names)
    assert names["trainer"].state.global_step == 3
    assert len(names["guards"].rows) == 3
