"""The report page: what it shows, what it shows as missing, and that hostile model text stays text."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.errors import DataError
from selfcorrect.eval.page.charts import Reliability, Series, curve_panel, ticks
from selfcorrect.eval.page.page import BUDGET_FIELDS, RESULT_FIELDS, write_report
from selfcorrect.eval.page.values import flat, show_p, show_short, show_time, show_value
from selfcorrect.eval.page.viewer import CLASSES, inert_json, transition
from selfcorrect.eval.results import RowScores
from selfcorrect.eval.tables.columns import COLUMNS
from selfcorrect.metrics import score
from selfcorrect.printing import clean
from selfcorrect.runs.jsonl import write_json, write_jsonl
from selfcorrect.types import NO_ANSWER, Attempt, Grade, Outcome, Problem, SelfEvaluation, Trajectory, Verdict

HOSTILE = (
    "</script><script>document.documentElement.dataset.pwned=1</script><!-- <script>"
    '<img src=x onerror="document.documentElement.dataset.pwned=2">"\'><svg onload=alert(1)>'
    "{{ 7*7 }}{% raw %}\u2028\u2029\ud800&lt;b&gt;${x}`\\u003cb>]]>\x1b]0;x\x07\u202e"
)
RIGHT = Grade(Outcome.CORRECT, "", "4", ("4", "4"), "number")
WRONG = Grade(Outcome.WRONG, "5 is not 4", "5", ("5", "4"), "number")
BROKEN = Grade(Outcome.UNGRADABLE, "no parse", "((")


def path(
    *grades: Grade | None, verdict: Verdict | None = None, p: float | None = None, key: str = "p-1", text: str = "2+2"
) -> Trajectory:
    evaluations = (SelfEvaluation(f"judged {text}", verdict, p),) if verdict else ()
    attempts = tuple(Attempt(text, grade.extracted if grade else None, grade) for grade in grades)
    return Trajectory(Problem(key, f"What is {text}?", "4", "toy"), attempts, evaluations, "verdict", seed=0)


def write_row(run: Path, name: str, paths: list[Trajectory], label: str = "Self-rewarding IFT") -> dict[str, Any]:
    scores = RowScores.of(score(label, paths)).to_json()
    row = {"method": label, "label": label, "model": "embedded", "seeds": [0], "dropped": {}} | scores
    write_json(run / "eval" / name / "scores.json", row)
    lines = [json.dumps({"key": f"{t.problem.id}#0", "trajectory": t.to_json()}) + "\n" for t in paths]
    (run / "eval" / name / "trajectories.jsonl").write_text("".join(lines))
    return row


class Page(HTMLParser):
    """What a browser would build: tags with attributes, script bodies, and the text outside them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif not self._inside:
            self.text += data

    @property
    def paths(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


def read(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("trajectory", "name"),
    [
        (path(WRONG, RIGHT, verdict=Verdict.WRONG), "fixed"),
        (path(RIGHT, WRONG, verdict=Verdict.WRONG), "broken"),
        (path(WRONG, verdict=Verdict.CORRECT), "never flagged"),
        (path(WRONG), "never flagged"),
        (path(WRONG, WRONG), "not fixed"),
        (path(RIGHT, RIGHT, verdict=Verdict.WRONG), "kept"),
        (path(RIGHT, verdict=Verdict.CORRECT), "left alone"),
        (path(RIGHT, RIGHT), "kept"),
        (path(WRONG, WRONG, verdict=Verdict.WRONG), "not fixed"),
        (path(BROKEN), "not scored"),
        (path(None), "not scored"),
        (path(Grade(Outcome.UNGRADABLE, "no answer", method=next(iter(NO_ANSWER))), RIGHT), "fixed"),
    ],
)
def test_every_path_has_one_transition_class(trajectory: Trajectory, name: str) -> None:
    assert transition(trajectory) == name


def test_an_empty_run_folder_shows_what_is_missing(tmp_path: Path) -> None:
    page = read(tmp_path)
    assert "This run has no scores yet." in page.text
    for what in ("result table", "paired tests", "check list", "checkpoints", "gen/DONE", "card.json", "provenance"):
        assert any(what in line for line in page.text.splitlines() if "Missing:" in line), what
    assert page.paths["rows"] == []


def test_only_a_run_of_the_embedded_model_says_what_that_is(tmp_path: Path) -> None:
    write_row(tmp_path, "ift", [path(RIGHT, verdict=Verdict.CORRECT, p=0.9)])
    scores = tmp_path / "eval" / "ift" / "scores.json"
    write_json(scores, json.loads(scores.read_text()) | {"model": "run/checkpoints/ift"})
    recipe = tmp_path / "checkpoints" / "ift" / "recipe.yaml"
    recipe.parent.mkdir(parents=True)
    for model in (".models/smollm2", "embedded"):
        recipe.write_text(f"name: ift\nmodel: {model}\njudge:\n  model: embedded\n")
        assert ("model organism" in read(tmp_path).text) == (model == "embedded")


def test_the_table_the_tests_and_the_checks(tmp_path: Path) -> None:
    paths = [path(WRONG, RIGHT, verdict=Verdict.WRONG, key=f"p-{i}", p=0.1) for i in range(3)]
    paths += [path(RIGHT, verdict=Verdict.CORRECT, key=f"p-{i}", p=0.9) for i in range(3, 30)]
    row = write_row(tmp_path, "ift", paths)
    test = {"a": "IFT", "b": "GRPO", "n": 30, "gain": -1.5, "gain_interval": [-3.0, 0.0]}
    test |= {"only_a": 5, "only_b": 2, "p_value": 0.0004}
    checks = [{"claim": "IFT gains", "holds": True, "evidence": "Δ = +10"}, {"claim": "hacked", "holds": None}]
    write_json(
        tmp_path / "tables" / "demo.json", {"rows": [row], "tests": [test], "checks": checks, "n": 30, "seed": 0}
    )
    page = read(tmp_path)
    assert "Self-rewarding IFT, 100.0%" in page.text
    assert "model organism" in page.text
    for shown in ("90.0", "74.4–96.5", "+10.0", "−1.5", "−3.0 to 0.0", "< 0.001", "does it hold here?", "not tested"):
        assert shown in page.text, shown
    assert "1 of the 1 statements" in page.text
    assert [item[1].get("aria-label") for item in page.tags if item[1].get("class") == "bar"] == [
        "correct → wrong (broken) 0.0%, correct → correct 90.0%, wrong → correct (fixed) 10.0%, wrong → wrong 0.0%"
    ]
    assert any("30 judgements" in (tag[1].get("aria-label") or "") for tag in page.tags if tag[0] == "svg")


def test_own_runs_have_tests_and_claims_without_the_demos_table(tmp_path: Path) -> None:
    kept = [path(RIGHT, verdict=Verdict.CORRECT, key=f"p-{i}") for i in range(20)]
    mended = [path(WRONG, RIGHT, verdict=Verdict.WRONG, key=f"p-{i}") for i in range(20, 40)]
    lost = [path(WRONG, verdict=Verdict.CORRECT, key=f"p-{i}") for i in range(20, 40)]
    for name, label, paths in (("ift", "my IFT", kept + mended), ("base", "my base", kept + lost)):
        scores = write_row(tmp_path, name, paths, label) | {
            "label": label,
            "benchmark": "mine",
            "loop": "self-rewarding",
        }
        write_json(tmp_path / "eval" / name / "scores.json", scores)
    page = read(tmp_path)
    assert "demo.json" not in page.text
    missing = [line for line in page.text.splitlines() if "Missing:" in line]
    assert not any("paired tests" in line or "check list" in line for line in missing)
    words = " ".join(page.text.split())
    assert "my basemy IFT+50.0+31.8 to +63.402040< 0.001" in words
    assert "my IFT: the model corrects itself: Δ > 0" in words


def test_rows_that_were_sampled_otherwise_stand_apart_and_no_two_have_one_name(tmp_path: Path) -> None:
    """Three rows of one label: greedy twice, and eight trajectories a problem; and one row of another benchmark."""
    sampled = {"benchmark": "arithmetic", "temperature": 0.0, "seeds": [0]}
    rows = {
        "vote-ift": ("IFT", 19, {"temperature": 1.0, "seeds": [0, 1, 2]}),
        "ift": ("IFT", 10, {}),
        "mine": ("IFT", 12, {}),
        "grpo": ("IFT + GRPO", 11, {}),
        "other": ("IFT on GSM8K", 20, {"benchmark": "data/gsm8k.jsonl"}),
    }
    for name, (label, right, more) in rows.items():
        paths = [path(RIGHT if i < right else WRONG, verdict=Verdict.CORRECT, key=f"p-{i}") for i in range(20)]
        write_json(tmp_path / "eval" / name / "scores.json", write_row(tmp_path, name, paths, label) | sampled | more)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    table = html.split("<tbody>")[1].split("</tbody>")[0]
    assert re.findall(r'<th scope="row(?:group)?"[^>]*>([^<]*)<', table) == [
        "arithmetic, greedy, one trajectory a problem", "IFT + GRPO", "IFT", "IFT [mine]",
        "gsm8k.jsonl, greedy, one trajectory a problem", "IFT on GSM8K",
        "arithmetic, temperature 1, 3 trajectories a problem", "IFT [vote-ift]",
    ]  # fmt: skip
    words = " ".join(Page(html).text.split())
    assert "Best final accuracy (arithmetic, greedy, one trajectory a problem): IFT [mine], 60.0%" in words
    first, second = words.split("more pairs of rows")
    assert "IFTIFT [mine]+10.0" in first
    assert "IFT [mine]IFT [vote-ift]+35.0" in second
    for name in ("mine", "other"):
        shutil.rmtree(tmp_path / "eval" / name)
    table = write_report(tmp_path).read_text(encoding="utf-8").split("<tbody>")[1].split("</tbody>")[0]
    named = re.findall(r'<th scope="row"[^>]*>([^<]*)<', table)
    assert named == ["IFT", "IFT + GRPO", "IFT [vote-ift]"], "in the order of the study's tables"


def test_a_method_that_never_judges_has_no_share_without_verdict(tmp_path: Path) -> None:
    row = write_row(tmp_path, "intrinsic", [path(RIGHT, RIGHT)])
    write_json(tmp_path / "tables" / "demo.json", {"rows": [row | {"stops": {"horizon": 1}}]})
    cells = write_report(tmp_path).read_text().split("<tbody>")[1].split("</tr>")[0].split("<td")
    assert ">–</td>" in cells[9]
    write_json(tmp_path / "tables" / "demo.json", {"rows": [row | {"stops": {"no-verdict": 1}}]})
    cells = write_report(tmp_path).read_text().split("<tbody>")[1].split("</tr>")[0].split("<td")
    assert "100.0<small>" in cells[9]


def test_learning_curves_plot_what_is_there(tmp_path: Path) -> None:
    rows = [
        {"step": s, "loss": 1 / s, "turn1": 0.5, "final": 0.6, "note": "x", "kl": float("nan")} for s in range(1, 9)
    ]
    write_jsonl(tmp_path / "checkpoints" / "grpo" / "metrics.jsonl", rows)
    (tmp_path / "checkpoints" / "raft").mkdir()
    page = read(tmp_path)
    labels = [tag[1]["aria-label"] for tag in page.tags if tag[0] == "svg"]
    assert labels == ["Turn 1, Final by training step", "Loss by training step"]
    assert "checkpoints/raft/metrics.jsonl" in page.text
    assert "step 4: Turn 1 0.5, Final 0.6" in page.text, "the values of a step, for the cursor"
    assert page.text.count("step 8: Loss 0.125") == 1


def test_the_curves_of_rl_come_first_with_titles_and_units(tmp_path: Path) -> None:
    for name, more in (("a-ift", {"token_accuracy": 0.9}), ("b-grpo", {"turn1": 40.0, "final": 50.0, "entropy": 0.1})):
        write_jsonl(
            tmp_path / "checkpoints" / name / "metrics.jsonl", [{"step": s, "x_own": s, **more} for s in (1, 2)]
        )
    page = read(tmp_path)
    labels = [str(tag[1]["aria-label"]).removesuffix(" by training step") for tag in page.tags if tag[0] == "svg"]
    assert labels == ["Turn 1, Final", "Entropy", "x_own", "x_own", "Learned tokens predicted"]
    text = " ".join(page.text.split())
    for shown in ("Turn 1, Final percent", "Entropy nats a token", "Learned tokens predicted share", "training step"):
        assert shown in text, shown
    meanings = {tag[1].get("title") for tag in page.tags if tag[0] == "span"}
    assert "how undecided the model is about the next token" in meanings


def test_the_words_of_tables_charts_and_trajectories_are_explained_where_they_stand(tmp_path: Path) -> None:
    write_row(tmp_path, "ift", [path(WRONG, RIGHT, verdict=Verdict.WRONG, key=f"p-{i}", p=0.1) for i in range(3)])
    page = read(tmp_path)
    for column in (*RESULT_FIELDS, *BUDGET_FIELDS):
        assert COLUMNS[column].meaning in page.text, column
    for name, meaning in CLASSES.items():
        assert f"{name}{meaning}" in page.text, name


def test_the_summary_says_what_time_and_tokens_it_took(tmp_path: Path) -> None:
    row = write_row(tmp_path, "ift", [path(RIGHT)])
    compute = {"problems": 1480, "sampled_tokens": 701407, "trained_tokens": 903013}
    write_json(tmp_path / "eval" / "ift" / "scores.json", row | {"compute": compute})
    for stage, seconds in (("gen", 150), ("checkpoints/ift", 810)):
        write_json(tmp_path / stage / "provenance.json", {"machine": "x86_64, 2 cores"})
        write_json(tmp_path / stage / "DONE", {"seconds": seconds})
    text = " ".join(read(tmp_path).text.split())
    assert "All stages took 16 min, one after another (x86_64, 2 cores); 701,407 tokens were sampled" in text
    assert "903,013 trained on to make Self-rewarding IFT." in text
    assert (show_time(37), show_time(18_720)) == ("37 s", "5.2 h")


def test_a_demo_has_the_tests_of_every_two_rows_with_the_best_first(tmp_path: Path) -> None:
    rows = []
    for name, rights in (("a", 2), ("b", 18), ("c", 9)):
        paths = [path(RIGHT if i < rights else WRONG, verdict=Verdict.CORRECT, key=f"p-{i}") for i in range(20)]
        rows.append(write_row(tmp_path, name, paths, label=f"row {name}"))
    listed = {"a": "row a", "b": "elsewhere", "n": 20, "gain": 1.0}
    write_json(tmp_path / "tables" / "demo.json", {"rows": rows, "tests": [listed]})
    text = " ".join(read(tmp_path).text.split())
    assert "1 more pair of rows" not in text
    assert "2 more pairs of rows" in text, "what the file lists, and the two without the best"
    assert text.index("row arow b") < text.index("row brow c") < text.index("2 more pairs") < text.index("row arow c")


def test_the_viewer_data_holds_every_text_once(tmp_path: Path) -> None:
    write_row(tmp_path, "a", [path(WRONG, RIGHT, verdict=Verdict.WRONG, p=0.03), path(RIGHT, key="p-10")])
    write_row(tmp_path, "b", [path(WRONG)], label="Base")
    data = read(tmp_path).paths
    assert [problem[0] for problem in data["problems"]] == ["p-1", "p-10"]
    assert len(set(data["texts"])) == len(data["texts"])
    problem, seed, kind, stop, attempts, evaluations = data["rows"][0]["paths"][0]
    assert (problem, seed, data["classes"][kind][0], data["texts"][stop]) == (0, 0, "fixed", "verdict")
    assert [(data["texts"][a[0]], a[1], data["texts"][a[2]]) for a in attempts] == [("2+2", 1, "5"), ("2+2", 0, "4")]
    assert evaluations == [[data["texts"].index("judged 2+2"), 1, 0.03]]


def test_a_page_over_its_budget_says_how_much_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfcorrect.eval.page.viewer.TEXT_BUDGET", 10)
    write_row(tmp_path, "a", [path(RIGHT, key=f"p-{i}") for i in range(9)])
    row = read(tmp_path).paths["rows"][0]
    assert (len(row["paths"]), row["all"]) == (3, 9)


def hostile_run(run: Path, text: str = HOSTILE) -> None:
    paths = [path(WRONG, RIGHT, verdict=Verdict.WRONG, p=0.2, key=f"{text}{i}", text=text) for i in range(25)]
    row = write_row(run, "ift", paths, label=HOSTILE.replace("\ud800", ""))
    demo = {"rows": [row], "benchmark": HOSTILE, "seed": HOSTILE, "n": HOSTILE, "seconds": {HOSTILE: HOSTILE}}
    demo |= {"tests": [{"a": HOSTILE, "b": HOSTILE, "gain": HOSTILE, "p_value": HOSTILE}]}
    demo |= {"checks": [{"claim": HOSTILE, "holds": True, "evidence": HOSTILE}]}
    files = {
        "tables/demo.json": demo,
        "gen/DONE": {HOSTILE: {HOSTILE: [HOSTILE]}},
        "data/sft/x.card.json": {HOSTILE: 1},
    }
    files |= {"gen/provenance.json": {"git": HOSTILE, "command": HOSTILE, "packages": {HOSTILE: HOSTILE}}}
    files |= {"checkpoints/x/metrics.jsonl": {"step": 1, HOSTILE: 1.5}}
    for name, value in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(json.dumps(value) + "\n")
    (run / "gen" / "recipe.yaml").write_text(HOSTILE.replace("\ud800", ""))


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    write_report(tmp_path)
    page = read(tmp_path)
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "paths"}, {}, {}]  # the data, KaTeX, the viewer
    assert len(page.scripts) == 3
    assert page.paths["problems"][0][1] == clean(f"What is {HOSTILE}?")
    assert clean(json.dumps(page.paths, ensure_ascii=False)) == json.dumps(page.paths, ensure_ascii=False)
    assert not {tag for tag, _ in page.tags} & {"img", "iframe", "object", "embed", "link", "base", "form", "a\u2028"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all(href.startswith("#") for tag, a in page.tags if tag == "a" and (href := a["href"]))
    assert page.text.count("{{ 7*7 }}") > 10
    assert "49{%" not in page.text


def test_inert_json_round_trips() -> None:
    text = inert_json({"x": HOSTILE})
    assert not set("<>&\u2028\u2029\ud800") & set(text)
    assert json.loads(text) == {"x": HOSTILE}


def test_hostile_text_does_nothing_in_a_browser(browser: Any, tmp_path: Path) -> None:
    hostile_run(tmp_path, HOSTILE)
    browser.open(write_report(tmp_path))
    page = Page(browser.run("document.documentElement.outerHTML.toWellFormed()"))
    root = dict(page.tags)["html"]
    assert not [name for name in root if "pwned" in name]
    viewer = next(attributes for _, attributes in page.tags if attributes.get("id") == "viewer")
    assert "hidden" not in viewer, "the viewer's own script ran"
    assert "25 of 25 trajectories" in page.text
    assert "judged </script><script>" in page.text
    assert "img" not in {tag for tag, _ in page.tags}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tables/demo.json", "{", "demo.json as JSON"),
        ("tables/demo.json", "[]", "expected a JSON object, got list"),
        ("tables/demo.json", '{"rows": [3]}', "'rows' is not a list of objects"),
        ("gen/DONE", "x", "DONE as JSON"),
        ("checkpoints/x/metrics.jsonl", '{"step": 1}\n{"st', "metrics.jsonl, line 2"),
        ("eval/x/trajectories.jsonl", '{"key": "a#0"}\n', "trajectories.jsonl, record 1"),
        ("eval/x/trajectories.jsonl", '{"key": "a#0", "trajectory": {}}\n', "trajectories.jsonl, record 1"),
        ("eval/x/scores.json", '{"n": 1', "scores.json as JSON"),
    ],
)
def test_a_broken_file_is_a_data_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message.replace("[", r"\[")):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_no_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run folder"):
        write_report(tmp_path / "nowhere")


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    write_row(tmp_path, "ift", [path(WRONG, RIGHT, verdict=Verdict.WRONG, p=0.2)])
    assert write_report(tmp_path).read_bytes() == write_report(tmp_path).read_bytes()


