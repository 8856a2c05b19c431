"""TRL: the self-correction loop in a plain GRPOTrainer, its rewards, credit by role, and guards (docs/doors.md).

    loop = rollout(horizon=2)
    GRPOTrainer(model, rollout_func=loop, reward_funcs=[loop.reward], callbacks=[Guards(loop)], train_dataset=data)

The data set has a column ``prompt``, the messages that ask for a first attempt (`prompts.solve_messages`), and the
reference answers in ``gold``, ``solution`` or ``answer``. Our own trainer (`selfcorrect.train.rl.program`) does more:
it leaves out what teaches nothing, compares sampler's and trainer's log-probabilities, measures the start model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import sample_seed
from selfcorrect.errors import InputError
from selfcorrect.grading.reward_functions import reference_text
from selfcorrect.printing import complain
from selfcorrect.rewards import PLAIN, RewardRecipe
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl import rollouts
from selfcorrect.train.rl.guards import Finding, GuardRecipe, findings
from selfcorrect.train.rl.rollout_metrics import measure
from selfcorrect.train.rl.samplers import LiveSampler, Sampler
from selfcorrect.train.rl.scored_rollout import ScoredRollout, score, weigh
from selfcorrect.types import Problem

REFERENCES = ("gold", "solution", "answer")
_SAMPLED_SO = {
    "use_vllm": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
}
"""How `rollout` samples, in TRL's words: from the trained module, untruncated."""


