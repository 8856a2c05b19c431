"""One table, five renderings: the terminal, Markdown, LaTeX (booktabs), HTML and CSV. For all tables that are shown.

Cells are text, which each rendering escapes for its medium: labels, answers and names of files may hold anything. A
cell that is a `Figure` knows its interval, a title that is a `Heading` knows what it means::

    table = Table("", ("method", Heading("Final", "correct final answers")), [("IFT", Figure(84.4, (82.0, 86.5)))])
    table.to_markdown()   # | method | Final |
                          # |---|---:|
                          # | IFT | 84.4 [82.0 86.5] |
    table.to_html()       # … <td>84.4<small>82.0–86.5</small></td> …
"""

from __future__ import annotations

import csv
import html
import io
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from selfcorrect.markdown import fenced, inline
from selfcorrect.printing import Command, clean

FIRST = 26  # characters of the first column on a terminal
BESIDE = "paper"  # the head of a column that belongs to the one before it
WIDE = 8  # columns; a wider table is scaled down to the line
DASH = "–"  # where there is no value
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Δ": r"$\Delta$",
    "→": r"$\to$",
    "−": "$-$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "×": r"$\times$",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


class Figure(str):
    """A number in a cell. As text it is ``84.4 [82.0 86.5]``, or a dash where there is no value.

    ``number`` and ``interval`` (empty without one) are its parts for media that set them apart; ``n`` is what it is a
    share of, where that is to be said.
    """

    number: str
    interval: str
    n: int | None

    def __new__(
        cls,
        value: float | None,
        interval: tuple[float, float] | None = None,
        decimals: int = 1,
        signed: bool = False,
        n: int | None = None,
    ) -> Figure:
        form = f"{'+' if signed else ''}z.{decimals}f"  # z: no minus before a zero
        number = DASH if value is None else f"{value:{form}}"
        bounds = "" if value is None or interval is None else f"{interval[0]:{form}} {interval[1]:{form}}"
        figure = super().__new__(cls, f"{number} [{bounds}]" if bounds else number)
        figure.number, figure.interval, figure.n = number, bounds, n
        return figure

    @property
    def typeset(self) -> str:
        """The number as a page writes it: with a true minus, and a zero without a sign."""
        return _typeset(self.number)

    @property
    def range(self) -> str:
        """The interval as a page writes it: ``82.0–86.5``; ``−1.2 to +3.4`` where signs would collide with a dash."""
        bounds = self.interval.split()
        return (" to " if set("+-") & set(self.interval) else "–").join(map(_typeset, bounds))


def _typeset(number: str) -> str:
    return number.replace("-", "−") if number.strip("+-0.") else number.lstrip("+")


