"""Where the time of a run of RL goes, by hand; and what trackers are sent of its trajectories."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from selfcorrect.errors import RecipeError
from selfcorrect.runs.progress import Meter, duration_text, meter
from selfcorrect.train.grpo import GrpoRecipe, run
from selfcorrect.train.rl import trackers
from selfcorrect.train.rl.dashboard import dashboard, dashboard_line, shares, time_summary
from selfcorrect.train.rl.trackers import COLUMNS, Sampled, as_markdown, as_rows
from selfcorrect.types import Attempt, Grade, Outcome, Problem, SelfEvaluation, StopReason, Trajectory, Verdict


def row(**values: Any) -> dict[str, Any]:
    measured = {"sampled_at": 0, "waited_s": 6.0, "handover_s": 1.0, "grading_s": 0.5, "update_s": 2.5}
    return measured | {"sampled_tokens": 600, "trained_tokens": 500, "tokens_per_s/sampled": 100.0} | values


LATER = {"update_s": 2.5}
"""A further optimizer step of the same rollout."""


def test_shares_of_time_and_rates_by_hand() -> None:
    assert shares([row()]) == {"sampling": 60.0, "grading": 5.0, "update": 25.0, "handover": 10.0}
    first = dashboard([row()], steps_per_rollout=1, eta_s=12.0)
    assert first == {
        "time/sampling": 60.0,
        "time/grading": 5.0,
        "time/update": 25.0,
        "time/handover": 10.0,
        "tokens_per_s/trained": 200.0,
        "eta_s": 12.0,
    }
    second = dashboard(
        [row(), LATER, row(waited_s=3.5, handover_s=1.0, grading_s=0.5)], steps_per_rollout=2, eta_s=None
    )
    assert (second["time/update"], second["time/sampling"]) == (
        50.0,
        35.0,
    )  # with the step that ended the rollout before
    assert second["tokens_per_s/trained"] == 100.0  # half of the tokens in each of two steps
    assert shares([{"update_s": 0.0}]) == {"sampling": None, "grading": None, "update": None, "handover": None}
    assert dashboard([row(update_s=0.0)], 1, None)["tokens_per_s/trained"] is None


def test_the_summary_is_over_all_rows() -> None:
    rows = [row(), LATER, row(waited_s=4.0, sampled_tokens=200, **{"tokens_per_s/sampled": 50.0}), LATER]
    found = time_summary(rows)
    assert found["time"] == {"sampling": 43.5, "grading": 4.3, "update": 43.5, "handover": 8.7}
    assert found["tokens_per_s"] == {"sampled": 80.0, "trained": 100.0}  # 800 tokens in 10 s, 1,000 in 10 s
    assert time_summary([]) == {}
    assert time_summary([*rows, {"sampled_at": 3, "rollout_s": 1.0, "update_s": 1.0}]) == {}  # of a version before


def test_the_line_of_a_step() -> None:
    found = row() | dashboard([row(**{"tokens_per_s/sampled": 1234.5})], 1, None) | {"tokens_per_s/sampled": 1234.5}
    assert dashboard_line(found) == (
        "1,234 tokens/s sampled, 200 trained; time: 60% sampling, 5% grading, 25% update, 10% hand-over"
    )
    assert dashboard_line({}) == "– tokens/s sampled, – trained"


def test_durations() -> None:
    assert [duration_text(seconds) for seconds in (0, 599, 600, 7199, 7201, 90_000)] == [
        "0 s", "599 s", "10 min", "2 h 00 min", "2 h 00 min", "25 h 00 min",
    ]  # fmt: skip


@pytest.mark.parametrize("display", [False, True])
def test_what_was_done_before_an_interruption_is_in_no_rate(
    monkeypatch: pytest.MonkeyPatch, display: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("selfcorrect.runs.progress.time.monotonic", lambda: now[0])
    monkeypatch.setenv("FORCE_COLOR", "1") if display else monkeypatch.delenv("FORCE_COLOR", raising=False)
    with meter("grpo", 1000) as progress:
        assert progress.left_s() is None
        progress.begin_at(900)
        assert progress.left_s() is None
        assert progress.line() == "grpo: 900 of 1,000, after 0 s"
        now[0] += 50.0
        assert progress.left_s(more=5) == 950.0
        progress.advance(5)
        assert progress.left_s() == 950.0
        assert progress.line() == "grpo: 905 of 1,000, 10.0 s each, about 16 min left, after 50 s"
    capsys.readouterr()


def test_a_parent_process_is_told_where_a_resumed_run_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SELFCORRECT_PROGRESS", "json")
    Meter("grpo", 10, None).begin_at(4)
    assert json.loads(capsys.readouterr().out) == {"progress": "grpo", "done": 4, "total": 10, "note": ""}


# --- trajectories as text ---------------------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script> <img src='http://x/y.png'> ![p](http://x/y.png) [l](javascript:z)\n```\n# head\n"
    "````\n~~~\n| a | b |\n|---|---|\n\x1b]0;owned\x07\u202e\x02klzzwxh:0001\x03 & &lt; * _ \\ $x$"
)


def hostile_path() -> Trajectory:
    wrong = Grade(Outcome.WRONG)
    return Trajectory(
        Problem("`p`|\n# x", HOSTILE, "3", "arithmetic"),
        (Attempt(HOSTILE, "4", wrong), Attempt(HOSTILE, "3", None)),
        (SelfEvaluation(HOSTILE, Verdict.WRONG), SelfEvaluation("", None)),
        StopReason.HORIZON,
    )


class Elements(HTMLParser):
    """Collects the elements of a page, and the text in its blocks of code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.blocks: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.add(tag)
        if tag == "pre":
            self._inside = True
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.blocks[-1] += data