class rollout:
    """TRL's ``rollout_func``, and by `reward` its reward function. ``scored`` is the latest rollout, once graded.

    ``weights`` are of the parts of a reward; ``discount`` is what a part has of those after it, for `RoleAdvantages`.
    """

    def __init__(
        self,
        format: rollouts.Format = "long-cot",  # noqa: A002 (the recipes' word)
        horizon: int = 2,
        weights: RewardRecipe = PLAIN,
        discount: float = 0.0,
        max_batch: int = 256,
        sampler: Sampler | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {"format": format, "horizon": horizon, "reward": weights}
        self._settings |= {"turn_discount": discount, "credit": "turn", "normalise": "role", "published": False}
        self._max_batch, self._sampler = max_batch, sampler
        self._codec: ChatCodec | None = None
        self._sampled: list[rollouts.Rollout] = []
        self.scored: ScoredRollout | None = None
        self.sampled_at = 0

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Return a trajectory for each prompt. ``env_mask`` is 1 for tokens of the policy that had a consequence."""
        self.recipe, self.scored, self.sampled_at = self._recipe(trainer), None, trainer.state.global_step
        self._codec = codec = self._codec or ChatCodec(trainer.processing_class, trainer.eos_token_ids)
        self._sampler = sampler = self._sampler or LiveSampler(codec, self._max_batch)
        sampler.follow(trainer.model)
        keys = [str(prompt) for prompt in prompts]
        openings = {key: _opening(prompt, codec) for key, prompt in zip(keys, prompts, strict=True)}
        _check_lengths(openings, self.recipe.max_tokens, sampler.context)
        mode = ("trl", "train" if trainer.model.training else "eval", trainer.accelerator.process_index)
        seeds = [
            sample_seed(trainer.args.seed, *mode, self.sampled_at, key, place)
            for key, place in zip(keys, rollouts.places_of(keys), strict=True)
        ]
        problems = [Problem(key, key, gold="", source="math") for key in keys]  # `reward` has the reference answers
        self._sampled = rollouts.roll_out(sampler, codec, problems, seeds, self.recipe.sampling, openings)
        return {
            "prompt_ids": [list(one.prompt_ids) for one in self._sampled],
            "completion_ids": [list(one.completion_ids) for one in self._sampled],
            "logprobs": [list(one.logprobs) for one in self._sampled],
            "env_mask": [list(one.learned) for one in self._sampled],
            "finish": ["length" if one.trajectory.stop == "length" else "stop" for one in self._sampled],
        }

    def reward(self, completions: Sequence[Any], source: Any = "math", **columns: Any) -> list[float | None]:
        """Return what each trajectory earns, all its attempts graded; None where the grader failed."""
        references = [columns[name] for name in REFERENCES if name in columns]
        if not references or len(completions) != len(self._sampled):
            raise InputError(
                f"the reward is of the trajectories that the same object sampled as rollout_func, with a column of "
                f"reference answers ({', '.join(REFERENCES)}); got {len(completions)} completions for "
                f"{len(self._sampled)} trajectories, and the columns {', '.join(sorted(columns))}"
            )
        sources = [source] * len(completions) if isinstance(source, str) else source
        golds = [next(filter(None, map(reference_text, row)), "") for row in zip(*references, strict=True)]
        known = [
            replace(
                one, trajectory=replace(one.trajectory, problem=replace(one.trajectory.problem, gold=gold, source=of))
            )
            for one, gold, of in zip(self._sampled, golds, sources, strict=True)
        ]
        self.scored = score(rollouts.graded(known), self.recipe)
        return list(self.scored.rewards)

    def _recipe(self, trainer: Any) -> GrpoRecipe:
        """Return our settings of what TRL's arguments say; an error where they say what is not done."""
        args = trainer.args
        if odd := [
            f"{name}={getattr(args, name)}" for name, value in _SAMPLED_SO.items() if getattr(args, name) != value
        ]:
            raise InputError(
                "trajectories are sampled from the trained module, untruncated, at temperature 1: leave out "
                + ", ".join(odd)
            )
        return GrpoRecipe(
            generations=trainer.num_generations if trainer.model.training else trainer.num_generations_eval,
            max_tokens=args.max_completion_length,
            scale_rewards=args.scale_rewards,
            **self._settings,
        )


class RoleAdvantages:
    """Credit by role: ``class Trainer(RoleAdvantages, GRPOTrainer)``, with a `rollout` and its `reward`.

    A part's advantage is its return minus the mean of its role over the OTHER trajectories of the group
    (`advantages.role_advantages`), where GRPO gives all tokens of a trajectory one number.
    """

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        loop: Any = self.rollout_func  # type: ignore[attr-defined]
        if loop.scored is None:
            raise InputError("RoleAdvantages needs the graded trajectories: reward_funcs=[loop.reward]")
        add_up = partial(self.accelerator.reduce, reduction="sum")  # type: ignore[attr-defined]
        ours = weigh(loop.scored, loop.recipe, batch["completion_ids"].shape[1], add_up)
        assert ours is not None, "the recipe normalises by role"
        return {**batch, "advantages": ours.to(batch["advantages"])}


class Guards(TrainerCallback):
    """Our guards on each rollout of a plain trainer: a warning, or the end of the run (``action="stop"``).

    Turn 1 is not compared with the start model's, which a plain trainer does not measure. ``rows`` are the figures of
    the rollouts, of all processes, ``found`` what the guards said.
    """

    def __init__(self, loop: rollout, recipe: GuardRecipe | None = None) -> None:
        self.loop, self.recipe = loop, recipe or GuardRecipe(max_turn1_drop=None)
        if self.recipe.watches_turn1:
            raise InputError("these guards cannot watch turn 1 against the start model's: give max_turn1_drop=None")
        self.rows: list[Mapping[str, Any]] = []
        self.found: list[Finding] = []
        self._seen: ScoredRollout | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the rollout of this step, if it is a new one, and let the guards look."""
        scored = self.loop.scored
        if scored is None or scored is self._seen:
            return
        self._seen = scored
        trajectories = gather_object([one.trajectory for one in scored.rollouts])
        figures = measure(trajectories, gather_object(list(scored.rewards)), self.loop.recipe.generations)
        latest: Mapping[str, Any] = next((row for row in reversed(state.log_history) if "kl" in row), {})
        self.rows.append(
            {"step": state.global_step, "sampled_at": self.loop.sampled_at, **figures, "kl": latest.get("kl")}
        )
        for finding in findings(self.rows, self.recipe, max(1, state.max_steps)):
            self.found.append(finding)
            complain(f"guard: {finding}", style="bold red")
            if self.recipe.action == "stop":
                control.should_training_stop = True


def _opening(prompt: Any, codec: ChatCodec) -> tuple[int, ...]:
    """Return the ids of a prompt: of messages by the chat template, of a text as TRL tokenises it."""
    return tuple(codec.tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else codec.opening(prompt)


def _check_lengths(openings: Mapping[str, Sequence[int]], budget: int, context: int | None) -> None:
    for key, ids in openings.items():
        if context is not None and len(ids) + budget > context:
            raise InputError(
                f"a prompt of {len(ids)} tokens and max_completion_length={budget} are more than the context of "
                f"{context} tokens; leave the prompt out, or lower max_completion_length: {key[:80]}"
            )
