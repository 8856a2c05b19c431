"""`SelfCorrectModel`: a trained model in a script, in three lines.

from selfcorrect import SelfCorrectModel
model = SelfCorrectModel.load("embedded")
print(model.solve("Mia has 40 shells and buys 12 more. How many shells now?").final.answer)

`solve`, `solve_many`, `vote` and `stream` are for scripts and notebooks; `asolve`, `asolve_many`, `avote` and `astream`
are the same for programs with an event loop. All of them run the loop of `selfcorrect.correction.loop`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, TypeVar, Unpack

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.correction.events import Event
from selfcorrect.correction.loop import LoopSettings, require, solve
from selfcorrect.correction.stop_rule import StopRule, load_rule
from selfcorrect.correction.streaming import stream
from selfcorrect.correction.votes import By, Vote, check_votes, vote
from selfcorrect.engines import Engine, EngineRecipe, open_engine
from selfcorrect.engines.background import BackgroundLoop
from selfcorrect.errors import InputError
from selfcorrect.loading import SHIPPED
from selfcorrect.runs.progress import quiet_bars
from selfcorrect.runs.recipes import build_recipe
from selfcorrect.types import Message, Problem, Trajectory

T = TypeVar("T")

Question = str | Sequence[Message]
"""A question, or a conversation in OpenAI's form whose last message asks it."""

Progress = Callable[[int, int], None]
"""Called as trajectories are done, with how many are and how many there are."""


class Options(TypedDict, total=False):
    """Settings of one question; what is left out, or None, is as the model was loaded.

    ``threshold``: stop where P(correct) is at least this (calibrated, where the model was loaded so); ``path_tokens``:
    token budget of the whole trajectory; ``first_only``: one attempt, without correction.
    """

    horizon: int | None
    max_tokens: int | None
    path_tokens: int | None
    threshold: float | None
    temperature: float | None
    top_p: float | None
    first_only: bool


