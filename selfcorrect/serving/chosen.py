"""`Choice`: one answer, of one trajectory or by the votes of several. Used by `chat_wire` and `responses_wire`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfcorrect.correction.votes import vote
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
        place, shares = start, None
        if order.votes > 1:
            outcome = vote([finished[place].trajectory for place in places])
            shares, place = outcome.shares, start + outcome.place
        path = path_of(finished[place], seeds[place])
        if shares is not None:
            path["votes"] = [{"answer": share.answer, "votes": len(share.places)} for share in shares]
        choices.append(Choice(readers[place], finish_reason(finished[place]), path))
    return choices, total
