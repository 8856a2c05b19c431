"""Where samples end: `finished` and `text_end` against their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.engines.finish import finished, text_end
from selfcorrect.errors import EngineError

WORDS = ("a", "b", "ab", "c", "", "END")
STOP = 5


def decode(ids: Sequence[int]) -> str:
    return "".join(WORDS[token] for token in ids)


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.sampled_from(["ab", "ca", "aab", "cc"]), max_size=2))
def test_text_end_is_the_least_prefix_that_contains_a_text(ids, texts) -> None:
    ends = [n for n in range(len(ids) + 1) if any(text in decode(ids[:n]) for text in texts)]
    assert text_end(ids, texts, decode) == (ends[0] if ends else None)


def end(ids: Sequence[int], stopped: bool, stop_id: int | None = None, **settings: object) -> Sample:
    request = SampleRequest((1,), **({"max_tokens": 4, "stop_ids": (STOP,), "stop_texts": ("ab",)} | settings))  # type: ignore[arg-type]
    scores = [-float(token) for token in ids]
    watched = [(score, score) for score in scores]
    return finished(request, ids, scores, watched, stopped=stopped, stop_id=stop_id, decode=decode)


def test_the_stop_id_is_taken_off_and_scored() -> None:
    assert end([0, 3, STOP], True) == Sample((0, 3), (-0.0, -3.0), "stop", STOP, -5.0)
    assert end([0, 3], True, stop_id=STOP) == Sample((0, 3), (-0.0, -3.0), "stop", STOP, -math.inf)
    assert end([0, 3, 3, 3, STOP], True).token_ids == (0, 3, 3, 3), "the stop id does not count against the limit"


def test_a_stop_text_ends_the_sample_at_the_token_that_completes_it() -> None:
    assert end([0, 1, 3, 3], True) == Sample((0, 1), (-0.0, -1.0), "text")
    assert end([3, 0, 1], False, max_tokens=3).finish == "text", "also where the limit was reached with it"
    assert end([3, 2, STOP], True).finish == "text", "and where the stop id came first after it"


def test_length_watched_ids_and_other_temperatures() -> None:
    assert end([3, 3, 3, 3], False) == Sample((3, 3, 3, 3), (-3.0,) * 4, "length")
    assert end([0, 3, STOP], True, watch_ids=(7, 8)).watched == ((-0.0, -0.0), (-3.0, -3.0))
    hot = end([0, 3, STOP], True, temperature=0.7, watch_ids=(7, 8))
    assert hot.logprobs == (-math.inf, -math.inf)
    assert hot.stop_logprob == -math.inf
    assert hot.watched == ((-0.0, -0.0), (-3.0, -3.0))


def test_what_nothing_explains_is_an_error() -> None:
    with pytest.raises(EngineError, match="at none of the stop ids"):
        end([0, 3], True)
    with pytest.raises(EngineError, match="at none of the stop ids"):
        end([0, 3], True, stop_id=3)
    with pytest.raises(EngineError, match="asked for at most 4 tokens, got 5"):
        end([3] * 5, False)
