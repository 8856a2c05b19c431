"""The report in headless Chromium, by clicking: filters, search, mathematics, two runs, 10,000 paths, hostile text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.eval.page.page import write_report
from selfcorrect.eval.run import EvalRecipe
from selfcorrect.runs.jsonl import write_jsonl
from selfcorrect.types import Attempt, SelfEvaluation, Trajectory, Verdict

FIRST_ITEM = "document.querySelector('#list .item')"
CHIP = "[...document.querySelectorAll('#classes button')].find((b) => b.textContent.startsWith({!r}))"
SHOWN = "document.getElementById('detail').innerText"
COUNT = "document.getElementById('count').textContent"
MATHS = r"""First $x^2 + \frac{1}{2}$, then \( \sqrt{y} \), it costs $5 and $7.
\[ \sum_{i=1}^{n} i \]
\boxed{\frac{3}{4}}"""
HOSTILE_MATHS = (
    r"$\href{javascript:document.documentElement.dataset.pwned=1}{click}$ "
    r"$\url{javascript:alert(1)}$ $\includegraphics{https://example.org/x.png}$ "
    r"$\htmlData{pwned=1}{x}$ $\htmlStyle{background:url(https://example.org/)}{y}$ "
    r"$<img src=x onerror=document.documentElement.dataset.pwned=2>$ "
    r"$\text{</span><script>document.documentElement.dataset.pwned=3</script>}$ "
    r"\boxed{<svg onload=alert(1)>} $\def\x{\x\x}\x$ $" + "{" * 400 + "$ "
)

Rows = Callable[..., Path]


@pytest.fixture
def two_runs(tmp_path: Path, path, row: Rows) -> tuple[Path, Path]:  # type: ignore[no-untyped-def]
    """A run with a fixed, a broken, a missed and a kept path, and another run in which the broken one is right."""
    a, b = tmp_path / "mine", tmp_path / "other"
    fixed = path(0, False, True, p=0.1)
    fixed = replace(fixed, attempts=(replace(fixed.attempts[0], text=MATHS), fixed.attempts[1]))
    paths = [fixed, path(1, True, False, p=0.2), path(2, False, p=0.9), *(path(i, True, p=0.9) for i in range(3, 30))]
    row(a, EvalRecipe(row="ift", label="IFT"), paths)
    row(b, EvalRecipe(row="ift", label="IFT"), [path(i, i != 2, p=0.9) for i in range(30)])
    return a, b


def test_clicking_through(browser: Any, two_runs: tuple[Path, Path]) -> None:
    a, b = two_runs
    browser.open(write_report(a, b))
    assert browser.run(COUNT) == "30 of 30 trajectories"
    browser.click(CHIP.format("broken"))
    assert browser.run(COUNT).startswith("1 of 30 trajectories")
    assert "correct, then wrong (c→i)" in browser.run(SHOWN)
    browser.click(CHIP.format("never flagged"))
    browser.click(FIRST_ITEM)
    assert "“correct” not as graded" in browser.run(SHOWN).replace("\n", " ")
    browser.click(CHIP.format("all"))
    browser.click("document.getElementById('search')")
    browser.type("What is 17?")
    browser.run("new Promise((done) => setTimeout(done, 150))")
    assert browser.run(COUNT) == "1 of 30 trajectories"
    assert browser.run("document.querySelector('#detail mark').textContent") == "What is 17?"
    browser.fill("search", "", "input")
    options = browser.run("[...document.getElementById('row-b').options].map((o) => o.label)")
    assert options == ["nothing", "IFT", "other: IFT"]
    browser.fill("row-b", "1", "change")
    browser.click(
        "[...document.querySelectorAll('#flips button')].find((b) => b.textContent.startsWith('only the second'))"
    )
    assert browser.run(COUNT) == "1 of 30 trajectories"
    assert browser.run("document.querySelectorAll('#detail .columns > div').length") == 2
    browser.run("document.getElementById('list').focus()")
    browser.press("End")
    assert browser.problems == []


def test_it_opens_on_a_fixed_trajectory_and_every_trajectory_has_an_address(
    browser: Any, two_runs: tuple[Path, Path]
) -> None:
    a, b = two_runs
    page = write_report(a, b)
    browser.open(page)
    selected = "document.querySelector('#list [aria-selected=true] .what').textContent"
    assert browser.run(selected) == "fixed"
    assert "wrong, then correct (i→c)" in browser.run(SHOWN)
    browser.click(CHIP.format("broken"))
    address = browser.run("document.querySelector('#detail .facts a').getAttribute('href')")
    assert address == "#trajectory/ift/p1/0"
    assert "; broken: correct, then wrong (c→i)" in browser.run(COUNT)
    browser.click(CHIP.format("all"))
    theirs = "#trajectory/other%3A%20ift/p2/0"  # a row of the same name in the other run
    for to, shown in (("#trajectory/ift/p7/0", "What is 7?"), (theirs, "other: IFT"), (address, "What is 1?")):
        browser.run(f"location.hash = {to!r}; new Promise((done) => setTimeout(done, 100))")
        assert shown in browser.run(SHOWN)
    browser.run("location.hash = '#trajectory/ift/nowhere/0'; new Promise((done) => setTimeout(done, 100))")
    assert "What is 1?" in browser.run(SHOWN), "an address of nothing changes nothing"
    assert browser.problems == []


def test_the_values_of_a_curve_are_shown_under_the_cursor(browser: Any, tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "checkpoints" / "grpo" / "metrics.jsonl", [{"step": s, "entropy": s / 8} for s in range(1, 9)]
    )
    browser.open(write_report(tmp_path))
    shown = "[...document.querySelectorAll('.at text')].filter((t) => getComputedStyle(t).visibility === 'visible')"
    assert browser.run(f"{shown}.length") == 0
    browser.click("document.querySelectorAll('.at rect')[3]")
    assert browser.run(f"{shown}.map((t) => t.textContent)") == ["step 4: Entropy 0.5"]


def test_mathematics_is_set_and_can_be_shown_as_written(browser: Any, two_runs: tuple[Path, Path]) -> None:
    browser.open(write_report(two_runs[0]))
    browser.click(CHIP.format("fixed"))
    titles = browser.run("[...document.querySelectorAll('#detail .formula')].map((n) => n.title)")
    assert titles[:4] == [r"x^2 + \frac{1}{2}", r" \sqrt{y} ", r" \sum_{i=1}^{n} i ", r"\boxed{\frac{3}{4}}"]
    assert browser.run("document.querySelectorAll('#detail .katex-display').length") == 1
    assert "it costs $5 and $7." in browser.run(SHOWN)
    fonts = browser.run(
        "document.fonts.ready.then(() => [...document.fonts].filter((f) => f.status === 'loaded').map((f) => f.family))"
    )
    assert "KaTeX_Math" in fonts
    browser.click("document.getElementById('math')")
    assert browser.run("document.querySelectorAll('#detail .formula').length") == 0
    assert r"\boxed{\frac{3}{4}}" in browser.run(SHOWN)
    assert browser.problems == []


def test_hostile_mathematics_stays_text(browser: Any, tmp_path: Path, path, row: Rows) -> None:  # type: ignore[no-untyped-def]
    hostile: Trajectory = replace(
        path(0, False, True, p=0.1),
        attempts=tuple(Attempt(HOSTILE_MATHS, "5", a.grade) for a in path(0, False, True).attempts),
        evaluations=(SelfEvaluation(HOSTILE_MATHS + "[VERIFY] wrong.", Verdict.WRONG, 0.1),),
    )
    row(tmp_path, EvalRecipe(row="a", label="A"), [hostile])
    browser.open(write_report(tmp_path))
    browser.run("new Promise((done) => setTimeout(done, 200))")
    assert browser.run("Object.keys(document.documentElement.dataset)") == []
    forbidden = "a[href^=javascript], img, iframe, object, [onerror], [onload], [data-pwned], [style*=url]"
    assert browser.run(f"document.querySelectorAll('#detail :is({forbidden})').length") == 0
    assert r"\href{javascript:" in browser.run(SHOWN)
    assert not [problem for problem in browser.problems if "Content Security" not in problem]
    assert browser.run("performance.getEntriesByType('resource').length") == 0


def test_ten_thousand_paths_stay_smooth(browser: Any, tmp_path: Path, path, row: Rows) -> None:  # type: ignore[no-untyped-def]
    kinds = [
        json.dumps(path("<i>", *rights, p=0.1).to_json()) for rights in ((False, True), (True, False), (True, True))
    ]
    for name in ("a", "b"):
        folder = row(tmp_path, EvalRecipe(row=name, label=name), [path(0, True)])
        lines = (f'{{"key": "{i}", "trajectory": {kinds[i % 3].replace("<i>", str(i))}}}\n' for i in range(5000))
        (folder / "trajectories.jsonl").write_text("".join(lines))
    browser.open(write_report(tmp_path))
    assert browser.run(COUNT) == "5,000 of 5,000 trajectories"
    assert browser.run("document.querySelectorAll('#list .item').length") < 60  # only what is in view exists
    slowest_ms = browser.run(
        """(async () => {
          const list = document.getElementById('list'), took = [];
          for (let i = 0; i < 30; i++) {
            const began = performance.now();
            list.scrollTop = (i * 7919 * 52) % list.scrollHeight;
            await new Promise(requestAnimationFrame);
            took.push(performance.now() - began);
          }
          return took.sort((a, b) => a - b)[24];
        })()"""
    )
    click = f"{CHIP.format('fixed')}.click()"
    filter_ms = browser.run(f"(() => {{ const t = performance.now(); {click}; return performance.now() - t; }})()")
    assert slowest_ms < 100
    assert filter_ms < 250


def test_the_widest_result_table_fits_1200_pixels(browser: Any, tmp_path: Path, path, row: Rows) -> None:  # type: ignore[no-untyped-def]
    shares = ("turn1", "final", "i2c", "c2i", "rm_C", "rm_W", "no_verdict")
    widest: dict[str, Any] = dict.fromkeys(shares, 100.0) | {f"{key}_interval": [99.5, 100.0] for key in shares}
    widest |= {"i2c": 16.0, "i2c_interval": [13.9, 18.4], "c2i": 15.4, "c2i_interval": [13.9, 18.4]}
    widest |= {
        "no_verdict": 13.1,
        "no_verdict_interval": [12.2, 14.4],
        "delta": -14.0,
        "delta_interval": [-17.4, -11.3],
    }
    widest |= {"n": 10_000, "unanswered": 1234, "ungradable": 1234, "truncated": 1234, "tokens_per_problem": 4096.5}
    paths = [path(i, True, p=0.9) for i in range(25)]
    row(tmp_path, EvalRecipe(row="a", label="Self-rewarding IFT + PPO w correctness, temperature 1.0"), paths, **widest)
    page = write_report(tmp_path)
    for width in (1200, 390):
        browser.open(page, width=width)
        assert browser.run("document.documentElement.scrollWidth") <= width  # the page itself never scrolls sideways
        wide = browser.run("[...document.querySelectorAll('.wide')].map((n) => n.scrollWidth - n.clientWidth)")
        assert width < 1200 or max(wide) <= 0
