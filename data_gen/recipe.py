"""`GenRecipe`: the settings of stage 1's data, one field a line (see `selfcorrect.data_gen.pipeline` for the stage)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from selfcorrect.choices import check_sampling
from selfcorrect.data_gen.classes import Kind
from selfcorrect.engines import EngineRecipe
from selfcorrect.errors import RecipeError
from selfcorrect.problems import ProblemsRecipe


@dataclass(frozen=True, slots=True)
class Quota:
    """How many rows of each class; null: all that are found."""

    d1: int | None = None  # wrong, judged wrong, corrected
    d2: int | None = None  # correct, judged wrong, correct again
    d3: int | None = None  # correct, judged correct


@dataclass(frozen=True, slots=True)
class PairQuota:
    """How many preference pairs of each kind (method.md, section 3); null: all that are found."""

    p1: int | None = 0  # wrong attempt, judged wrong: correct over wrong revision
    p2: int | None = 0  # correct attempt, judged wrong: correct over wrong revision
    p3: int | None = 0  # fixed over judged correct (attempt wrong), judged correct over broken (attempt correct)


@dataclass(frozen=True, slots=True)
class GenRecipe:
    """Settings of stage 1's data."""

    engine: EngineRecipe = field(default_factory=EngineRecipe)  # what samples the parts, from which model
    teacher: EngineRecipe | None = None  # writes the revisions in the engine's place (distillation, table 9)
    problems: ProblemsRecipe = field(default_factory=ProblemsRecipe)  # sampled from
    prompts: int = 0  # further problems of the same source, set aside for RL
    format: Literal["long-cot", "two-turn"] = "long-cot"  # two-turn: the checker gives the verdicts
    parts: Literal["asked", "in-path"] = "asked"  # in-path: cut from the trajectories that a fine-tuned model writes
    schedule: Literal["adaptive", "fixed"] = "adaptive"  # fixed: exactly the four numbers below
    steer: bool = True  # adaptive: from the second attempts on, prefer problems that can give what is missing
    attempts: int = 50  # N1: attempts per problem, at most
    evaluations: int = 8  # N2: self-evaluations per attempt, at most
    revisions: int = 8  # M1: revisions per wrong attempt, at most
    confirmations: int = 4  # M2: revisions per correct attempt that is judged wrong, at most
    false_verdicts: int = 2  # adaptive D2: self-evaluations sampled in search of a false verdict before it is stated
    quota: Quota = field(default_factory=Quota)  # rows of each class
    preferences: PairQuota = field(default_factory=PairQuota)  # preference pairs of each kind
    match: Literal["auto", "difficulty", "none"] = "auto"  # difficulty: as many D1 as D3 rows of each problem
    cap_per_problem: int | None = 4  # rows of one class from one problem, at most
    balance: float | None = 2.0  # rows with a correct first attempt per row with a wrong one, at most, and the reverse
    baselines: bool = False  # rows of STaR/RAFT, RAFT+ and single-turn STaR/RAFT too, as many of each
    baseline_revisions: Literal["blind", "judged"] = "blind"  # asked for by INTRINSIC, or after a self-evaluation
    blind_per_attempt: int = 2  # of these, distinct revisions of one wrong attempt, at most
    examples: str = ""  # worked chats to show while sampling: "gsm8k" or a .yaml file
    temperature: float = 1.0  # of every part
    top_p: float = 1.0  # of every part: sample from the likeliest tokens that make up this probability
    max_tokens: int = 1024  # of one part
    in_flight: int | None = None  # base samples under way, and the lag of steering; null: 1.5 x engine.capacity
    pilot: int = 32  # base samples that the forecast of --dry-run rests on; 0: no pilot
    seed: int = 0  # of every sample

    def __post_init__(self) -> None:
        for name in ("attempts", "evaluations", "revisions", "confirmations", "blind_per_attempt", "max_tokens"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: expected at least 1, got {getattr(self, name)}")
        check_sampling(self.temperature, self.top_p)
        for of, quota in (("quota", self.quota), ("preferences", self.preferences)):
            for name, rows in asdict(quota).items():
                if rows is not None and rows < 0:
                    raise RecipeError(f"{of}.{name}: expected a number of rows, 0 for none, null for all; got {rows}")
        if self.match == "difficulty" and (self.quota.d1 != self.quota.d3 or self.quota.d1 == 0):
            raise RecipeError(
                "match: difficulty keeps a row of D3 for each of D1, so both need one quota (null: all pairs); "
                f"got d1: {self.quota.d1}, d3: {self.quota.d3}"
            )
        if self.prompts and self.problems.count is None:
            raise RecipeError("prompts: needs problems.count, so that some problems are left for RL")
        if self.in_path and self.baselines:
            raise RecipeError("baselines: are sampled from a model that is asked for each part (parts: asked)")
        if self.balance is not None and self.balance < 1:
            raise RecipeError(f"balance: expected a ratio of at least 1, or null, got {self.balance}")

    @property
    def fixed(self) -> bool:
        """True for the paper's schedule."""
        return self.schedule == "fixed"

    @property
    def is_matched(self) -> bool:
        """True where D1 and D3 come from the same problems in equal parts; ``auto``: where both quotas are equal."""
        return self.match == "difficulty" or (
            self.match == "auto" and bool(self.quota.d1) and self.quota.d1 == self.quota.d3
        )

    @property
    def two_turn(self) -> bool:
        """True for the two-turn chat format."""
        return self.format == "two-turn"

    @property
    def in_path(self) -> bool:
        """True where the model writes whole trajectories and is not asked for each part."""
        return self.parts == "in-path"

    @property
    def quotas(self) -> dict[Kind, int | None]:
        """The quotas by class."""
        return {Kind.D1: self.quota.d1, Kind.D2: self.quota.d2, Kind.D3: self.quota.d3}

    @property
    def pair_quotas(self) -> dict[Kind, int | None]:
        """The quotas of preference pairs by kind."""
        return {Kind.P1: self.preferences.p1, Kind.P2: self.preferences.p2, Kind.P3: self.preferences.p3}

    @property
    def wants_pairs(self) -> bool:
        """True where preference pairs are asked for."""
        return any(quota != 0 for quota in self.pair_quotas.values())

    @property
    def at_once(self) -> int:
        """Base samples under way: enough that some wait whenever a place in the engine's batch falls free."""
        return self.in_flight or self.engine.capacity * 3 // 2
