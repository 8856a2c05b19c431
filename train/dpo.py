"""Prefer correct trajectories to wrong ones: M-DPO on gen's pairs, or iterative DPO (method.md, section 3).

    selfcorrect train dpo embedded-mdpo model=runs/demo/checkpoints/ift --run runs/demo       # pairs of gen
    selfcorrect train dpo embedded-dpo model=runs/demo/checkpoints/ift --run runs/demo        # generate, pair, train

With ``pairs`` the program trains once on a file. With ``pairs: null`` it repeats, ``iterations`` times in one command:
sample ``generations`` trajectories of each problem, pair a correct with a wrong one, train, score greedily on
the problems set aside for validation. The iteration with the best final accuracy there is the result, ties by Δ.

The loss is TRL's DPO over the sum of log-ratios of ALL the assistant's tokens that a pair counts, in every turn: M-DPO
eq. 5 (arXiv 2409.02392). TRL's own collator would count the user's turns between them; ours takes the pair's mask, for
policy and reference alike. ``nll_weight`` adds TRL's mean negative log-likelihood of the chosen side. Reference
log-probabilities are computed once, before the training.

Differs from the paper: nothing known. Every iteration is a folder of its own, and re-running the command resumes at
the step where it stopped.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import sample_seed
from selfcorrect.errors import DataError, RecipeError
from selfcorrect.metrics import score
from selfcorrect.printing import complain, note
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.rewards import final_correctness
from selfcorrect.runs.compute import Compute, compute_of_data
from selfcorrect.runs.folder import finished, mark_done
from selfcorrect.runs.jsonl import read_json, read_jsonl, write_json, write_jsonl
from selfcorrect.runs.progress import meter
from selfcorrect.train.common.checkpoints import fit, forget_resume, open_metrics
from selfcorrect.train.common.distributed import (
    fsdp_asked,
    gathered,
    process_count,
    process_rank,
    wait_for_everyone,
)
from selfcorrect.train.common.lora import peft_config
from selfcorrect.train.common.memory import Batch, Models, codec_for_plan, describe
from selfcorrect.train.common.metrics_log import reports
from selfcorrect.train.common.models import load_model, save_model
from selfcorrect.train.common.recipe import TrainerRecipe, check_batch, split_batch, trl_config
from selfcorrect.train.common.sharding import Sharding, shard
from selfcorrect.train.common.stage import run_stage
from selfcorrect.train.data.pairs import Pair, Side, load_pairs, mix_pairs
from selfcorrect.train.data.rows import made_by_gen, training_problems
from selfcorrect.train.rl.rollouts import Format, Rollout, SamplingSettings, graded, places_of, roll_out
from selfcorrect.types import Problem

if TYPE_CHECKING:
    from trl import DPOConfig, DPOTrainer

SAMPLED = "sampled.json"  # of an iteration: how many tokens were sampled for its pairs
_FROM_TRL = {
    "rewards/accuracies": "preferred",
    "rewards/margins": "margin",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
}


@dataclass(frozen=True, slots=True)
class DpoRecipe(TrainerRecipe):
    """Settings of DPO. ``model`` is also the reference policy: usually a checkpoint of `train sft`."""

    name: str = "dpo"
    learning_rate: float = 5e-5  # peak
    pairs: str | None = "data/preferences/pairs.jsonl"  # of gen, relative to the run folder; null: make them
    mix: dict[str, Any] = field(default_factory=dict)  # proportions of P1, P2, P3; empty: all pairs as they are
    prompts: str | None = "data/prompts.jsonl"  # problems to generate on, relative to the run folder
    problems: ProblemsRecipe = field(default_factory=ProblemsRecipe)  # used where prompts is null
    iterations: int = 1  # of generate, pair, train
    problems_per_iteration: int = 512  # sampled from in each iteration
    generations: int = 8  # trajectories a problem
    validation: int = 128  # of the problems, set aside to choose the iteration by
    reference: Literal["start", "previous"] = "start"  # of the later iterations
    format: Format = "long-cot"  # of the sampled paths
    max_tokens: int = 320  # of a sampled trajectory (a message in two turns)
    horizon: int = 2  # attempts at most
    max_batch: int = 256  # trajectories sampled at once
    epochs: float = 1.0  # over the pairs, in each iteration
    batch_pairs: int = 32  # pairs an optimizer step, over all processes
    micro_pairs: int | None = None  # pairs a forward pass; None: the whole batch at once
    max_pair_tokens: int = 1024  # pairs with a longer side are left out and counted
    beta: float = 0.1  # eta of the paper
    nll_weight: float = 0.0  # of the chosen side's mean negative log-likelihood
    log_every: int = 1  # steps between rows of metrics.jsonl
    save_every: int = 50  # steps between checkpoints to resume from

    def __post_init__(self) -> None:
        if min(self.iterations, self.problems_per_iteration, self.horizon) < 1 or self.epochs <= 0:
            raise RecipeError("iterations, problems_per_iteration and horizon are at least 1, epochs above 0")
        if self.pairs is not None and self.iterations > 1:
            raise RecipeError("iterations above 1 make their own pairs: set pairs=null")
        if self.pairs is None and (self.generations < 2 or self.validation < 1):
            raise RecipeError("without a file of pairs, generations is at least 2 and validation at least 1")
        if self.pairs is None and self.mix:
            raise RecipeError("mix chooses among the P1, P2, P3 of a file of pairs; fresh pairs have one kind")
        check_batch("pairs", self.batch_pairs, self.micro_pairs)

    @property
    def sampling(self) -> SamplingSettings:
        """How trajectories are sampled for pairs."""
        return SamplingSettings(self.format, self.max_tokens, self.horizon)


def run(recipe: DpoRecipe, run_folder: Path) -> dict[str, Any]:
    """Train and return the summary; a finished folder is only read."""

    def train(folder: Path) -> dict[str, Any]:
        codec = ChatCodec.load(recipe.model, recipe.thinking)
        if recipe.pairs is None:
            return _iterate(recipe, codec, _problems(recipe, run_folder), folder)
        pairs = mix_pairs(
            load_pairs(made_by_gen(recipe.pairs, run_folder, recipe.model, pairs=True), codec), recipe.mix, recipe.seed
        )
        summary = train_on(recipe, codec, pairs, recipe.model, None, folder)
        taken = compute_of_data(run_folder / Path(recipe.pairs).expanduser())
        own = taken and taken + Compute(trained_tokens=summary["trained_tokens"])
        return summary | {"compute": own}

    return run_stage("dpo", recipe, run_folder, train)


def plan(recipe: DpoRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the training would do: resolved recipe, memory, pairs, steps."""
    rows = 2 * (recipe.micro_pairs or recipe.batch_pairs)
    later = recipe.iterations > 1 and recipe.reference == "start"  # the reference is not what the policy starts as
    shown = describe(recipe, Batch(rows, recipe.max_pair_tokens, recipe.checkpointing), Models(int(later)))
    codec, without = codec_for_plan(recipe.model, recipe.thinking)
    try:
        if recipe.pairs is None:
            problems = _problems(recipe, run_folder)
            samples = recipe.problems_per_iteration * recipe.generations
            shown.append(
                f"{len(problems)} problems, {recipe.validation} of them for validation; {recipe.iterations} iterations "
                f"of {samples:,} paths, at most {samples * recipe.sampling.budget:,} tokens each"
            )
        elif codec is None:
            shown.append(without)
        else:
            found = load_pairs(made_by_gen(recipe.pairs, run_folder, recipe.model, pairs=True), codec)
            pairs = mix_pairs(found, recipe.mix, recipe.seed)
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(p.kind for p in pairs).items()))
            counted = sum(sum(pair.chosen.mask) + sum(pair.rejected.mask) for pair in pairs)
            steps = -(-len(pairs) // recipe.batch_pairs) * recipe.epochs
            shown.append(f"{len(pairs)} of {len(found)} pairs ({kinds}), {counted:,} tokens counted; {steps:.0f} steps")
    except DataError as error:
        shown.append(f"no data yet: {error}")
    return Group(*shown)


# --- iterations -----------------------------------------------------------------------------------------------------


def _problems(recipe: DpoRecipe, run_folder: Path) -> list[Problem]:
    found = training_problems(recipe.prompts, recipe.problems, run_folder, recipe.model)
    if len(found) <= recipe.validation:
        raise DataError(f"{len(found)} problems are too few to set validation={recipe.validation} aside")
    return found


def _iterate(recipe: DpoRecipe, codec: ChatCodec, problems: Sequence[Problem], folder: Path) -> dict[str, Any]:
    """Generate, pair and train ``iterations`` times; copy the best iteration's model to the stage's folder."""
    order = random.Random(f"dpo-{recipe.seed}").sample(list(problems), len(problems))
    validation, training = order[: recipe.validation], order[recipe.validation :]
    policy = recipe.model
    scores = [_validate(recipe, codec, policy, validation, folder / "iteration-0")]
    trained: list[dict[str, Any]] = []
    for iteration in range(1, recipe.iterations + 1):
        here = folder / f"iteration-{iteration}"
        done = finished(here)
        if done is None:
            first = (iteration - 1) * recipe.problems_per_iteration
            lap = [training[place % len(training)] for place in range(first, first + recipe.problems_per_iteration)]
            pairs = _fresh_pairs(recipe, codec, policy, lap, here, iteration)
            reference = recipe.model if recipe.reference == "start" and iteration > 1 else None
            done = train_on(recipe, codec, pairs, policy, reference, here)
            wait_for_everyone()  # the model folder is whole
            done |= read_json(here / SAMPLED, missing_ok=True)
            if process_rank() == 0:
                mark_done(here, done)
        if process_rank() == 0:
            forget_resume(here)
        trained.append(done)
        policy = str(here)
        scores.append(_validate(recipe, codec, policy, validation, here))
    best = best_iteration(scores)
    if process_rank() == 0:
        if scores[best]["final"] < scores[0]["final"]:
            complain("the start model has the better final accuracy on validation", style="bold red")
        for file in (folder / f"iteration-{best}").iterdir():
            if file.is_file() and file.name not in ("DONE", "pairs.jsonl", "validation.json"):
                shutil.copy2(file, folder / file.name)
    seen = len({problem.id for problem in training[: recipe.iterations * recipe.problems_per_iteration]})
    own = _compute([*scores, *trained], recipe.validation + seen)
    return {"selected": best, "validation": scores, "iterations": trained, "compute": own}


def _compute(parts: Sequence[dict[str, Any]], problems: int) -> Compute | None:
    """Return what all iterations and their validations took, that which was chosen and the others."""
    if any(part.get("sampled_tokens") is None for part in parts):
        return None  # begun by a version that did not count
    return Compute(
        problems,
        sum(part["sampled_tokens"] for part in parts),
        sum(part.get("trained_tokens", 0) for part in parts),
    )


def best_iteration(scores: Sequence[dict[str, Any]]) -> int:
    """Return the iteration (from 1; 0 is the start model) of the best final accuracy, ties by Δ, then the earlier."""
    return max(range(1, len(scores)), key=lambda k: (scores[k]["final"], scores[k]["delta"], -k))


def _rolled(
    recipe: DpoRecipe,
    codec: ChatCodec,
    model: str,
    jobs: Sequence[tuple[Problem, int]],
    sampling: SamplingSettings,
    what: str,
) -> list[Rollout]:
    """Return graded rollouts of (problem, seed) jobs, in their order; each process samples its share of them.

    A few batches at a time, so that the meter moves.
    """
    from selfcorrect.engines.local.engine import TransformersEngine

    engine = TransformersEngine.load(model, max_batch=recipe.max_batch)
    places = range(process_rank(), len(jobs), process_count())
    rollouts: list[Rollout] = []
    with meter(what, len(places)) as progress:
        for start in range(0, len(places), 4 * recipe.max_batch):
            part = [jobs[place] for place in places[start : start + 4 * recipe.max_batch]]
            rollouts += roll_out(engine, codec, [problem for problem, _ in part], [seed for _, seed in part], sampling)
            progress.advance(len(part))
    found = dict(gathered(list(zip(places, graded(rollouts), strict=True))))
    return [found[place] for place in range(len(jobs))]


def _fresh_pairs(
    recipe: DpoRecipe, codec: ChatCodec, model: str, problems: Sequence[Problem], folder: Path, iteration: int
) -> list[Pair]:
    """Sample the problems from the policy and pair them; the pairs are kept in ``pairs.jsonl``."""
    path = folder / "pairs.jsonl"
    if path.exists():
        return [
            Pair(row["id"], row["kind"], *(_read_side(row[side]) for side in ("chosen", "rejected")))
            for row in read_jsonl(path)
        ]
    wanted = [problem for problem in problems for _ in range(recipe.generations)]
    jobs = [
        (problem, sample_seed(recipe.seed, "dpo", iteration, problem.id, place))
        for problem, place in zip(wanted, places_of([problem.id for problem in wanted]), strict=True)
    ]
    rollouts = _rolled(recipe, codec, model, jobs, recipe.sampling, f"iteration {iteration}: sampling")
    if process_rank() == 0:
        sampled = sum(rollout.trajectory.sampled_tokens for rollout in rollouts)
        write_json(folder / SAMPLED, {"sampled_tokens": sampled})
    pairs = outcome_pairs(rollouts, recipe.seed)
    if not pairs:
        raise DataError("no problem had both a right and a wrong path: raise generations or problems_per_iteration")
    if process_rank() == 0:
        write_jsonl(path, [pair.to_json() for pair in pairs])
    return pairs


def outcome_pairs(rollouts: Sequence[Rollout], seed: int) -> list[Pair]:
    """Return one pair for each problem whose graded rollouts ended both correct and wrong (iterative DPO)."""
    by_problem: dict[str, dict[float, list[Rollout]]] = {}
    for rollout in rollouts:
        reward = final_correctness(rollout.trajectory)
        if reward is not None and any(rollout.learned):
            by_problem.setdefault(rollout.trajectory.problem.id, {}).setdefault(reward, []).append(rollout)
    pairs = []
    for problem, groups in by_problem.items():
        if groups.keys() == {0.0, 1.0}:
            draw = random.Random(f"pair-{seed}-{problem}")
            correct, wrong = (draw.choice(groups[reward]) for reward in (1.0, 0.0))
            pairs.append(Pair(problem, "outcome", rollout_side(correct), rollout_side(wrong)))
    return pairs


def rollout_side(rollout: Rollout) -> Side:
    """Return a rollout as a side: what the policy wrote and could matter is counted."""
    return Side(rollout.prompt_ids + rollout.completion_ids, (0,) * len(rollout.prompt_ids) + rollout.learned)


def _read_side(row: dict[str, Any]) -> Side:
    return Side(tuple(row["ids"]), tuple(row["mask"]))


def _validate(
    recipe: DpoRecipe, codec: ChatCodec, model: str, problems: Sequence[Problem], folder: Path
) -> dict[str, Any]:
    """Return turn-1, final accuracy and Δ in percent on the validation problems, greedy; kept in the folder."""
    path = folder / "validation.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    sampling = SamplingSettings(recipe.format, recipe.max_tokens, recipe.horizon, temperature=0.0)
    rollouts = _rolled(
        recipe, codec, model, [(problem, 0) for problem in problems], sampling, f"{folder.name}: validation"
    )
    scored = score("validation", [rollout.trajectory for rollout in rollouts])
    row: dict[str, Any] = {
        "n": scored.n,
        "turn1": scored.turn1.percent,
        "final": scored.final.percent,
        "delta": scored.delta,
    }
    row["final_interval"] = list(scored.final.interval or ())
    row["sampled_tokens"] = sum(rollout.trajectory.sampled_tokens for rollout in rollouts)
    if process_rank() == 0:
        write_json(path, row)
        note(f"{folder.name}: turn 1 {row['turn1']:.1f} → final {row['final']:.1f} (n = {row['n']})")
    return row


# --- training -------------------------------------------------------------------------------------------------------


def train_on(
    recipe: DpoRecipe, codec: ChatCodec, pairs: Sequence[Pair], policy: str, reference: str | None, folder: Path
) -> dict[str, Any]:
    """Train a policy on pairs into a folder; ``reference`` None: the policy as it starts. Return the summary."""
    short = [pair for pair in pairs if pair.longest <= recipe.max_pair_tokens]
    if not short:
        raise DataError(f"all {len(pairs)} pairs are longer than max_pair_tokens={recipe.max_pair_tokens}")
    metrics = open_metrics(folder)
    with meter(f"dpo {folder.name}", None) as progress:
        trainer = build_trainer(recipe, codec, short, policy, reference, folder)
        trainer.add_callback(reports(metrics, progress, _FROM_TRL))
        fit(trainer, folder)
        save_model(trainer, codec, folder)
    ends = {
        end: {name: row.get(name) for name in ("loss", "preferred", "margin")}
        for end, row in (("first", metrics.rows[0]), ("last", metrics.rows[-1]))
    }
    return {
        "pairs": len(short),
        "kinds": dict(sorted(Counter(pair.kind for pair in short).items())),
        "too_long": len(pairs) - len(short),
        "steps": trainer.state.global_step,
        "trained_tokens": round(trainer.state.epoch * sum(_length(pair) for pair in short)),
        **ends,
    }


def _length(pair: Pair) -> int:
    return len(pair.chosen.ids) + len(pair.rejected.ids)


def dpo_config(recipe: DpoRecipe, folder: Path) -> DPOConfig:
    """Return TRL's settings for a recipe."""
    from trl import DPOConfig

    config: DPOConfig = trl_config(
        DPOConfig,
        recipe,
        folder,
        **split_batch("pairs", recipe.batch_pairs, recipe.micro_pairs),
        num_train_epochs=recipe.epochs,
        beta=recipe.beta,
        loss_type=["sigmoid", "sft"] if recipe.nll_weight else ["sigmoid"],
        loss_weights=[1.0, recipe.nll_weight] if recipe.nll_weight else [1.0],
        precompute_ref_log_probs=True,
        max_length=None,
        logging_steps=recipe.log_every,
        save_steps=recipe.save_every,
        remove_unused_columns=False,
    )
    return config


def build_trainer(
    recipe: DpoRecipe, codec: ChatCodec, pairs: Sequence[Pair], policy: str, reference: str | None, folder: Path
) -> DPOTrainer:
    """Return TRL's trainer on pairs that are tokens already; computes the reference's log-probabilities."""
    from datasets import Dataset
    from trl import DPOTrainer

    class PairTrainer(Sharding, DPOTrainer):
        """DPOTrainer whose rows are token ids with a mask each."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _move_model_to_device(self, model: Any, device: Any) -> None:
            if not fsdp_asked():  # TRL hashes the weights first, which it can of whole ones alone
                super()._move_model_to_device(model, device)

        def _precompute_ref_logps(self, *args: Any) -> Any:
            if fsdp_asked():
                for model in (self.model, self.ref_model):
                    if model is not None:
                        shard(model, self.args.bf16)
            scored = super()._precompute_ref_logps(*args)
            if self._precompute_engine is not None:  # of DeepSpeed: two engines on one model trip over each other
                self._precompute_engine.destroy()
                self._precompute_engine = None
            return scored

    columns = {
        f"{name}_{what}": [list(getattr(getattr(pair, name), what)) for pair in pairs]
        for name in ("chosen", "rejected")
        for what in ("ids", "mask")
    }
    pad = codec.tokenizer.pad_token_id
    return PairTrainer(
        model=load_model(policy, recipe.attention),
        ref_model=load_model(reference, recipe.attention) if reference else None,
        args=dpo_config(recipe, folder),
        data_collator=MaskedPairs(codec.turn_end if pad is None else pad),
        train_dataset=_for_all_processes(Dataset.from_dict(columns), folder / "resume" / "pairs"),
        processing_class=codec.tokenizer,
        peft_config=peft_config(recipe.lora),
    )


def _for_all_processes(dataset: Any, folder: Path) -> Any:
    """Return the rows from a folder that all processes read, where there are several.

    TRL's main process writes the reference's log-probabilities beside the rows; of rows in memory the others would
    look for them in a temporary folder of their own.
    """
    from datasets import load_from_disk

    if process_count() == 1:
        return dataset
    if process_rank() == 0 and not folder.exists():
        started = folder.with_name(f"{folder.name}-started")
        shutil.rmtree(started, ignore_errors=True)
        dataset.save_to_disk(str(started))
        started.rename(folder)
    wait_for_everyone()
    return load_from_disk(str(folder))


@dataclass(frozen=True, slots=True)
class MaskedPairs:
    """Collates pairs as TRL's DataCollatorForPreference does, with the pair's own mask for ``completion_mask``."""

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return (2N, T) tensors, the chosen sides first, padded on the right."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        sides = [(row[f"{name}_ids"], row[f"{name}_mask"]) for name in ("chosen", "rejected") for row in rows]

        def padded(values: list[list[int]], fill: int) -> torch.Tensor:
            return pad_sequence([torch.tensor(value) for value in values], batch_first=True, padding_value=fill)

        batch = {
            "input_ids": padded([ids for ids, _ in sides], self.pad_token_id),
            "attention_mask": padded([[1] * len(ids) for ids, _ in sides], 0),
            "completion_mask": padded([list(mask) for _, mask in sides], 0),
        }
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch
