"""The live table, the events for a parent process, and the line for a log."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from rich.console import Console

from selfcorrect.data_gen.classes import BaseSample, Candidate, Continuation, Kind, PartOutcome, SampledPart, Selection
from selfcorrect.data_gen.progress.live import LiveTable, filled, wanted
from selfcorrect.data_gen.sampling.passes import GatheredRows
from selfcorrect.runs.progress import EVENTS
from selfcorrect.types import Problem


def candidate(kind: Kind, index: int) -> Candidate:
    base = BaseSample(Problem("p", "q", "1", "test"), 0, index, index)
    return Candidate(kind, base, SampledPart(base.id, "attempts", (1,), "a", PartOutcome.WRONG), Continuation(None))


def followed(board: LiveTable) -> LiveTable:
    """A run under way: 30 attempts, a third of 12 tries of D1 kept, of a quota of 10."""
    gathered = GatheredRows()
    gathered.used["attempts"] = Counter({"right": 18, "wrong": 12})
    gathered.used["D1"] = Counter({"tried": 12, "served": 4})
    selection = Selection({Kind.D1: 10, Kind.D2: 0, Kind.D3: 5})
    board.opened(gathered, {"attempts": 7, "evaluations": 0})
    board.begins("rows", selection)
    for _ in range(30):
        board.seen("attempts", 40)
    for index in range(4):
        board.committed(len(selection.offer([candidate(Kind.D1, index)])))
    return board


def test_the_table_shows_rates_acceptance_quotas_and_time_left() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(followed(LiveTable(live=True)).table())
    lines = [line.split() for line in console.export_text().splitlines()]
    (attempts,) = [line for line in lines if line[:1] == ["attempts"]]
    assert attempts[1:4] == ["30", "(+7", "resumed)"]
    assert attempts[-1] == "60%"
    samples_s, tokens_s = (float(value.replace(",", "")) for value in attempts[4:6])
    assert tokens_s == pytest.approx(40 * samples_s, rel=0.05)
    (d1,) = [line for line in lines if line[:1] == ["D1"]]
    assert d1[1:4] == ["4", "10", "33%"]
    assert d1[-1] == "s", "time left"
    assert not [line for line in lines if line[:1] == ["D2"]], "a class that is not wanted"
    (d3,) = [line for line in lines if line[:1] == ["D3"]]
    assert d3[1:] == ["0", "5", "–", "?"]


def test_a_parent_process_gets_events(monkeypatch, capsys) -> None:
    monkeypatch.setenv(EVENTS, "json")
    followed(LiveTable(live=False))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = [event for event in events if event["progress"] == "rows"]
    assert rows[0]["total"] == 15
    assert rows[0]["note"] == "D1 1/10 · D2 0/0 · D3 0/5"
    assert {event["progress"] for event in events} == {"attempts", "rows"}


def test_a_log_gets_a_line() -> None:
    line = followed(LiveTable(live=False)).line()
    assert "30 samples" in line
    assert "rows: D1 4/10" in line
    assert "time left about" in line


def test_a_class_without_quota_has_no_total() -> None:
    selection = Selection({Kind.D1: None, Kind.D3: 5})
    assert filled(selection) == "D1 0/- · D3 0/5"
    assert wanted(selection) is None
