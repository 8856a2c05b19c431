"""What others wrote, in Markdown: shown as it is, whatever it holds. For tables, model cards and data set cards."""

from __future__ import annotations

import re

from selfcorrect.printing import clean


def inline(text: str) -> str:
    """Return text for a line or a table's cell: no cell ends in it, no HTML, link, picture or code begins in it."""
    shown = clean(text.replace("\\", "\\\\")).replace("\n", " ").replace("\t", " ")
    return shown.replace("|", r"\|").replace("<", "&lt;").replace("`", r"\`").replace("](", r"]\(")


def code(text: str) -> str:
    """Return text as code within a line."""
    shown = clean(text).replace("\n", " ").replace("|", r"\|")
    ticks = _longer_than_any("`", shown, 1)
    space = " " if "`" in shown else ""
    return f"{ticks}{space}{shown}{space}{ticks}"


def fenced(text: str, language: str = "") -> str:
    """Return text as a block of code, behind a fence that it cannot close."""
    fence = _longer_than_any("`", text, 3)
    return f"{fence}{language}\n{clean(text).strip()}\n{fence}"


def _longer_than_any(character: str, text: str, least: int) -> str:
    runs = [len(run) for run in re.findall(f"{re.escape(character)}+", text)]
    return character * max(least, max(runs, default=0) + 1)