class SelfCorrectModel:
    """Solves problems by the correction loop and keeps the whole path: attempts, verdicts, P(correct).

    A question is a text, or a conversation: ``[{"role": "user", "content": …}, {"role": "assistant", …}, …]``, which
    may begin with a system message and ends with the user's. A follow-up question sees what the conversation holds. Put
    the *final* answer of each earlier question there (``trajectory.final.text``), so that the model sees final answers
    only: no superseded attempt, no self-evaluation. Each message of the user gets the instruction that models are
    trained with.

    A model that gives no verdict returns its first answer, and ``stop`` is then ``no-verdict``. Safe to use from
    several threads and event loops at once.
    """

    def __init__(self, engine: Engine, codec: ChatCodec, settings: LoopSettings | None = None) -> None:
        self.engine = engine
        self.codec = codec
        self.settings = without_reference(settings or LoopSettings())

    @classmethod
    def load(
        cls, model: str | Path, *, engine: EngineRecipe | None = None, own_process: bool = False, **settings: Any
    ) -> SelfCorrectModel:
        """Load a model folder, a hub id, or ``"embedded"``; ``settings`` are those of `LoopSettings`.

        ``own_process`` loads an engine of kind ``transformers`` in a process of its own, for programs that do much with
        each token; the other kinds have processes of their own already.
        ``engine=EngineRecipe(kind="openai", endpoints=(…,))`` asks servers that have the model loaded. The embedded
        base model is not fine-tuned to judge itself in one pass, so it is asked for each part (``method="asked"``)
        unless a method is given. ``stop="threshold"`` stops by the calibrated P(correct) that ``selfcorrect eval
        calibrate`` saved with the checkpoint. Raises ModelError, EngineError, or DataError where there is no
        calibration; InputError for a setting that is none of `LoopSettings`, or a value it does not take.
        """
        model = os.fspath(model)
        if model in SHIPPED:
            settings.setdefault("method", "asked")
        loop = without_reference(_loop(settings))  # refuses before anything is loaded
        if loop.stop == "threshold" and "rule" not in settings:
            loop = replace(loop, rule=load_rule(model_path(model)))
        codec = ChatCodec.load(model, engine.thinking if engine else None)
        require(codec, loop, judge=None)  # before the weights are loaded
        with quiet_bars():
            opened = _opened(replace(engine or EngineRecipe(), model=model), own_process)
        context = opened.context
        if context and "max_tokens" not in settings:  # leave at least half of a short context to the question
            loop = replace(loop, max_tokens=min(loop.max_tokens, context // 2))
        return cls(opened, codec, loop)

    # -- in an event loop --------------------------------------------------------------------------

    async def asolve(self, question: Question, *, seed: int = 0, **options: Unpack[Options]) -> Trajectory:
        """Return the path of one question; ``.final.answer`` is the answer, ``.evaluations`` the verdicts.

        Cancelling the task ends the work in the engine. Raises InputError for a question or an option that is none.
        """
        settings = self._settings(options)
        return await solve(*self._asked(question, 0, settings), settings, seed, opening=self._opening(question))

    async def asolve_many(
        self,
        questions: Sequence[Question],
        *,
        seed: int | Sequence[int] = 0,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> list[Trajectory]:
        """Return the paths of many questions, sampled together, in their order.

        ``seed`` is one for all or one for each. Where one question fails with an error, the others are cancelled.
        """
        if isinstance(questions, str):
            raise InputError("solve_many takes a list of questions; use solve for one")
        seeds = [seed] * len(questions) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(questions):
            raise InputError(f"seed: expected one number, or one for each question; got {len(seeds)}")
        settings = self._settings(options)
        asked = [(self._asked(q, i, settings), self._opening(q)) for i, q in enumerate(questions)]  # refuses all first
        done = 0

        async def one(place: int) -> Trajectory:
            nonlocal done
            arguments, opening = asked[place]
            trajectory = await solve(*arguments, settings, seeds[place], opening=opening)
            done += 1
            if progress:
                progress(done, len(asked))
            return trajectory

        return await _all([one(place) for place in range(len(asked))])

    async def avote(
        self, question: Question, n: int, *, by: By = "correction + vote", seed: int = 0, **options: Unpack[Options]
    ) -> Vote:
        """Return the answer that most of ``n`` trajectories give, with all of them; their seeds count up from ``seed``.

        ``by`` says what is counted and how it is weighed (`selfcorrect.correction.votes`). Raises InputError at
        temperature 0, where all trajectories are the same.
        """
        settings = self._settings(options)
        check_votes("n", n, settings.temperature)
        paths = [self.asolve(question, seed=seed + place, **options) for place in range(n)]
        return vote(await _all(paths), by)

    async def astream(
        self, question: Question, *, seed: int = 0, **options: Unpack[Options]
    ) -> AsyncGenerator[Event, None]:
        """Give the events (`selfcorrect.correction.events`) of the path that `asolve` returns, while it is written.

        Closing the generator (``contextlib.aclosing``) ends the work in the engine. Where the engine does not stream
        (``model.engine.streams`` is False) the text of each message comes at once.
        """
        settings = self._settings(options)
        path = stream(*self._asked(question, 0, settings), settings, seed, opening=self._opening(question))
        async with aclosing(path) as events:
            async for event in events:
                yield event

    # -- in a script or a notebook -----------------------------------------------------------------

    def solve(self, question: Question, *, seed: int = 0, **options: Unpack[Options]) -> Trajectory:
        """Return what `asolve` does; works in a notebook, too."""
        return _run(self.asolve(question, seed=seed, **options))

    def solve_many(
        self,
        questions: Sequence[Question],
        *,
        seed: int | Sequence[int] = 0,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> list[Trajectory]:
        """Return what `asolve_many` does; works in a notebook, too."""
        return _run(self.asolve_many(questions, seed=seed, progress=progress, **options))

    def vote(
        self, question: Question, n: int, *, by: By = "correction + vote", seed: int = 0, **options: Unpack[Options]
    ) -> Vote:
        """Return what `avote` does; works in a notebook, too."""
        return _run(self.avote(question, n, by=by, seed=seed, **options))

    def stream(self, question: Question, *, seed: int = 0, **options: Unpack[Options]) -> Generator[Event, None, None]:
        """Give what `astream` does; leaving the loop over it ends the work in the engine."""
        events = self.astream(question, seed=seed, **options)

        async def following() -> Event | None:
            return await anext(events, None)

        background = BackgroundLoop("events of a question")
        try:
            while (event := background.call(following())) is not None:
                yield event
        finally:
            background.shut(events.aclose())

    def close(self) -> None:
        """Free the engine."""
        _run(self.engine.close())

    def __enter__(self) -> SelfCorrectModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what is asked -----------------------------------------------------------------------------

    def _settings(self, options: Options) -> LoopSettings:
        """Return the settings of the loop for one question; InputError for what they do not take."""
        unknown = options.keys() - Options.__annotations__.keys()
        if unknown:
            raise InputError(f"unknown option {sorted(unknown)[0]!r}; known: {', '.join(Options.__annotations__)}")
        given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
        first_only, threshold = given.pop("first_only", False), given.pop("threshold", None)
        if first_only:  # long-CoT: up to the first mark
            return replace(self.settings, **given | {"horizon": 1, "one_pass": False, "stop": "sampled"})
        if threshold is not None:
            if not 0 <= threshold <= 1:
                raise InputError(f"threshold: expected a probability, from 0 to 1; got {threshold!r}")
            given |= {"stop": "threshold", "rule": replace(self.settings.rule, threshold=threshold)}
        return replace(self.settings, **given)

    def _asked(self, question: Question, place: int, settings: LoopSettings) -> tuple[Problem, Engine, ChatCodec]:
        """Return what `solve` and `stream` take first; InputError for what is no question."""
        text = question if isinstance(question, str) else _checked(question)[-1]["content"]
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"a question is a non-empty text; got {text!r:.80}")
        return Problem(f"question-{place}", text, gold="", source="math"), self.engine, self.codec

    def _opening(self, question: Question) -> tuple[int, ...] | None:
        """Return the token ids of a conversation up to where the model is to write; None for a question alone."""
        if isinstance(question, str):
            return None
        asked = lambda message: {**message, "content": prompts.solve(message["content"])}
        return self.codec.opening([asked(m) if m["role"] == "user" else m for m in _checked(question)])


def without_reference(settings: LoopSettings) -> LoopSettings:
    """Return settings by which any question can be answered; InputError where they need its reference or a judge."""
    if "gold" in (settings.method, settings.stop):
        raise InputError("the gold verdict needs reference answers: use `selfcorrect eval`")
    if settings.method == "judged" or settings.stop == "judge":
        raise InputError("a judge beside the model is there in evaluation alone: use `selfcorrect eval`")
    return settings


def _checked(messages: Sequence[Message]) -> list[Message]:
    """Return the messages of a conversation as roles and texts; InputError for what is none."""
    if not isinstance(messages, Sequence) or not messages:
        raise InputError(f"a question is a non-empty text, or a list of messages; got {messages!r:.80}")
    found: list[Message] = []
    for place, message in enumerate(messages):
        content = _text(message.get("content")) if isinstance(message, Mapping) else None
        if content is None:
            raise InputError(f'messages[{place}]: expected {{"role": …, "content": a text}}, got {message!r:.80}')
        if message.get("role") not in ("system", "user", "assistant"):
            raise InputError(f"messages[{place}]: role is system, user or assistant; got {message.get('role')!r:.80}")
        found.append({"role": message["role"], "content": content})
    if found[-1]["role"] != "user":
        raise InputError(f"the last message asks, so its role is user; got {found[-1]['role']}")
    return found


def _text(content: Any) -> str | None:
    """Return a message's content, a text or parts of type text, as one text; None where it is something else."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content if isinstance(content, Sequence) else ():
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
    return "".join(texts) if texts else None


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order; an error, or being cancelled, ends all of the work."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of work, from synchronous code; where an event loop runs already, in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    background = BackgroundLoop("work of a notebook")
    try:
        return background.call(work)
    finally:
        background.shut()


def _opened(recipe: EngineRecipe, own_process: bool) -> Engine:
    if not own_process or recipe.kind != "transformers":
        return open_engine(recipe)
    from selfcorrect.engines.process import ProcessEngine

    return ProcessEngine.start(recipe)


def _loop(settings: Mapping[str, Any]) -> LoopSettings:
    """Return the settings of the loop, each checked as a recipe's would be."""
    plain = {key: value for key, value in settings.items() if key != "rule"}
    loop = build_recipe(LoopSettings, plain, where="SelfCorrectModel.load")
    rule = settings.get("rule", loop.rule)
    if not isinstance(rule, StopRule):
        raise InputError(f"rule: expected a StopRule (selfcorrect.correction.load_rule reads one), got {rule!r:.80}")
    return replace(loop, rule=rule)
