"""A minuscule real model: the shared byte tokenizer and random Llama weights; and one that guesses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.prompts import solve_messages
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.recipe import RlRecipe
from selfcorrect.train.rl.rollout_function import RolloutFunction, problem_order
from selfcorrect.train.rl.samplers import Sampler, open_sampler
from selfcorrect.train.sft import SftRecipe
from selfcorrect.train.sft import run as run_sft
from selfcorrect.types import Problem

Killing = Callable[[int], AbstractContextManager[None]]

CLOCKED = {"rollout_s", "waited_s", "handover_s", "grading_s", "update_s", "eta_s", "seconds"}


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of metrics.jsonl without what a clock measured."""
    kept = row.keys() - CLOCKED
    return {name: value for name, value in row.items() if name in kept and "per_s/" not in name and "time/" not in name}


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Killing:
    """Return a context in which transformers dies when it is about to report a step's figures."""
    from transformers.trainer_callback import CallbackHandler

    class Killed(Exception):
        pass

    @contextmanager
    def context(last: int) -> Iterator[None]:
        report = CallbackHandler.on_log

        def die(self: Any, args: Any, state: Any, *more: Any) -> Any:
            if state.global_step == last:
                raise Killed
            return report(self, args, state, *more)

        with monkeypatch.context() as patch:
            patch.setattr(CallbackHandler, "on_log", die)
            with pytest.raises(Killed):
                yield

    return context


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model folder: a random Llama of about 30,000 parameters, float32."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), tokenizer)


def make_tiny_model(folder: Path, tokenizer: Any) -> Path:
    """Write the tiny model into a folder and return it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PROBLEMS = [Problem(f"p{i}", f"Guess {i}.", "3", "arithmetic") for i in range(6)]


@pytest.fixture(scope="session")
def guesser(tiny_model: Path, codec: ChatCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose checkpoints/ift answers 3 or 4, judges itself correct, and is right about half the time."""
    return make_guesser(tmp_path_factory.mktemp("guesser"), tiny_model, codec)


def make_guesser(folder: Path, tiny_model: Path, codec: ChatCodec) -> Path:
    """Train the guesser into a run folder and return it."""
    (folder / "data" / "sft").mkdir(parents=True)
    rows = []
    for problem in PROBLEMS:
        for guess in (3, 4):
            opening = codec.opening(solve_messages(problem.question))
            attempt = codec.encode(f"\\boxed{{{guess}}}")
            evaluation = (*codec.encode("\n\n[VERIFY] correct."), codec.turn_end)
            ends = [len(opening), len(opening) + len(attempt), len(opening + attempt + evaluation)]
            spans = [
                {"role": role, "start": start, "end": end, "sampled": start > 0, "learn": start > 0}
                for role, start, end in zip(
                    ("external", "attempt", "self-evaluation"), [0, *ends[:2]], ends, strict=True
                )
            ]
            rows.append(
                {
                    "id": f"{problem.id}-{guess}",
                    "kind": "D3",
                    "token_ids": opening + attempt + evaluation,
                    "spans": spans,
                }
            )
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "sft" / "self-rewarding.jsonl").write_text(text, encoding="utf-8")
    settings = {"epochs": 150, "batch_rows": 12, "learning_rate": 1e-2, "precision": "fp32", "save_every": 1000}
    run_sft(SftRecipe(model=str(tiny_model), **settings), folder)  # type: ignore[arg-type]
    return folder


def write_prompts(path: Path) -> Path:
    """Write the problems, one a line, and return the file."""
    fields = ("id", "question", "gold", "source")
    lines = [json.dumps({name: getattr(problem, name) for name in fields}) + "\n" for problem in PROBLEMS]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def rollout_function_of(
    recipe: RlRecipe, problems: Sequence[Problem] = PROBLEMS, sampler: Sampler | None = None
) -> RolloutFunction:
    """Return what a run of RL would roll out with; ``sampler`` None: the recipe's own."""
    codec = ChatCodec.load(recipe.model, recipe.thinking)
    opened = sampler or open_sampler(recipe.sampler, codec, recipe.model, recipe.max_batch, recipe.sampler_options)
    return RolloutFunction(recipe, codec, problem_order(recipe, problems), opened)


class Stale:
    """A sampler that never follows: it samples from the weights of a model folder."""

    def __init__(self, model: str) -> None:
        from selfcorrect.engines.local.engine import TransformersEngine

        self.engine = TransformersEngine.load(model)
        self.context = self.engine.context

    def follow(self, model: Any) -> None:
        """Stay where it is."""

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        return self.engine.sample_many(requests)

    def rest(self) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def recipe(guesser: Path, tmp_path: Path) -> GrpoRecipe:
    write_prompts(tmp_path / "data" / "prompts.jsonl")
    return make_recipe(guesser)


def make_recipe(guesser: Path) -> GrpoRecipe:
    """Return GRPO on the guesser, two rollouts of twelve paths."""
    return GrpoRecipe(
        model=str(guesser / "checkpoints" / "ift"),
        steps=2,
        prompts_per_step=3,
        generations=4,
        micro_rows=4,
        max_tokens=48,
        precision="fp32",
        learning_rate=1e-3,
        max_logprob_gap=1e-3,
        guard=GuardRecipe(action="ignore"),
    )
