"""`SelfCorrectModel`: a trained model in a script, in three lines.

from selfcorrect import SelfCorrectModel
model = SelfCorrectModel.load("embedded")
print(model.solve("Mia has 40 shells and buys 12 more. How many shells now?").final.answer)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from selfcorrect.correction import LoopSettings, solve
from selfcorrect.engines import Engine, EngineRecipe, open_engine
from selfcorrect.errors import InputError
from selfcorrect.stopping import load_rule
from selfcorrect.tokens import ChatCodec, model_path
from selfcorrect.types import Problem, Trajectory


class SelfCorrectModel:
    """Solves problems by the correction loop and keeps the whole path: attempts, verdicts, P(correct)."""

    def __init__(self, engine: Engine, codec: ChatCodec, settings: LoopSettings | None = None) -> None:
        self.engine = engine
        self.codec = codec
        self.settings = settings or LoopSettings()

    @classmethod
    def load(cls, model: str, *, engine: EngineRecipe | None = None, **settings: Any) -> SelfCorrectModel:
        """Load a model folder, a hub id, or ``"embedded"``; ``settings`` are those of `LoopSettings`.

        The embedded base model is not fine-tuned to judge itself in one pass, so it is asked for each part
        (``method="asked"``) unless a method is given. ``stop="threshold"`` stops by the calibrated P(correct) that
        ``selfcorrect eval calibrate`` saved with the checkpoint. Raises ModelError, EngineError, or DataError where
        there is no calibration.
        """
        if settings.get("stop") == "threshold":
            settings.setdefault("rule", load_rule(model_path(model)))
        if model == "embedded":
            settings.setdefault("method", "asked")
        opened = open_engine(replace(engine or EngineRecipe(), model=model))
        context = getattr(opened, "context", None)
        if context:  # leave at least half of a short context to the question
            settings.setdefault("max_tokens", min(LoopSettings().max_tokens, context // 2))
        return cls(opened, ChatCodec.load(model), LoopSettings(**settings))

    def solve(self, question: str, *, seed: int = 0) -> Trajectory:
        """Return the path of one question; ``.final.answer`` is the answer, ``.evaluations`` the verdicts."""
        return self.solve_many([question], seed=seed)[0]

    def solve_many(self, questions: Sequence[str], *, seed: int = 0) -> list[Trajectory]:
        """Return the paths of many questions, sampled together, in their order."""
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
