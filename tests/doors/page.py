"""The lines that docs/doors.md prints for a tool, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def lines_of(tool: str, language: str) -> str:
    """Return the first code block in a language under the heading of a tool."""
    page = (ROOT / "docs" / "doors.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(tool)}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section, f"docs/doors.md has no section {tool}"
    block = re.search(rf"^```{language}\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    assert block, f"the section {tool} of docs/doors.md has no {language} block"
    return block[1]
