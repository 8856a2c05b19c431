"""MkDocs calls this while it builds the site: README.md and CONTRIBUTING.md become pages, and links follow them.

The pages are written to be read in a checkout, where README.md lies above docs/; on the site it is the first page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
ABOVE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "AGENTS.md": "agents.md"}
"""Files above docs/ that are pages of the site: their names there."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie above docs/."""
    for name, page in ABOVE.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Return a page with its links as they are on the site."""
    return re.sub(r"\]\(([^)\s#]+)(#[^)\s]*)?\)", lambda link: f"]({_on_site(link[1])}{link[2] or ''})", markdown)


def _on_site(target: str) -> str:
    """Return where a link of a page in the checkout leads on the site."""
    path = target.removeprefix("../").removeprefix("docs/")
    return ABOVE.get(path, path) if path != target or path in ABOVE else target