def test_reliability_bins_and_error() -> None:
    reliability = Reliability.of([(0.95, True)] * 3 + [(0.95, False)] + [(0.0, False), (1.0, True)])
    assert [share.n for _, share in reliability.bins] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 5]
    assert reliability.n == 6
    assert reliability.expected_calibration_error == pytest.approx(abs(4.8 - 4) / 6 * 100)


def test_ticks_are_round_and_enclose() -> None:
    assert ticks(0.0, 1.0, 4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(-3, 47, 4) == [-20, 0, 20, 40, 60]
    assert ticks(5, 5, 4)[0] < 5 < ticks(5, 5, 4)[-1]


def test_a_curve_of_one_point_is_a_dot() -> None:
    assert '<circle class="s0 dot"' in curve_panel([Series("loss", ((1.0, 2.0),))])


def test_numbers_as_text() -> None:
    assert (show_value(-0.25), show_value(1234567), show_value(None)) == ("−0.25", "1,234,567", "–")
    assert show_short("sha256:" + 32 * "a") == "sha256…" + 17 * "a"
    assert (show_p(0.0309), show_p(1e-9)) == ("0.031", "< 0.001")
    assert flat({"kept": {"D1": 4540}, "seeds": [1, 2]}) == {"kept · D1": "4,540", "seeds": "1, 2"}


def test_the_best_method_is_one_that_does_not_see_the_reference_answers(tmp_path: Path) -> None:
    for name, rights, more in (("gold", 9, {"loop": "gold"}), ("told", 8, {"stop": "gold"}), ("ift", 6, {})):
        paths = [path(RIGHT if i < rights else WRONG, verdict=Verdict.CORRECT, p=0.9, key=f"p-{i}") for i in range(10)]
        row = write_row(tmp_path, name, paths, label=name)
        write_json(tmp_path / "eval" / name / "scores.json", row | more)
    assert "Best final accuracy: ift, 60.0%" in " ".join(read(tmp_path).text.split())


def test_what_it_took_to_make_each_model_is_shown_where_it_is_recorded(tmp_path: Path) -> None:
    row = write_row(tmp_path, "ift", [path(RIGHT)])
    assert "tokens trained on" not in Page(write_report(tmp_path).read_text()).text
    compute = {"problems": 1480, "sampled_tokens": 701407, "trained_tokens": 903013}
    write_json(tmp_path / "eval" / "ift" / "scores.json", row | {"compute": compute})
    text = Page(write_report(tmp_path).read_text()).text
    assert "tokens trained on" in text
    assert "701,407" in text
