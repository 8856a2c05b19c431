"""`Choice`: one answer, of one trajectory or by the votes of several. Used by `chat_wire` and `responses_wire`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfcorrect.serving.answers import Reader, finish_reason, path_of
from selfcorrect.serving.asking import Order
from selfcorrect.serving.sources import Finished, Usage


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: its texts, why it ended, and the extension object ``selfcorrect``."""

    reader: Reader
    finish_reason: str
    path: dict[str, Any]


def chosen(order: Order, readers: Sequence[Reader], finished: Sequence[Finished]) -> tuple[list[Choice], Usage]:
    """Return the answer of each choice, and the tokens of all trajectories."""
    seeds = [asked.seed for asked in order.settings()]
    opening = finished[0].usage.opening  # the conversation is read once
    total = Usage(
        prompt=opening + sum(one.usage.prompt - opening for one in finished),
        completion=sum(one.usage.completion for one in finished),
        reasoning=sum(one.usage.reasoning for one in finished),
        opening=opening,
    )
    choices = []
    for start in range(0, len(finished), order.votes):
        places = range(start, start + order.votes)
        winner, votes = vote([finished[place] for place in places])
        place = start + winner
        path = path_of(finished[place], seeds[place])
        if order.votes > 1:
            path["votes"] = votes
        choices.append(Choice(readers[place], finish_reason(finished[place]), path))
    return choices, total


def vote(finished: Sequence[Finished]) -> tuple[int, list[dict[str, Any]]]:
    """Return the place of the first trajectory with the most frequent answer, and all answers with their votes.

    Two answers are the same where the grader says so. A trajectory without an answer, or whose last attempt was cut,
    has no vote; where none has one, the first trajectory is taken.
    """
    if len(finished) == 1:
        return 0, []
    from selfcorrect.grading import grade

    groups: list[list[int]] = []
    for place, one in enumerate(finished):
        answer = one.trajectory.final.answer
        if answer is None:
            continue
        text = f"\\boxed{{{answer}}}"
        for group in groups:
            known = finished[group[0]].trajectory.final.answer
            if known == answer or grade(text, known or "", source="math").correct:
                group.append(place)
                break
        else:
            groups.append([place])
    groups.sort(key=len, reverse=True)
    counted = [{"answer": finished[group[0]].trajectory.final.answer, "votes": len(group)} for group in groups]
    return (groups[0][0] if groups else 0), counted
