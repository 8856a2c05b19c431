"""`traces.jsonl` of verifiers v1: data/traces.jsonl is what vf-eval 0.4.0 wrote of our environment (tests/doors)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.errors import DataError
from selfcorrect.logs import read_log

TRACES = Path(__file__).parent / "data" / "traces.jsonl"


def test_a_run_of_our_environment() -> None:
    log = read_log(TRACES)
    assert (log.tool, log.task, log.model, log.metric) == ("verifiers", "selfcorrect-math", "toy", "reward")
    assert log.dropped == {}
    assert [row.question for row in log.responses] == [f"What is {n} + {n}?" for n in range(2, 7)]
    assert [row.reference for row in log.responses] == ["4", "6", "8", "10", "12"]
    assert [row.score for row in log.responses] == [1.0, 1.0, 0.0, 0.0, 1.0]
    # The last attempt, though the model's last message is a self-evaluation in the first and the fourth.
    assert [row.text[-3] for row in log.responses] == ["4", "6", "9", "1", "2"]
    assert [row.score for row in read_log(TRACES, "turn1").responses] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert [row.score for row in read_log(TRACES, "final_answer").responses] == [1.0, 1.0, 0.0, 0.0, 1.0]


def episode(**changes: Any) -> dict[str, Any]:
    nodes = [
        {"message": {"role": "user", "content": "2+2?"}},
        {"parent": 0, "sampled": True, "message": {"role": "assistant", "content": [{"type": "text", "text": "4"}]}},
    ]
    trace = {
        "nodes": nodes,
        "calls": [{"node": 1, "finish_reason": "length"}],
        "rewards": {"right": {"score": 1.0, "weight": 2.0}, "short": {"score": 0.5}},
    }
    return {"ok": True, "task": {"key": "k", "data": {"prompt": "2+2?", "answer": "4"}}, "traces": [trace]} | changes


def traces(folder: Path, *episodes: Any) -> Path:
    place = folder / "traces.jsonl"
    place.write_text("".join(json.dumps(one) + "\n" for one in episodes))
    return place


def test_what_an_episode_may_look_like(tmp_path: Path) -> None:
    unscored = episode(traces=[{"nodes": [], "rewards": {"right": None}}, {"nodes": []}])
    log = read_log(traces(tmp_path, episode(), episode(), episode(ok=False), episode(traces=[]), unscored))
    assert log.dropped == {"episode ended in an error": 1, "episode without a reward": 1}
    one, again, without = log.responses
    assert (one.id, one.question, one.reference, one.text, one.cut) == ("k", "2+2?", "4", "4", True)
    assert (one.score, one.repeat, again.repeat) == (2.5, 0, 1)
    assert (without.score, without.text) == (None, "")


def test_a_row_that_is_no_episode_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"traces\.jsonl:2: not an episode"):
        read_log(traces(tmp_path, episode(), {"traces": 3}))
