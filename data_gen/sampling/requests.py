"""How each part is asked for: `RequestBuilder` builds the prompts of the separate requests (method.md, section 2).

A model that was fine-tuned on joined trajectories writes all parts itself (``in_path``): it is prompted with the
trajectory so far, and what it writes is cut where the next part begins (`RequestBuilder.cut`). So preference pairs come
from the policy itself.

A weak model that does not follow the instructions zero-shot is shown worked chats first (``examples``): they
stand before the problem while sampling and are not part of the rows that are trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.correction.parsing import parse_path, token_position
from selfcorrect.engines import Sample
from selfcorrect.errors import RecipeError, nearest
from selfcorrect.runs.recipes import build_recipe, read_yaml
from selfcorrect.types import Message, Problem, Verdict
from selfcorrect.verdicts import MARKS, YES_NO

RECIPES = Path(__file__).parents[1] / "recipes"
Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WorkedExample:
    """One worked chat: a solution, and what followed it where a later part is shown."""

    question: str
    solution: str
    evaluation: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Examples:
    """Worked chats to show before each kind of request."""

    solve: tuple[WorkedExample, ...] = ()
    evaluate: tuple[WorkedExample, ...] = ()
    revise: tuple[WorkedExample, ...] = ()
    improve: tuple[WorkedExample, ...] = ()  # revision without a verdict (prompts.INTRINSIC)


def load_examples(name: str) -> Examples:
    """Return shipped examples (``gsm8k``) or those of a YAML file; none for an empty name. Raises RecipeError."""
    if not name:
        return Examples()
    shipped = {path.stem.removeprefix("examples-"): path for path in RECIPES.glob("examples-*.yaml")}
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else shipped.get(name)
    if path is None:
        raise RecipeError(
            f"no worked examples {name!r}{nearest(name, shipped)}; shipped: {', '.join(shipped)}; or give a .yaml file"
        )
    return build_recipe(Examples, read_yaml(path, "worked examples"), where=str(path))


class RequestBuilder:
    """Prompts as token ids: the opening of a problem, then sampled ids and template ids appended, never re-encoded.

    In the two-turn format the verdict is stated at the end of the attempt (``stated``) and the deterministic
    user message asks for the revision; in long-CoT each part has its own request, unless it is written ``in_path``.
    """

    def __init__(self, codec: ChatCodec, examples: Examples, two_turn: bool = False, in_path: bool = False) -> None:
        self.codec = codec
        self.two_turn, self.in_path = two_turn, in_path
        self.joint: Ids = codec.encode(prompts.SEPARATOR) if not (two_turn or in_path) else ()  # between joined parts
        self._evaluate = () if in_path else codec.reply(prompts.EVALUATE)
        judged_wrong = prompts.two_turn_reply(Verdict.WRONG) if two_turn else prompts.REVISE
        self._revise = () if in_path and not two_turn else codec.reply(judged_wrong)
        self.stop_texts: tuple[str, ...] = ()  # of attempts and revisions
        if in_path:
            self.stop_texts = (prompts.SELF_QUESTION,) if two_turn else tuple(MARKS.values())
        self._shown = {
            part: [message for example in getattr(examples, part) for message in _chat(example, part, two_turn)]
            for part in ("solve", "evaluate", "revise", "improve")
        }
        self._opening = lru_cache(maxsize=4096)(self._open)

    def attempt(self, question: str) -> Ids:
        """Return the prompt of a first attempt."""
        return self._opening("solve", question)

    def evaluation(self, question: str, attempt: Ids) -> Ids:
        """Return the prompt of a self-evaluation of an attempt."""
        return self._opening("evaluate", question) + attempt + self._evaluate

    def revision(self, question: str, attempt: Ids, evaluation: Ids) -> Ids:
        """Return the prompt of a revision after a self-evaluation that says wrong."""
        between = evaluation if self.two_turn else self._evaluate + evaluation
        return self._opening("revise", question) + attempt + between + self._revise

    def unjudged_revision(self, question: str, attempt: Ids) -> Ids:
        """Return the prompt of a revision right after an attempt, which nobody has judged."""
        return self._opening("improve", question) + attempt + self.codec.reply(prompts.INTRINSIC)

    def stated(self, verdict: Verdict, after: Ids = ()) -> Ids:
        """Return the ids of a verdict that nobody sampled: the bare mark, or the two-turn answer to itself.

        ``after`` is what the attempt's own sample went on with: in the two-turn format, the question to itself (a token
        that says more than the question is not kept).
        """
        if self.two_turn and self.codec.decode(after).endswith(prompts.SELF_QUESTION):
            return after + self.codec.encode(answer_text(verdict))
        separator = prompts.SEPARATOR if self.in_path and not self.two_turn else ""
        return self.codec.encode(separator + stated_text(verdict, self.two_turn))

    def cut(self, sample: Sample) -> tuple[Ids, Ids]:
        """Return the ids of a sampled attempt or revision, and what the sample went on with (in-path only)."""
        ids = sample.token_ids
        if not self.in_path:
            return ids, ()
        if not self.two_turn:
            path = parse_path(Problem("", "", "", ""), self.codec, (), sample, horizon=1)
            end = path.spans[1].end
        else:
            solution, asked, _ = self.codec.decode(ids).partition(prompts.SELF_QUESTION)
            end = token_position(self.codec, ids, len(solution.rstrip())) if asked else len(ids)
        return ids[:end], ids[end:]

    def _open(self, part: str, question: str) -> Ids:
        return self.codec.opening([*self._shown[part], *prompts.solve_messages(question)])


def stated_text(verdict: Verdict, two_turn: bool) -> str:
    """Return the text of a verdict without reasoning: the mark, or the two-turn question and its answer."""
    return f"\n\n{prompts.SELF_QUESTION}{answer_text(verdict)}" if two_turn else MARKS[verdict]


def answer_text(verdict: Verdict) -> str:
    """Return the answer to the two-turn question."""
    return f" {YES_NO[verdict]}."


def _chat(example: WorkedExample, part: str, two_turn: bool) -> list[Message]:
    """Return a worked example as the chat in which this part is asked for."""
    turns = [(prompts.solve(example.question), example.solution)]
    if part == "revise" and two_turn:
        turns = [(prompts.solve(example.question), example.solution + stated_text(Verdict.WRONG, two_turn))]
        turns.append((prompts.two_turn_reply(Verdict.WRONG), example.revision))
    elif part in ("evaluate", "revise"):
        turns.append((prompts.EVALUATE, example.evaluation))
        turns += [(prompts.REVISE, example.revision)] if part == "revise" else []
    elif part == "improve":
        turns.append((prompts.INTRINSIC, example.revision))
    return [
        message
        for user, assistant in turns
        for message in ({"role": "user", "content": user}, {"role": "assistant", "content": assistant})
    ]
