"""Judges other than the policy: an outcome reward model, or the self-reward of another policy (tables 5, 7, 8).

A judge reads a problem and an attempt and returns a `SelfEvaluation`: its verdict, its P(correct), and its words where
it writes any. `correction.solve` asks it under ``method="judged"`` (no self-evaluation at all) and ``stop="judge"``
(in place of the policy's own verdict).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.choices import check_choices
from selfcorrect.correction.parsing import verdict_probability, yes_no_ids
from selfcorrect.engines import Engine, EngineRecipe, SampleRequest, open_engine
from selfcorrect.errors import ModelError
from selfcorrect.loading import model_loading
from selfcorrect.types import Problem, SelfEvaluation, Verdict
from selfcorrect.verdicts import MARKS, YES_NO, parse_verdict


class Judge(Protocol):
    """Judges attempts; safe to call from many tasks of one event loop at once."""

    async def judge(self, problem: Problem, attempt: str) -> SelfEvaluation:
        """Return the judgement of one attempt."""
        ...

    async def close(self) -> None:
        """Free the model."""
        ...


@dataclass(frozen=True, slots=True)
class JudgeRecipe:
    """Who judges: ``orm`` is a sequence classifier, the others are policies and say how they write verdicts."""

    kind: Literal["none", "orm", "self-rewarding", "asked", "two-turn"] = "none"  # who judges
    engine: EngineRecipe = field(default_factory=EngineRecipe)  # the judge's model
    threshold: float = 0.5  # of P(correct), for orm
    max_tokens: int = 512  # of one judgement

    def __post_init__(self) -> None:
        check_choices(self)


def open_judge(recipe: JudgeRecipe) -> Judge | None:
    """Load the judge of a recipe, None for ``none``; raises ModelError or EngineError."""
    if recipe.kind == "none":
        return None
    if recipe.kind == "orm":
        return OutcomeRewardModel.load(recipe)
    return CrossJudge(open_engine(recipe.engine), ChatCodec.load(recipe.engine.model, recipe.engine.thinking), recipe)


class CrossJudge:
    """Policy B judges policy A's attempts, greedily, in the format that B was trained in."""

    def __init__(self, engine: Engine, codec: ChatCodec, recipe: JudgeRecipe) -> None:
        self.engine, self.codec, self.recipe = engine, codec, recipe
        self.watch_ids = yes_no_ids(codec) if recipe.kind == "two-turn" else codec.verdict_ids

    async def judge(self, problem: Problem, attempt: str) -> SelfEvaluation:
        """Return B's verdict: None where it writes no well-formed one. B reads A's text, in tokens of its own."""
        codec, two_turn = self.codec, self.recipe.kind == "two-turn"
        ids = codec.opening(prompts.solve_messages(problem.question))
        own = attempt.split(prompts.SELF_QUESTION)[0].rstrip()
        if two_turn:
            ids += codec.encode(f"{own}{prompts.SEPARATOR}{prompts.SELF_QUESTION}")
        elif self.recipe.kind == "asked":
            ids += codec.encode(own) + codec.reply(prompts.EVALUATE)
        else:
            ids += codec.encode(own + prompts.SEPARATOR)
        sample = await self.engine.sample(
            SampleRequest(
                prompt_ids=ids,
                max_tokens=4 if two_turn else self.recipe.max_tokens,
                temperature=0.0,
                stop_ids=codec.stop_ids,
                stop_texts=tuple(YES_NO.values() if two_turn else MARKS.values()),
                watch_ids=self.watch_ids,
            )
        )
        text = codec.decode(sample.token_ids)
        said = text.strip().rstrip(".")
        by_word = {word: verdict for verdict, word in YES_NO.items()}
        verdict = by_word.get(said) if two_turn else parse_verdict(text)
        p_correct = verdict_probability(codec, sample, 0, len(sample.token_ids), self.watch_ids)
        return SelfEvaluation(text, verdict, p_correct if verdict else None)

    async def close(self) -> None:
        """Free B's engine."""
        await self.engine.close()


class OutcomeRewardModel:
    """A sequence classifier (our ``orm`` checkpoints, or any reward model with one logit or two).

    It reads the chat ``problem, attempt``. One logit is the log-odds of correct; of two, the second is *correct*.
    Attempts that arrive while a batch runs are judged in the next batch.
    """

    def __init__(self, model: Any, codec: ChatCodec, recipe: JudgeRecipe) -> None:
        self.model, self.codec, self.recipe = model, codec, recipe
        self._waiting: list[tuple[tuple[int, ...], asyncio.Future[float]]] = []
        self._running: asyncio.Task[None] | None = None

    @classmethod
    def load(cls, recipe: JudgeRecipe) -> OutcomeRewardModel:
        """Load a classifier folder or hub id; raises ModelError where it is none."""
        import torch
        from transformers import AutoModelForSequenceClassification

        name, device = recipe.engine.model, recipe.engine.device
        with model_loading(name, "a reward model"):
            model = AutoModelForSequenceClassification.from_pretrained(model_path(name), dtype=recipe.engine.dtype)
        architecture = (model.config.architectures or ["none named"])[0]
        if "SequenceClassification" not in architecture and "Reward" not in architecture:
            raise ModelError(
                f"{name!r} is a {architecture}, not a sequence classifier: its score head would be random; "
                "train one with: selfcorrect train orm, or judge with judge.kind=self-rewarding"
            )
        if model.config.num_labels not in (1, 2):
            raise ModelError(f"{name!r} has {model.config.num_labels} labels; a reward model has one logit or two")
        codec = ChatCodec.load(name, recipe.engine.thinking)
        if model.config.pad_token_id is None:  # the score is read at the last token that is not padding
            pad = codec.tokenizer.pad_token_id
            model.config.pad_token_id = codec.turn_end if pad is None else pad
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.eval().to(device), codec, recipe)

    async def judge(self, problem: Problem, attempt: str) -> SelfEvaluation:
        """Return the verdict and P(correct); there are no words."""
        opening = self.codec.opening(prompts.solve_messages(problem.question))
        ids = (*opening, *self.codec.encode(attempt), self.codec.turn_end)
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((ids, answer))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._drain())
        p_correct = await answer
        return SelfEvaluation("", Verdict.CORRECT if p_correct >= self.recipe.threshold else Verdict.WRONG, p_correct)

    async def close(self) -> None:
        """Stop judging."""
        if self._running:
            self._running.cancel()

    async def _drain(self) -> None:
        await asyncio.sleep(0)  # let everyone who is ready join the batch
        while self._waiting:
            size = self.recipe.engine.max_batch
            batch, self._waiting = self._waiting[:size], self._waiting[size:]
            try:
                scores = await asyncio.to_thread(self._scores, [ids for ids, _ in batch])
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
                for _, answer in batch:
                    answer.set_exception(ModelError(f"the reward model failed: {error}"))
                continue
            for (_, answer), score in zip(batch, scores, strict=True):
                if not answer.done():
                    answer.set_result(score)

    def _scores(self, rows: list[tuple[int, ...]]) -> list[float]:
        import torch

        longest, device = max(map(len, rows)), self.model.device
        pad = self.model.config.pad_token_id
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask).logits.float()
        p = torch.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)[:, 1]
        return [float(value) for value in p]
