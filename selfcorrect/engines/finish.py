"""Where a sample ends, and what is known of it: the part of the protocol that foreign engines leave to us.

vLLM and servers stop at ids and texts by their own rules and give log-probabilities of their own kind. `finished`
turns what they say into a `Sample` by the rules of `SampleRequest`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.errors import EngineError

UNKNOWN = -math.inf
"""The log-probability of what an engine could not tell."""

Decode = Callable[[Sequence[int]], str]


def finished(
    request: SampleRequest,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    watched: Sequence[tuple[float, ...]],
    *,
    stopped: bool,
    decode: Decode,
    stop_id: int | None = None,
) -> Sample:
    """Return the sample that an engine's raw output stands for.

    ``token_ids`` may end with the stop id and may run past the token that completes a stop text; ``logprobs`` and
    ``watched`` (both at temperature 1, before any truncation; empty where unknown) are aligned with them. ``stopped``
    is False where the token limit ended it, ``stop_id`` the id that is known to have ended it. A log-probability at
    another temperature than 0 and 1 cannot be had from one at temperature 1: it is `UNKNOWN`.

    Raises EngineError for more tokens than were asked for, and for an early end that nothing explains.
    """
    ids = tuple(token_ids)
    known = request.temperature in (0, 1) and len(logprobs) == len(ids)
    scores = tuple(logprobs) if known else (UNKNOWN,) * len(ids)
    stop_logprob = UNKNOWN
    if stopped and ids and ids[-1] in request.stop_ids:
        stop_id, stop_logprob = ids[-1], scores[-1]
        ids = ids[:-1]
    if len(ids) > request.max_tokens:
        raise EngineError(f"asked for at most {request.max_tokens} tokens, got {len(ids)}")
    finish = "stop" if stopped else "length"
    end = text_end(ids, request.stop_texts, decode)
    if end is not None:
        ids, finish = ids[:end], "text"
    elif stopped and stop_id not in request.stop_ids:
        raise EngineError(
            f"a sample of {len(ids)} tokens ended before its limit of {request.max_tokens}, at none of the stop ids "
            f"{list(request.stop_ids)} and stop texts {list(request.stop_texts)} (it says: {stop_id!r})"
        )
    unknown = (UNKNOWN,) * len(request.watch_ids)
    return Sample(
        token_ids=ids,
        logprobs=scores[: len(ids)],
        finish=finish,
        stop_id=stop_id if finish == "stop" else None,
        stop_logprob=stop_logprob if finish == "stop" else 0.0,
        watched=(tuple(watched) or (unknown,) * len(ids))[: len(ids)] if request.watch_ids else (),
    )


def certain(request: SampleRequest, token_ids: Sequence[int], decode: Decode) -> int:
    """Return how many of the ids that an engine has given so far are in the sample, whatever follows.

    Those that complete a stop text are, those after it and a stop id are not.
    """
    end = len(token_ids) - (bool(token_ids) and token_ids[-1] in request.stop_ids)
    stopped = text_end(token_ids[:end], request.stop_texts, decode)
    return min(end, request.max_tokens) if stopped is None else stopped


def text_end(ids: Sequence[int], texts: Sequence[str], decode: Decode) -> int | None:
    """Return the least n such that ``decode(ids[:n])`` contains one of the texts; None where none does."""
    reached = lambda end: any(text in decode(ids[:end]) for text in texts)
    if not texts or not reached(len(ids)):
        return None
    return bisect.bisect_left(range(len(ids)), True, key=reached)