class Heading(str):
    """A column's title; ``meaning`` explains it, ``short`` is the title broken into lines for a narrow column."""

    meaning: str
    short: str

    def __new__(cls, title: str, meaning: str = "", short: str = "") -> Heading:
        heading = super().__new__(cls, title)
        heading.meaning, heading.short = meaning, short or title
        return heading


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table of text. A row with one cell is a heading over the rows that follow it.

    ``notes`` stand below, one a line; ``commands`` are what would make what is missing. ``left`` are the columns that
    hold words and not numbers; the first always does. HTML alone shows ``spans``, titles over several columns after the
    first as (title, how many), with space between them, and ``strong``, the title of the column to look at.
    """

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: Sequence[str] = ()
    commands: Sequence[str] = field(default=())
    left: tuple[int, ...] = ()
    spans: Sequence[tuple[str, int]] = ()
    strong: str = ""

    def _is_left(self, column: int) -> bool:
        return column == 0 or column in self.left

    # --- JSON, Markdown, LaTeX, CSV ---

    def to_json(self) -> dict[str, Any]:
        """Return the table for a script: its text, as it is in the CSV."""
        rows = [list(map(str, row)) for row in self.rows]
        texts = {"notes": list(self.notes), "commands": list(self.commands)}
        return {"title": self.title, "head": list(map(str, self.head)), "rows": rows} | texts

    def to_markdown(self) -> str:
        """Return GitHub Markdown."""
        aligned = "".join("---|" if self._is_left(column) else "---:|" for column in range(len(self.head)))
        lines = [f"**{_plain(self.title)}**", ""] if self.title else []
        lines += [_pipes(tuple(map(_plain, self.head))), f"|{aligned}"]
        for row in self.rows:
            if len(row) == 1:
                lines.append(_pipes((f"*{_plain(row[0])}*", *[""] * (len(self.head) - 1))))
            else:
                lines.append(_pipes(tuple(map(_plain, row))))
        lines += ["", *(f"{_plain(note)}  " for note in self.notes)]
        if self.commands:
            commands = "\n".join(command.replace("\n", "\\n") for command in self.commands)
            lines += ["", "Missing; these commands make them:", "", fenced(commands)]
        return "\n".join(lines).rstrip() + "\n"

    def to_latex(self) -> str:
        """Return a ``table`` environment for booktabs; every character of ours is escaped."""
        width = len(self.head)
        columns = "".join("l" if self._is_left(column) else "r" for column in range(width))
        body = []
        for row in self.rows:
            if len(row) == 1:
                body += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{latex(row[0])}}}}} \\"]
            else:
                body.append(" & ".join(map(latex, row)) + r" \\")
        notes = r"\\ ".join(map(latex, self.notes))
        wide = width > WIDE
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}" + (r" and \usepackage{graphicx}" if wide else ""),
                r"\begin{table}\centering\footnotesize\setlength{\tabcolsep}{3pt}",
                rf"\caption{{{latex(self.title)}}}",
                (r"\resizebox{\linewidth}{!}{" if wide else "") + rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                " & ".join(map(latex, self.head)) + r" \\",
                *([] if self.rows and len(self.rows[0]) == 1 else [r"\midrule"]),
                *body,
                r"\bottomrule",
                r"\end{tabular}" + ("}" if wide else ""),
                rf"\par\smallskip\parbox{{\linewidth}}{{\scriptsize {notes}}}" if notes else "",
                r"\end{table}",
                "",
            ]
        )

    def to_csv(self) -> str:
        """Return CSV; a heading fills the first column of the rows below it. No cell is a formula to a spreadsheet."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        grouped = any(len(row) == 1 for row in self.rows)
        writer.writerow(map(_cell, ("group", *self.head) if grouped else self.head))
        group = ""
        for row in self.rows:
            if len(row) == 1:
                group = row[0]
            else:
                writer.writerow(map(_cell, (group, *row) if grouped else row))
        return out.getvalue()

    # --- HTML ---

    def to_html(self, kind: str = "") -> str:
        """Return a ``table`` element of class ``kind``: intervals below values, a title's meaning as its tooltip."""
        starts = [1 + start for start in accumulate((count for _, count in self.spans), initial=0)]
        gaps = starts[1:-1]
        over = "".join(
            f'<th scope="colgroup" colspan="{count}"{_kinds(gap=start in gaps)}>{_escaped(title)}</th>'
            if title
            else "<td></td>" * count
            for start, (title, count) in zip(starts, self.spans, strict=False)
        )
        head = "".join(
            f'<th scope="col"{self._kinds(column, gaps)}{_tooltip(getattr(title, "meaning", ""))}>{_broken(title)}</th>'
            for column, title in enumerate(self.head)
        )
        body = "".join(f"<tr>{self._line(row, gaps)}</tr>\n" for row in self.rows)
        begin = f'<table class="{_escaped(kind)}">' if kind else "<table>"
        spans = f"<tr><td></td>{over}</tr>\n" if any(title for title, _ in self.spans) else ""
        return f"{begin}\n<thead>\n{spans}<tr>{head}</tr>\n</thead>\n<tbody>\n{body}</tbody>\n</table>"

    def _kinds(self, column: int, gaps: Sequence[int]) -> str:
        return _kinds(text=column in self.left, key=self.head[column] == self.strong, gap=column in gaps)

    def _line(self, row: tuple[str, ...], gaps: Sequence[int]) -> str:
        if len(row) == 1:
            return f'<th scope="rowgroup" colspan="{len(self.head)}">{_escaped(row[0])}</th>'
        cells = "".join(_data(cell, self._kinds(at, gaps)) for at, cell in enumerate(row[1:], 1))
        return f'<th scope="row">{_escaped(row[0])}</th>{cells}'

    # --- the terminal ---

    def to_terminal(self, width: int | None = None) -> RenderableType:
        """Return what Rich prints: a block a heading, its columns broken to fit the width, intervals below values.

        ``width`` is that of the terminal, at least 80 characters.
        """
        width = width or max(80, shutil.get_terminal_size().columns)
        shown: list[RenderableType] = [Text(self.title, style="bold")]
        section: list[tuple[str, ...]] = []
        for row in [*self.rows, ()]:
            if len(row) > 1:
                section.append(row)
                continue
            if section:
                shown += [self._block(section, columns) for columns in self._blocks(section, width)]
                section = []
            if row:
                shown.append(Text(row[0], style="bold cyan"))
        shown += [Text(note, style="dim") for note in self.notes]
        if self.commands:
            shown.append(Text("missing; these commands make them:", style="yellow"))
            shown += [Command(command) for command in self.commands]
        return Group(*shown)

    def all_columns(self) -> RichTable:
        """Return all columns of all rows side by side, for a table that is narrow enough."""
        return self._block(self.rows, range(len(self.head)))

    def narrow(self, columns: Sequence[int], first: tuple[int, int]) -> RichTable:
        """Return some columns of all rows side by side, as narrow as they can be: short titles, intervals bare.

        ``first`` is the least and greatest width of the first column.
        """
        return self._block(self.rows, columns, first)

    def _blocks(self, rows: Sequence[tuple[str, ...]], width: int) -> list[list[int]]:
        def wide(column: int) -> int:
            cells = [_lines(self.head[column]), *(_lines(row[column]) for row in rows)]
            return 2 + max(len(line) for cell in cells for line in cell.plain.split("\n"))

        together: list[list[int]] = []  # a column, and what it is held against
        for column in range(1, len(self.head)):
            if self.head[column] == BESIDE and together:
                together[-1].append(column)
            else:
                together.append([column])
        blocks: list[list[int]] = [[0]]
        room = width - min(FIRST, wide(0))
        for columns in together:
            needed = sum(map(wide, columns))
            if needed > room and len(blocks[-1]) > 1:
                blocks.append([0])
                room = width - min(FIRST, wide(0))
            blocks[-1] += columns
            room -= needed
        return blocks

    def _block(
        self, rows: Sequence[tuple[str, ...]], columns: Sequence[int], first: tuple[int, int] | None = None
    ) -> RichTable:
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in columns:
            least, most = (None, None) if column else first or (None, FIRST)
            title = self.head[column] if first is None else getattr(self.head[column], "short", self.head[column])
            table.add_column(
                Text(clean(title)),
                justify="left" if self._is_left(column) else "right",
                min_width=least,
                max_width=most,
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(_lines(row[column], bare=first is not None) for column in columns))
        return table


