"""The settings that GRPO and PPO share. Each program's recipe adds its own to them and takes none away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from selfcorrect.errors import RecipeError
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.rewards import RewardRecipe
from selfcorrect.train.common.recipe import TrainerRecipe
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.rollouts import Format, SamplingSettings
from selfcorrect.train.rl.samplers import SamplerKind
from selfcorrect.train.rl.variants import Variant, check_trainer

Critic = Literal["separate", "head"]

_FIXED_HERE = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "num_generations", "use_vllm"}


@dataclass(frozen=True, slots=True)
class CreditRule:
    """Who earns a reward: the whole trajectory, or each of its parts its own and a ``discount`` of those after it.

    Advantages are centred and scaled over trajectories, or within each role: attempts with attempts.
    """

    credit: Literal["path", "turn"] = "path"
    discount: float = 0.0
    normalise: Literal["path", "role"] = "path"


@dataclass(frozen=True, slots=True)
class RlRecipe(TrainerRecipe):
    """Settings of one RL run. ``model`` is also the reference policy: usually a checkpoint of `train sft`."""

    learning_rate: float = 1e-4  # peak; the embedded model takes 3e-4 and is harmed by 5e-4
    schedule: str = "constant"  # a name of transformers' SchedulerType
    warmup: float = 0.0  # share of the steps until the peak; the first update is not at 0
    prompts: str | None = "data/prompts.jsonl"  # problems that gen set aside, relative to the run folder
    problems: ProblemsRecipe = field(default_factory=ProblemsRecipe)  # used where prompts is null
    steps: int = 40  # rollouts; each is followed by `updates` optimizer steps
    prompts_per_step: int = 24  # problems a rollout, over all processes
    generations: int = 8  # trajectories a problem: a group
    updates: int = 1  # optimizer steps a rollout; above 1 the later ones are off-policy and clipped
    passes: int = 1  # times each rollout is used
    micro_rows: int = 32  # at most so many trajectories a forward pass of the update
    format: Format = "long-cot"  # one completion, or a chat with user messages between
    max_tokens: int = 320  # of a whole trajectory (a message in two turns)
    horizon: int = 2  # attempts at most
    max_batch: int = 256  # trajectories sampled at once
    sampler: SamplerKind = "live"  # from the module that is trained; replica: a whole copy of it; vllm; servers
    sampler_options: dict[str, Any] = field(
        default_factory=dict
    )  # vllm: its engine arguments; servers: endpoints, weights (how they come), …; or replicas, … (Ray)
    beta: float = 0.0  # weight of the KL to the start model; 0 loads no reference model
    epsilon: float | None = None  # clip range, lower
    epsilon_high: float | None = None  # clip range, upper; under cispo the cap of the ratio itself
    off_policy: Literal[0, 1] = 0  # 1: the next rollout is sampled while this one is learned (one-step off-policy)
    importance_cap: float = 2.0  # off_policy: at most the weight of a token, policy over sampler (truncated IS)
    reward: RewardRecipe = field(default_factory=RewardRecipe)  # weights of its parts
    overlong: Literal["keep", "mask", "drop"] = "keep"  # cut by the budget: learn, count but do not, leave out
    guard: GuardRecipe = field(default_factory=GuardRecipe)  # what is watched, and what happens then
    max_logprob_gap: float = 0.05  # mean |sampler - trainer| in nats a token; above it the run stops
    logged_trajectories: int = 4  # of each rollout, as text in the trackers that trainer.report_to names; 0: none
    save_every: int = 10  # rollouts between checkpoints, to resume from and for the guard to fall back on

    @property
    def loss(self) -> Variant:
        """The loss with every setting filled in. Raises RecipeError where it is not what its name says."""
        raise NotImplementedError(f"{type(self).__name__} names no loss")

    @property
    def credit_rule(self) -> CreditRule:
        """Who earns a reward: the whole trajectory, unless a program has settings for it."""
        return CreditRule()

    @property
    def sampling(self) -> SamplingSettings:
        """How the rollouts are sampled."""
        return SamplingSettings(self.format, self.max_tokens, self.horizon)

    @property
    def steps_per_rollout(self) -> int:
        """How many optimizer steps follow each rollout."""
        return self.updates * self.passes

    def __post_init__(self) -> None:
        if min(self.steps, self.prompts_per_step, self.updates, self.passes, self.micro_rows, self.horizon) < 1:
            raise RecipeError("steps, prompts_per_step, updates, passes, micro_rows and horizon are at least 1")
        if self.logged_trajectories < 0:
            raise RecipeError("logged_trajectories is at least 0")
        if self.generations < 2:
            raise RecipeError("generations is at least 2: a group of one has no advantage")
        for key in sorted(_FIXED_HERE & self.trainer.keys()):
            raise RecipeError(f"trainer: {key!r} is fixed here: paths are sampled untruncated, at temperature 1")
        check_trainer(self.trainer)
        self._check_off_policy()
        assert self.loss  # refuses what is not the method

    def _check_off_policy(self) -> None:
        if self.off_policy and self.sampler == "live":
            raise RecipeError(
                "off_policy=1 samples while the weights change, and sampler=live samples from those very weights: set "
                "sampler=replica (a copy of the model beside it), servers or vllm, or off_policy=0"
            )
        if not self.importance_cap >= 1:
            raise RecipeError(
                f"importance_cap={self.importance_cap}: expected 1 or more; the weights of tokens that the policy and "
                "the sampler find equally likely are 1, and a lower cap would cut them all"
            )
        for key in sorted(key for key in self.trainer if self.off_policy and key.startswith("vllm_importance")):
            raise RecipeError(f"trainer: {key!r}: off_policy=1 truncates each token's weight: set importance_cap")
