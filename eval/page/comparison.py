"""`selfcorrect compare A B --html PAGE`: two logs on one self-contained page, with every flip and both its responses.

The page has no script at all, and a content security policy that lets none run. What the logs say is text: the template
escapes it, and control characters are written out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from selfcorrect.compare import HEADS, LogComparison
from selfcorrect.eval.page.templates import HERE, templates
from selfcorrect.eval.page.values import show_p
from selfcorrect.metrics import PairedTest
from selfcorrect.runs.jsonl import write_whole
from selfcorrect.table import Figure, Table

LONGEST = 6000
"""So many characters of a response are shown: a log may hold megabytes of one."""
PARTS = (("both", "kept"), ("A", "broken"), ("B", "fixed"), ("neither", "wrong"))


def write_comparison(compared: LogComparison, page: Path) -> Path:
    """Write the page of a comparison and return its path."""
    texts = compared.first_responses()
    is_single = all(len(side.keys) == len(set(side.keys)) for _, side in compared.sides())
    text = (
        templates()
        .get_template("comparison.html.j2")
        .render(
            style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
            c=compared,
            sides=compared.sides(),
            lead=_lead(compared),
            tests=Markup(_tests(compared).to_html("scores")),
            bar=_bar(compared, is_single),
            right_words="right" if is_single else "right more often",
            wrong_words="wrong" if is_single else "right less often",
            flips=[(flip, *map(_shown, pair)) for flip, pair in zip(compared.flips, texts, strict=True)],
            odd=[(name, side, side.disagreements()) for name, side in compared.sides()],
        )
    )
    write_whole(page, [text.encode("utf-8", "replace").decode()])  # a lone surrogate must not stop us
    return page


def _lead(compared: LogComparison) -> dict[str, Any]:
    """Return what the page says first: the difference, its interval, p, and whether it is one."""
    test = compared.ours
    low, high = test.gain_interval
    found = "no difference is shown" if test.p_value >= 0.05 else "B is better" if test.gain > 0 else "A is better"
    return {"gain": _gain(test), "p": show_p(test.p_value), "found": found, "excludes": low > 0 or high < 0}


def _gain(test: PairedTest) -> Figure:
    return Figure(test.gain, test.gain_interval, signed=True)


def _tests(compared: LogComparison) -> Table:
    """Return the table of `LogComparison.rows` with figures that the page sets."""
    tests = [compared.ours, *([compared.theirs] if compared.theirs else [])]
    lines = [
        (name, n, a, b, _gain(test), show_p(test.p_value), better_a, better_b)
        for (name, n, a, b, _, _, _, better_a, better_b), test in zip(compared.rows(), tests, strict=True)
    ]
    return Table("", tuple(head for head in HEADS if head != "95%"), lines)


def _bar(compared: LogComparison, is_single: bool) -> list[dict[str, Any]]:
    """Return the parts of a bar over all common problems; they add up to 100. ``is_single``: one response a problem."""
    counts = compared.together()
    words = {"both": "both right", "A": "A alone right", "B": "B alone right", "neither": "both wrong"}
    often = {
        "both": "as often, mostly right",
        "A": "A more often",
        "B": "B more often",
        "neither": "as often, rarely right",
    }
    total = max(1, sum(counts.values()))
    return [
        {
            "kind": kind,
            "words": (words if is_single else often)[name],
            "n": counts[name],
            "share": 100 * counts[name] / total,
        }
        for name, kind in PARTS
    ]


def _shown(text: str) -> str:
    """Return a response as far as the page shows it."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n\n[… {len(text) - LONGEST:,} characters are left out here …]\n\n{text[-half:]}"
