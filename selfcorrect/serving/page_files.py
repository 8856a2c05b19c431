"""The files of the page at ``/``: its own, the look of the report, and KaTeX with its fonts. Served by `app`."""

from __future__ import annotations

from pathlib import Path

from selfcorrect.shipped import PACKAGE

PAGE = PACKAGE / "serving" / "page"
REPORT = PACKAGE / "eval" / "page"  # files of the report, not its code
KATEX = REPORT / "vendor" / "katex"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".woff2": "font/woff2",
}


def page_files() -> dict[str, Path]:
    """Return every file that the page may load, by its address below ``/page/``; nothing else is served."""
    named = [PAGE / "page.css", PAGE / "page.js", REPORT / "report.css", REPORT / "mathematics.js"]
    named += [KATEX / "katex.min.css", KATEX / "katex.min.js"]
    fonts = {f"fonts/{path.name}": path for path in sorted((KATEX / "fonts").glob("*.woff2"))}
    return {path.name: path for path in named} | fonts
