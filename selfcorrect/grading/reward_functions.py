"""The grader in the shapes that RL libraries call. Our own trainers use `selfcorrect.rewards` instead.

A problem without a reference answer (None, NaN, a blank), or whose reference cannot be read, has no reward (None: TRL
leaves it out; verl and verifiers need a number and get ``ungradable``). A response that cannot be graded, for want of
an answer or by a limit, scores 0. Further keyword arguments are what libraries pass to all reward functions: not used.

Of a completion that its token budget cut only a finished statement counts (`extraction`). Whether it was cut is known
- in TRL from the last of ``completion_ids``, by `AccuracyReward`, or from a column ``finish``; plain `accuracy_reward`
  cannot know it: TRL passes no tokenizer;
- in verl from ``extra_info``: ``finish_reason``, ``is_truncated`` or ``truncated``; verl's own reward managers pass
  none of these, so it cannot be known there;
- in verifiers from ``state``: the last step of ``trajectory``, the last of ``responses``, or ``is_truncated``.
A completion of which nothing is known counts as finished.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from selfcorrect.errors import InputError
from selfcorrect.grading.grader import GOLD_UNREADABLE, grade, grade_many
from selfcorrect.types import Grade

Completion = str | Sequence[Mapping[str, Any]] | None


def accuracy_reward(
    completions: Sequence[Completion],
    gold: Iterable[Any] | None = None,
    solution: Iterable[Any] | None = None,
    answer: Iterable[Any] | None = None,
    source: Sequence[str] | str = "math",
    finish: Sequence[str | None] | None = None,
    **_: Any,
) -> list[float | None]:
    """TRL: 1.0 or 0.0 for each completion, None where its reference answer is missing or cannot be read.

    The reference answers come from the first of the columns ``gold``, ``solution``, ``answer`` that is there; where
    several are, as in mixed data sets, a row takes the first that it has. ``finish`` says ``length`` of a completion
    that was cut; TRL itself says nothing of it: see `AccuracyReward`.
    """
    columns = [list(column) for column in (gold, solution, answer) if column is not None]
    if not columns:
        raise InputError("accuracy_reward needs a dataset column with reference answers: gold, solution or answer")
    if odd := [len(column) for column in columns if len(column) != len(completions)]:
        raise InputError(f"{len(completions)} completions, but a column of {odd[0]} reference answers")
    texts = [
        [text for value in row if (text := reference_text(value)) is not None] for row in zip(*columns, strict=True)
    ]
    known = [n for n, found in enumerate(texts) if found]
    sources = source if isinstance(source, str) else [str(list(source)[n]) for n in known]
    pairs = [(completion_text(completions[n]), texts[n][0]) for n in known]
    cut = [finish is not None and finish[n] == "length" for n in known]
    scores = dict(zip(known, map(_score, grade_many(pairs, source=sources, cut=cut)), strict=True))
    return [scores.get(n) for n in range(len(completions))]


class AccuracyReward:
    """TRL: `accuracy_reward` that knows which completions were cut, from the ids that end one.

    ``AccuracyReward([tokenizer.eos_token_id])``; give all ids that the generation ends with, and the padding's. TRL
    passes the ids of each completion, its end included: one that ends otherwise was cut. A class, not a closure, so
    that TRL can send it to another process.
    """

    __name__ = "accuracy_reward"

    def __init__(self, end_ids: int | Iterable[int]) -> None:
        self.end_ids = frozenset([end_ids] if isinstance(end_ids, int) else end_ids)
        if not self.end_ids:
            raise InputError("AccuracyReward needs the ids that end a completion, such as [tokenizer.eos_token_id]")

    def __call__(
        self,
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return the rewards; an error where TRL passes no ids."""
        if completion_ids is None:
            raise InputError("AccuracyReward needs completion_ids, which TRL passes; use accuracy_reward without them")
        finish = ["stop" if len(ids) and int(ids[-1]) in self.end_ids else "length" for ids in completion_ids]
        return accuracy_reward(completions, **{**columns, "finish": finish})


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    ungradable: float = 0.0,
    **_: Any,
) -> float:
    """verl: the score of one response under the rules of its data source."""
    return _number(solution_str, ground_truth, str(data_source), ungradable, _was_cut(extra_info))


def correct_answer(
    completion: Completion,
    answer: Any,
    info: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    *,
    ungradable: float = 0.0,
    **_: Any,
) -> float:
    """verifiers: the reward of one completion; ``info["source"]`` names the data set."""
    return _number(completion, answer, str((info or {}).get("source", "math")), ungradable, _last_was_cut(state))


def _was_cut(said: Any) -> bool:
    """True where a mapping or an object says that a token budget ended the text; False where nothing is said."""
    value = said.get if isinstance(said, Mapping) else lambda name: getattr(said, name, None)
    reason = value("finish_reason") or value("finish")
    if reason:
        return str(reason) in ("length", "max_tokens")
    return any(value(name) is True for name in ("is_truncated", "truncated"))


def _last_was_cut(state: Mapping[str, Any] | None) -> bool:
    """True where the last message of a verifiers rollout was cut: its state's last step or response says so."""
    if not state:
        return False
    if steps := state.get("trajectory"):
        return _was_cut(steps[-1])
    if responses := state.get("responses"):
        choices = getattr(responses[-1], "choices", None) or [None]
        return _was_cut(choices[-1])
    return _was_cut(state)


def completion_text(completion: Completion) -> str:
    """Return the text of a completion; of a conversation the last assistant message, parts of text joined."""
    if completion is None or isinstance(completion, str):
        return completion or ""
    spoken = [message.get("content") or "" for message in completion if message.get("role") == "assistant"]
    last = spoken[-1] if spoken else ""
    if isinstance(last, str):
        return last
    return "".join(str(part.get("text") or "") for part in last if isinstance(part, Mapping))


def reference_text(value: Any) -> str | None:
    """Return a reference answer out of a data set's cell as text; None for a cell that holds none.

    ``None``, NaN, pandas' NA and blanks are none. A whole number in floating point, which a column with gaps makes of
    ``7``, is that number. A list of one is its item; several, or a mapping, name no single reference.
    """
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return reference_text(value[0]) if len(value) == 1 else None
    if value is None or isinstance(value, (bool, Mapping, bytes)):
        return None
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    text = str(value).strip()
    return None if not text or str(type(value).__name__) in ("NAType", "NaTType") else text


def _number(completion: Completion, reference: Any, source: str, ungradable: float, cut: bool) -> float:
    gold = reference_text(reference)
    score = None if gold is None else _score(grade(completion_text(completion), gold, source=source, cut=cut))
    return ungradable if score is None else score


def _score(result: Grade) -> float | None:
    if result.method == GOLD_UNREADABLE:
        return None
    return 1.0 if result.correct else 0.0
