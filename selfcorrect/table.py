"""One table, four ways out: Markdown, LaTeX (booktabs), CSV, the terminal. Values in, text out."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from selfcorrect.markdown import fenced, inline
from selfcorrect.printing import Command, clean

FIRST = 26  # characters of the first column on a terminal
BESIDE = "paper"  # the head of a column that belongs to the one before it
WIDE = 8  # columns; a wider table is scaled down to the line
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


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table of text. A row with one cell is a heading over the rows that follow it.

    ``notes`` stand below, one a line; ``commands`` are what would make what is missing.
    """

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: Sequence[str] = ()
    commands: Sequence[str] = field(default=())

    def to_markdown(self) -> str:
        """Return GitHub Markdown."""
        lines = [f"**{_plain(self.title)}**", "", _pipes(self.head), "|" + "---|" + "---:|" * (len(self.head) - 1)]
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
                (r"\resizebox{\linewidth}{!}{" if wide else "") + rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
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
        writer.writerow(("group", *self.head) if grouped else self.head)
        group = ""
        for row in self.rows:
            if len(row) == 1:
                group = row[0]
            else:
                writer.writerow(map(_cell, (group, *row) if grouped else row))
        return out.getvalue()

    def to_terminal(self, width: int | None = None) -> RenderableType:
        """Return what Rich prints: a block a heading, its columns broken to fit the width, intervals below values.

        ``width`` is that of the terminal, at least 80 characters.
        """
        width = width or max(80, shutil.get_terminal_size().columns)
        shown: list[RenderableType] = [Text(self.title, style="bold")]
        section: list[tuple[str, ...]] = []
        for row in [*self.rows, ()]:
            if len(row) > 1:
                section.append(tuple(cell.replace(" [", "\n[", 1) for cell in row))
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

    def _blocks(self, rows: Sequence[tuple[str, ...]], width: int) -> list[list[int]]:
        def wide(column: int) -> int:
            cells = [self.head[column], *(row[column] for row in rows)]
            return 2 + max(len(line) for cell in cells for line in cell.split("\n"))

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

    def _block(self, rows: Sequence[tuple[str, ...]], columns: Sequence[int]) -> RichTable:
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in columns:
            justify: Literal["left", "right"] = "right" if column else "left"
            table.add_column(
                Text(self.head[column]), justify=justify, max_width=None if column else FIRST, overflow="fold"
            )
        for row in rows:
            table.add_row(*(Text(row[column]) for column in columns))
        return table


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
