"""`SelfCorrectModel`: a trained model in a script, in three lines.

from selfcorrect import SelfCorrectModel
model = SelfCorrectModel.load("embedded")
print(model.solve("Mia has 40 shells and buys 12 more. How many shells now?").final.answer)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.correction.loop import LoopSettings, solve
from selfcorrect.correction.stop_rule import StopRule, load_rule
from selfcorrect.engines import Engine, EngineRecipe, open_engine
from selfcorrect.errors import InputError
from selfcorrect.loading import SHIPPED
from selfcorrect.runs.progress import quiet_bars
from selfcorrect.runs.recipes import build_recipe
from selfcorrect.types import Problem, Trajectory


class SelfCorrectModel:
    """Solves problems by the correction loop and keeps the whole path: attempts, verdicts, P(correct)."""

    def __init__(self, engine: Engine, codec: ChatCodec, settings: LoopSettings | None = None) -> None:
        self.engine = engine
        self.codec = codec
        self.settings = settings or LoopSettings()

    @classmethod
    def load(cls, model: str | Path, *, engine: EngineRecipe | None = None, **settings: Any) -> SelfCorrectModel:
        """Load a model folder, a hub id, or ``"embedded"``; ``settings`` are those of `LoopSettings`.

        The embedded base model is not fine-tuned to judge itself in one pass, so it is asked for each part
        (``method="asked"``) unless a method is given. ``stop="threshold"`` stops by the calibrated P(correct) that
        ``selfcorrect eval calibrate`` saved with the checkpoint. Raises ModelError, EngineError, or DataError where
        there is no calibration; InputError for a setting that is none of `LoopSettings`, or a value it does not take.
        """
        model = os.fspath(model)
        if model in SHIPPED:
            settings.setdefault("method", "asked")
        loop = _loop(settings)  # refuses before anything is loaded
        if loop.stop == "threshold" and "rule" not in settings:
            loop = replace(loop, rule=load_rule(model_path(model)))
        with quiet_bars():
            opened = open_engine(replace(engine or EngineRecipe(), model=model))
        context = opened.context
        if context and "max_tokens" not in settings:  # leave at least half of a short context to the question
            loop = replace(loop, max_tokens=min(loop.max_tokens, context // 2))
        return cls(opened, ChatCodec.load(model, engine.thinking if engine else None), loop)

    def solve(self, question: str, *, seed: int = 0) -> Trajectory:
        """Return the path of one question; ``.final.answer`` is the answer, ``.evaluations`` the verdicts."""
        return self.solve_many([question], seed=seed)[0]

    def solve_many(self, questions: Sequence[str], *, seed: int = 0) -> list[Trajectory]:
        """Return the paths of many questions, sampled together, in their order."""
        if isinstance(questions, str):
            raise InputError("solve_many takes a list of questions; use solve for one")
        for question in questions:
            if not isinstance(question, str) or not question.strip():
                raise InputError(f"a question is a non-empty text; got {question!r}")
        problems = [Problem(f"question-{i}", question, gold="", source="math") for i, question in enumerate(questions)]

        async def gather() -> list[Trajectory]:
            paths = (solve(problem, self.engine, self.codec, self.settings, seed) for problem in problems)
            return list(await asyncio.gather(*paths))

        if "gold" in (self.settings.method, self.settings.stop):
            raise InputError("the gold verdict needs reference answers: use `selfcorrect eval`")
        return asyncio.run(gather())

    def close(self) -> None:
        """Free the engine."""
        asyncio.run(self.engine.close())

    def __enter__(self) -> SelfCorrectModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _loop(settings: Mapping[str, Any]) -> LoopSettings:
    """Return the settings of the loop, each checked as a recipe's would be."""
    plain = {key: value for key, value in settings.items() if key != "rule"}
    loop = build_recipe(LoopSettings, plain, where="SelfCorrectModel.load")
    rule = settings.get("rule", loop.rule)
    if not isinstance(rule, StopRule):
        raise InputError(f"rule: expected a StopRule (selfcorrect.correction.load_rule reads one), got {rule!r:.80}")
    return replace(loop, rule=rule)
