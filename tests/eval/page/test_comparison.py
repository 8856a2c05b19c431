"""The page of two compared logs: its figures, what flipped with both responses, and hostile logs in a browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.cli import main
from selfcorrect.compare import compare_logs
from selfcorrect.eval.page.comparison import LONGEST, write_comparison
from tests.selfcorrect.test_compare import DATA, sums, write_log

HOSTILE = (
    "<script>document.documentElement.dataset.pwned=1</script>"
    "<img src=x onerror=document.documentElement.dataset.pwned=2>"
    "</pre></details></main>{{ 7*7 }}{% raw %}\x1b]0;x\x07‮\ud800&lt;"
)


def written(a: Path, b: Path, folder: Path) -> str:
    return write_comparison(compare_logs(a, b), folder / "c.html").read_text(encoding="utf-8")


def test_the_page_says_what_the_test_says(tmp_path: Path) -> None:
    a = write_log(tmp_path / "samples_a.jsonl", sums({1, 2, 3, 4}, 20))
    b = write_log(tmp_path / "samples_b.jsonl", sums({1, 2, 3, *range(6, 16)}, 20))
    found = compare_logs(a, b)
    page = written(a, b, tmp_path)
    assert (found.ours.only_a, found.ours.only_b, found.together()) == (
        1, 10, {"both": 3, "A": 1, "B": 10, "neither": 6},
    )  # fmt: skip
    assert "<h1>B − A: +45.0 points</h1>" in page
    assert "B is better on these problems" in page
    assert "p = 0.012" in page  # McNemar: 2 * (1 + 11) / 2**11
    assert [*re.findall(r'class="(\w+)" style="width:([\d.]+)%"', page)] == [
        ("kept", "15.0"), ("broken", "5.0"), ("fixed", "50.0"), ("wrong", "30.0"),
    ]  # fmt: skip
    assert page.count("<details>") == 11
    assert "reference 8 · A answers 8, B 9" in page
    assert "<pre>\\boxed{8}</pre>" in page
    assert "<pre>\\boxed{9}</pre>" in page


def test_no_difference_is_not_called_one(tmp_path: Path) -> None:
    a = write_log(tmp_path / "samples_a.jsonl", sums({1, 2}, 10))
    b = write_log(tmp_path / "samples_b.jsonl", sums({1, 3, 4}, 10))
    assert "No difference is shown on these problems" in written(a, b, tmp_path)
    assert "None: both have the same problems right" in written(a, a, tmp_path)


def test_several_responses_are_counted_as_often(tmp_path: Path) -> None:
    rows = [{**row, "responses": [row["answer"], "\\boxed{-1}"]} for row in sums(set(), 4)]
    a = write_log(tmp_path / "samples_a.jsonl", rows)
    b = write_log(tmp_path / "samples_b.jsonl", [{**row, "responses": [row["answer"]] * 2} for row in rows])
    page = written(a, b, tmp_path)
    assert "B more often 4" in page
    assert "A answers 50% of 2, B 100% of 2" in page


def test_what_a_log_and_our_grader_say_differently_is_listed(tmp_path: Path) -> None:
    rows = [{**row, "score": 0.0} if k == 1 else row for k, row in enumerate(sums({0, 1}, 3))]
    page = written(
        write_log(tmp_path / "samples_a.jsonl", rows), write_log(tmp_path / "b.jsonl", sums({0}, 3)), tmp_path
    )
    assert "<small>1 of 3 responses</small>" in page
    assert re.search(r"<td>0</td><td>1</td><td class=\"text\">2</td>", page)


def test_a_response_of_megabytes_is_cut_and_says_so(tmp_path: Path) -> None:
    long = [{**row, "responses": ["x" * 2_000_000 + row["answer"] + " \\boxed{-7}"]} for row in sums(set(), 2)]
    a, b = write_log(tmp_path / "samples_a.jsonl", long), write_log(tmp_path / "samples_b.jsonl", sums({0, 1}, 2))
    page = written(a, b, tmp_path)
    assert len(page) < 60_000 + 2 * LONGEST
    assert "characters are left out here" in page


def test_hostile_logs_in_a_browser(browser: Any, tmp_path: Path) -> None:
    rows = [
        {**row, "question": f"{HOSTILE} {k}", "answer": "4", "responses": [HOSTILE + " \\boxed{5}"], "score": 1.0}
        for k, row in enumerate(sums(set(), 4))
    ]
    a = write_log(tmp_path / "samples_<b>hostile.jsonl", rows)
    b = write_log(tmp_path / "samples_b.jsonl", [{**row, "responses": ["\\boxed{4}"]} for row in rows])
    browser.open(write_comparison(compare_logs(a, b), tmp_path / "c.html"))
    assert browser.run("document.documentElement.dataset.pwned") is None
    assert browser.run("document.querySelectorAll('details').length") == 4
    assert browser.run("document.querySelectorAll('main > section').length") == 4
    assert browser.run("document.querySelectorAll('script, img').length") == 0
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    assert "{{ 7*7 }}" in browser.run("document.querySelector('details').innerText")
    width = browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, "the page scrolls sideways"
    assert browser.problems == []


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(DATA / "inspect_a.eval"), str(DATA / "inspect_b.eval"), "--html", "c.html", "--json"])
    assert ended.value.code == 0
    assert "What is 1+1?" in Path("c.html").read_text()
    assert '"gain": 40.0' in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(DATA / "inspect_a.eval"), str(DATA / "inspect_b.eval"), "--html", "c.pdf"])
    assert ended.value.code == 1
    assert "ends in .html" in capsys.readouterr().err