def _kinds(**kinds: bool) -> str:
    shown = " ".join(kind for kind, holds in kinds.items() if holds)
    return f' class="{shown}"' if shown else ""


def _lines(cell: str, bare: bool = False) -> Text:
    """Return a cell for the terminal: a figure's interval below it, ``bare`` without brackets.

    What a terminal would obey is written out before Rich measures the cell, or it would be cut at its edge.
    """
    if not isinstance(cell, Figure):
        return Text(clean(cell))
    dash = "dim" if cell.number == DASH else ""
    below = cell.interval if bare or not cell.interval else f"[{cell.interval}]"
    return Text.assemble((cell.number, dash), (f"\n{below}" if below else "", "dim"))


def _data(cell: str, kinds: str) -> str:
    """Return a cell of HTML."""
    if not isinstance(cell, Figure):
        return f"<td{kinds}>{_escaped(cell)}</td>"
    of = "" if cell.n is None else _tooltip(f"n = {cell.n:,}")
    below = f"<small>{_escaped(cell.range)}</small>" if cell.interval else ""
    return f"<td{kinds}{of}>{_escaped(cell.typeset)}{below}</td>"


def _escaped(text: str) -> str:
    return html.escape(clean(text))


def _tooltip(text: str) -> str:
    return f' title="{_escaped(text)}"' if text else ""


def _broken(title: str) -> str:
    """Return a title that a browser may break where its short form does."""
    return _escaped(getattr(title, "short", title).replace("-\n", "\u00ad").replace("\n", " "))


def latex(text: str) -> str:
    """Return text that LaTeX prints as it is; characters that pdflatex does not know become ``?``."""
    text = clean(text)
    if text.startswith("  "):
        return r"\quad " + latex(text.lstrip())
    signed = re.sub(r"(?<!\w)-(?=\d)", "−", text)  # a hyphen before a number is a minus
    pieces = [LATEX.get(character, character if character.isascii() else "?") for character in signed]
    return "".join(pieces).replace("\n", " ").replace("\t", " ")


def _cell(text: str) -> str:
    """Return a cell of CSV; one that a spreadsheet would compute begins with an apostrophe, a number does not."""
    shown = clean(text)
    is_number = re.fullmatch(r"[+-][\d.]+( \[[\d. +-]+\])?( (in|out))?", shown) is not None
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@", "\t") and not is_number else shown


def _plain(text: str) -> str:
    if text.startswith("  "):  # Markdown drops spaces: a part of the row above
        return "&emsp;" + _plain(text.lstrip())
    return inline(text)


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