def test_what_a_model_wrote_is_text_where_tensorboard_renders_it() -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    page = Elements(markdown_to_safe_html(as_markdown([Sampled(hostile_path(), 0.5, 7)] * 2)))
    assert page.found == {"p", "strong", "code", "pre"}
    assert len(page.blocks) == 2 * 5
    assert (
        page.blocks[0]
        == HOSTILE.replace("\x1b", "\\x1b")
        .replace("\x07", "\\x07")
        .replace("\u202e", "\\u202e")
        .replace("\x02", "\\x02")
        .replace("\x03", "\\x03")
        + "\n"
    )


def test_the_rows_of_a_table() -> None:
    (found,) = as_rows([Sampled(hostile_path(), None, 7)])
    named = dict(zip(COLUMNS, found, strict=True))
    assert (named["sampled_at"], named["reward"]) == (7, None)
    assert "[attempt, wrong]\n<script>" in named["trajectory"]
    assert "[self-evaluation, verdict wrong]" in named["trajectory"]
    assert "[revision, not graded]" in named["trajectory"]
    assert not set("".join(map(str, found))) & set("\x1b\x07\u202e\x02\x03")


def test_tensorboard_is_sent_trajectories_and_the_dashboard(recipe: GrpoRecipe, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(replace(recipe, trainer={"report_to": "tensorboard"}, logged_trajectories=3), tmp_path)
    events = EventAccumulator(str(tmp_path / "checkpoints/grpo/tensorboard"))
    events.Reload()
    assert events.SummaryMetadata("trajectories/text_summary").plugin_data.plugin_name == "text"
    texts = events.Tensors("trajectories/text_summary")
    assert [event.step for event in texts] == [1, 2]
    shown = [event.tensor_proto.string_val[0].decode() for event in texts]
    assert all(text.count("**problem**") == 3 and "\\boxed{" in text for text in shown)
    assert ["sampled at step 0" in shown[0], "sampled at step 1" in shown[1]] == [True, True]
    rows = [json.loads(line) for line in (tmp_path / "checkpoints/grpo/metrics.jsonl").read_text().splitlines()]
    for name in ("time/sampling", "time/update", "tokens_per_s/sampled", "tokens_per_s/trained"):
        logged = [event.value for event in events.Scalars(f"train/path/{name}")]
        assert logged == pytest.approx([row[name] for row in rows], rel=1e-4, abs=1e-5)
    assert all(
        row["time/sampling"] + row["time/grading"] + row["time/update"] + row["time/handover"] > 99.9 for row in rows
    )
    assert rows[0]["eta_s"] > 0 == rows[1]["eta_s"]
    done = json.loads((tmp_path / "checkpoints/grpo/DONE").read_text())
    assert done["tokens_per_s"]["sampled"] > 0
    assert sum(done["time"].values()) == pytest.approx(100, abs=0.3)


def test_no_trajectories_are_sent_where_none_are_wanted(recipe: GrpoRecipe, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(replace(recipe, trainer={"report_to": "tensorboard"}, logged_trajectories=0), tmp_path)
    events = EventAccumulator(str(tmp_path / "checkpoints/grpo/tensorboard"))
    events.Reload()
    assert not [tag for tag in events.Tags()["tensors"] if tag.startswith("trajectories")]
    with pytest.raises(RecipeError, match="logged_trajectories is at least 0"):
        replace(recipe, logged_trajectories=-1)


def test_what_wandb_and_trackio_are_asked() -> None:
    """Their interface as it is used here; tests/train/rl/test_trackers.py runs them where they are installed."""
    asked: list[Any] = []
    module: Any = ModuleType("tracker")
    module.log = asked.append
    module.Table = lambda columns, data: ("table", columns, data)
    module.Markdown = lambda text: ("markdown", text)
    sampled = [Sampled(hostile_path(), 1.0, 3)]
    trackers._to_wandb(module, sampled, 5)
    trackers._to_trackio(module, sampled, 5)
    assert asked == [
        {"trajectories": ("table", list(COLUMNS), as_rows(sampled)), "train/global_step": 5},
        {"trajectories": ("markdown", as_markdown(sampled)), "train/global_step": 5},
    ]


def test_trackers_are_those_of_the_trainers_own_callbacks() -> None:
    from transformers.integrations import TensorBoardCallback

    tensorboard = TensorBoardCallback(tb_writer=SimpleNamespace(add_text=None))  # type: ignore[arg-type]
    handler = SimpleNamespace(callbacks=[tensorboard])
    assert list(trackers.trackers(SimpleNamespace(callback_handler=handler))) == ["tensorboard"]
    tensorboard.tb_writer = None  # of a process that does not write
    assert trackers.trackers(SimpleNamespace(callback_handler=handler)) == {}
