"""How a trajectory grows: `TrajectoryBuilder` is the one place where token ids, spans and message ends are joined.

The correction loop, RL rollouts, the reader of long-CoT completions and the training rows all append through it, so
that the same tokens make the same record everywhere.

Example, a two-turn trajectory of token ids (``7`` ends a message; the user's message is ``7 3 4`` and the opening of
the next one)::

    builder = TrajectoryBuilder(problem, opening=(1, 2))
    builder.take(Role.ATTEMPT, (10, 11))
    builder.take(Role.EVALUATION, (12,))
    builder.end_message(7)
    builder.say((7, 3, 4))
    builder.take(Role.REVISION, (20,))
    builder.end_message(7)
    # token_ids 1 2 | 10 11 | 12 | 7 3 4 | 20, message ends at 5 and 9
    # whole():  1 2 | 10 11 | 12 7 | 3 4 | 20 7
"""

from __future__ import annotations

from collections.abc import Sequence

from selfcorrect.types import (
    Attempt,
    MessageEnd,
    Problem,
    Role,
    SelfEvaluation,
    Span,
    StopReason,
    Trajectory,
    with_ends,
)


class TrajectoryBuilder:
    """Grows one trajectory part by part; ``attempts`` and ``evaluations`` are appended to by its owner."""

    def __init__(self, problem: Problem, opening: Sequence[int], seed: int | None = None) -> None:
        self.problem, self.seed = problem, seed
        self.token_ids: tuple[int, ...] = tuple(opening)
        self.logprobs: tuple[float, ...] = (0.0,) * len(self.token_ids)
        self.spans: list[Span] = [Span(Role.EXTERNAL, 0, len(self.token_ids), sampled=False)]
        self.ends: list[MessageEnd] = []
        self.attempts: list[Attempt] = []
        self.evaluations: list[SelfEvaluation] = []

    @property
    def sampled_tokens(self) -> int:
        """How many tokens the policy generated so far."""
        return sum(span.end - span.start for span in self.spans if span.sampled)

    @property
    def role(self) -> Role:
        """The role of the next answer: an attempt, or a revision after the first."""
        return Role.REVISION if self.attempts else Role.ATTEMPT

    def take(self, role: Role, ids: Sequence[int], logprobs: Sequence[float] = (), *, sampled: bool = True) -> None:
        """Append a part of the assistant's message; without ``logprobs`` they are 0.0, as for tokens never sampled."""
        start = len(self.token_ids)
        self.token_ids += tuple(ids)
        self.logprobs += tuple(logprobs) or (0.0,) * len(ids)
        self.spans.append(Span(role, start, len(self.token_ids), sampled))

    def end_message(self, token_id: int | None, logprob: float = 0.0) -> None:
        """Note the token that ended the message, None where none did (it was cut, or goes on)."""
        if token_id is not None:
            self.ends.append(MessageEnd(len(self.token_ids), token_id, logprob))

    def say(self, reply: Sequence[int]) -> None:
        """Append a user message as `ChatCodec.reply` writes it: the end of the message before comes first.

        A message that the policy ended with another stop id is ended by the template's in what follows, and that
        token is not the policy's.
        """
        here = len(self.token_ids)
        if self.ends and self.ends[-1].position == here and self.ends[-1].token_id != reply[0]:
            self.ends.pop()
        self.take(Role.EXTERNAL, reply, sampled=False)

    def drop_unanswered(self) -> None:
        """Remove a last user message to which no answer could be sampled."""
        if len(self.spans) > 1 and self.spans[-1].role is Role.EXTERNAL:
            start = self.spans.pop().start
            self.token_ids, self.logprobs = self.token_ids[:start], self.logprobs[:start]

    def whole(self) -> tuple[tuple[int, ...], tuple[float, ...], tuple[Span, ...]]:
        """Return ids, log-probabilities and spans as `Trajectory.whole` does, of what is there so far."""
        return with_ends(self.token_ids, self.logprobs, self.spans, self.ends)

    def build(self, stop: StopReason) -> Trajectory:
        """Return the record; ``stop`` says how it ended. Without an attempt it holds an empty one."""
        return Trajectory(
            problem=self.problem,
            attempts=tuple(self.attempts) or (Attempt(""),),
            evaluations=tuple(self.evaluations),
            stop=stop,
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            spans=tuple(self.spans),
            ends=tuple(self.ends),
            seed=self.seed,
        )
