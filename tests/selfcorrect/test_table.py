"""The one table: each rendering escapes its cells for its medium and sets figures as that medium does."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import pytest

from selfcorrect.printing import Terminal
from selfcorrect.table import Figure, Heading, Table

HOSTILE = "</td><script>x</script><img src=x onerror=1>|`a`[l](javascript:1)\\end{tabular}$x$&amp;\x1b[2K\u202e\"'"
TABLE = Table(
    "Results",
    ("method", "n", Heading("Final", "final answers that are correct", "fi-\nnal"), "judged by"),
    [
        ("group",),
        ("IFT", "1,000", Figure(84.4, (82.02, 86.5), n=1234), "itself"),
        ("gold", "1,000", Figure(-0.04, (-1.25, 3.4), signed=True), "checker"),
    ],
    ["a note"],
    left=(3,),
    spans=(("", 1), ("accuracy", 2)),
    strong="Final",
)


@pytest.mark.parametrize(
    ("figure", "text", "typeset", "interval"),
    [
        (Figure(70.68, (67.8, 73.44)), "70.7 [67.8 73.4]", "70.7", "67.8–73.4"),
        (Figure(-5.7, (-7.4, -4.0), signed=True), "-5.7 [-7.4 -4.0]", "−5.7", "−7.4 to −4.0"),
        (Figure(13.7, (11.2, 16.2), signed=True), "+13.7 [+11.2 +16.2]", "+13.7", "+11.2 to +16.2"),
        (Figure(-0.04, signed=True), "+0.0", "0.0", ""),
        (Figure(-0.04), "0.0", "0.0", ""),
        (Figure(0.0961, (0.08, 0.11), decimals=3), "0.096 [0.080 0.110]", "0.096", "0.080–0.110"),
        (Figure(None, (1.0, 2.0)), "–", "–", ""),
        (Figure(116.2, decimals=0), "116", "116", ""),
    ],
)
def test_a_figure_as_text_and_in_parts(figure: Figure, text: str, typeset: str, interval: str) -> None:
    assert (figure, figure.typeset, figure.range) == (text, typeset, interval)


def test_markdown() -> None:
    assert TABLE.to_markdown() == (
        "**Results**\n\n"
        "| method | n | Final | judged by |\n|---|---:|---:|---|\n"
        "| *group* |  |  |  |\n"
        "| IFT | 1,000 | 84.4 [82.0 86.5] | itself |\n"
        "| gold | 1,000 | +0.0 [-1.2 +3.4] | checker |\n"
        "\na note\n"
    )
    assert Table("", ("a", "b"), [("x", "1")]).to_markdown() == "| a | b |\n|---|---:|\n| x | 1 |\n"


def test_html_sets_intervals_below_and_explains_titles() -> None:
    assert TABLE.to_html("scores") == (
        '<table class="scores">\n<thead>\n'
        '<tr><td></td><td></td><th scope="colgroup" colspan="2" class="gap">accuracy</th></tr>\n'
        '<tr><th scope="col">method</th><th scope="col">n</th>'
        '<th scope="col" class="key gap" title="final answers that are correct">fi\u00adnal</th>'
        '<th scope="col" class="text">judged by</th></tr>\n</thead>\n<tbody>\n'
        '<tr><th scope="rowgroup" colspan="4">group</th></tr>\n'
        '<tr><th scope="row">IFT</th><td>1,000</td>'
        '<td class="key gap" title="n = 1,234">84.4<small>82.0–86.5</small></td><td class="text">itself</td></tr>\n'
        '<tr><th scope="row">gold</th><td>1,000</td>'
        '<td class="key gap">0.0<small>−1.2 to +3.4</small></td><td class="text">checker</td></tr>\n'
        "</tbody>\n</table>"
    )


def test_latex_aligns_words_left_and_json_is_the_text() -> None:
    assert r"\begin{tabular}{lrrl}" in TABLE.to_latex()
    assert r"IFT & 1,000 & 84.4 [82.0 86.5] & itself \\" in TABLE.to_latex()
    assert TABLE.to_json() == {
        "title": "Results",
        "head": ["method", "n", "Final", "judged by"],
        "rows": [
            ["group"],
            ["IFT", "1,000", "84.4 [82.0 86.5]", "itself"],
            ["gold", "1,000", "+0.0 [-1.2 +3.4]", "checker"],
        ],
        "notes": ["a note"],
        "commands": [],
    }


def printed(what: object) -> str:
    console = Terminal(width=80, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_on_a_terminal_only_a_figures_interval_goes_below() -> None:
    table = Table("t", ("method", "Final"), [("mine [v2]", Figure(84.4, (82.0, 86.5)))])
    lines = [line.split() for line in printed(table.to_terminal(80)).splitlines()]
    assert ["mine", "[v2]", "84.4"] in lines
    assert ["[82.0", "86.5]"] in lines
    assert ["82.0", "86.5"] in [line.split() for line in printed(table.narrow([0, 1], (6, 10))).splitlines()]


def test_no_part_of_a_hostile_label_is_cut_on_a_terminal() -> None:
    label = "vote \x1b[2K\u202etxt [bold]x[/] end"
    text = printed(Table("t", ("method", "n"), [(label, "1")]).to_terminal(80))
    shown = "".join(line[1:27].strip() for line in text.splitlines()[4:-1])
    assert shown.replace(" ", "") == "vote\\x1b[2K\\u202etxt[bold]x[/]end"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_hostile_text_stays_text_in_every_rendering() -> None:
    table = Table(HOSTILE, (HOSTILE, Heading(HOSTILE, HOSTILE)), [(HOSTILE,), (HOSTILE, HOSTILE)], [HOSTILE], [HOSTILE])
    for text in (table.to_markdown(), table.to_latex(), table.to_html(HOSTILE), table.to_csv()):
        assert "\x1b" not in text
        assert "\u202e" not in text
    tags = Tags(table.to_html(HOSTILE)).found
    assert {tag for tag, _ in tags} == {"table", "thead", "tbody", "tr", "th", "td"}
    assert {name for _, attributes in tags for name in attributes} <= {"class", "scope", "colspan", "title"}
    markdown = table.to_markdown().split("Missing;")[0]
    assert "<" not in markdown
    assert "](" not in markdown.replace("]\\(", "")
    assert {line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")} == {3}
    assert r"\end{tabular}" not in table.to_latex().replace("\n\\end{tabular}\n", "")
    assert {len(row) for row in csv.reader(io.StringIO(table.to_csv()))} == {3}
