"""The one way to the terminal. What others wrote is shown as text: it is never obeyed and never read as markup.

Labels, ids, problems, answers and servers' errors may hold anything: terminal escapes that set the title or write the
clipboard, characters that turn the reading direction, Rich's own markup. Everything printed goes through `show`
(results, to standard output), `note` (what accompanies them) or `complain`, and so through a `Terminal`. It reads no
markup and writes such characters out, as ``\\x1b``. So does what is logged (`Logged`). JSON for a parent process or a
script goes through `event`.
tests/selfcorrect/test_printing.py finds every print that goes past them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

LEVEL = "SELFCORRECT_OUTPUT"
"""Environment variable, for this process and its children: ``quiet`` (results and errors alone), ``verbose``."""

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # all controls but tab and line feed
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # reading direction, line separators
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"  # annotations, lone surrogates, invisible tags
)


def clean(text: str) -> str:
    """Return a text in which all that a terminal obeys but line breaks and tabs is written out, such as ``\\x1b``."""
    return _OBEYED.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Terminal(Console):
    """A Rich console that reads no markup and shows control characters instead of passing them on."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable; all that this console writes passes here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)


class Command:
    """A shell command to be copied: on a `Terminal` one line, however long; elsewhere it continues after ``\\``."""

    def __init__(self, command: str, style: str = "dim") -> None:
        self.command, self.style = command, style

    def __str__(self) -> str:
        return self.command

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbroken = isinstance(console, Terminal)
        for line in [self.command] if unbroken else continued(self.command, options.max_width):
            yield Text(line, self.style, no_wrap=True, overflow="ignore")


def continued(command: str, width: int) -> list[str]:
    """Return a command as lines of at most ``width`` characters that a shell joins again; words stay whole."""
    lines: list[str] = []
    for word in re.findall(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""", command):  # as shlex.join quotes
        if lines and len(lines[-1]) + len(word) + 3 <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}" if lines else word)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


output = Terminal()
errors = Terminal(stderr=True)


def is_quiet() -> bool:
    """True where results and errors alone are wanted (``-q``)."""
    return os.environ.get(LEVEL) == "quiet"


def is_verbose() -> bool:
    """True where everything is wanted (``-v``): libraries' notices, and the traceback of an error."""
    return os.environ.get(LEVEL) == "verbose"


def show(*what: RenderableType, style: str | None = None) -> None:
    """Print results to standard output."""
    output.print(*what, style=style, crop=False)


def show_part(text: str, style: str = "") -> None:
    """Print a part of a text to standard output as it comes: no line is ended, none is broken."""
    output.print(Text(clean(text), style), end="", soft_wrap=True)  # `Text` would drop a bell, not show it


def show_file(text: str) -> None:
    """Print the text of a file to standard output, line by line as it is: no line is broken."""
    output.print(Text(text), soft_wrap=True)


def note(*what: RenderableType, style: str | None = "dim") -> None:
    """Print what accompanies results to standard error, unless only results are wanted.

    Of the processes that train together only the first speaks.
    """
    if not is_quiet() and os.environ.get("RANK", "0") == "0":
        errors.print(*what, style=style, crop=False)


def complain(*what: RenderableType, style: str | None = None) -> None:
    """Print an error or a warning to standard error, always."""
    errors.print(*what, style=style, crop=False)


class Logged(logging.Handler):
    """Shows the log records that no other handler takes, their tracebacks too: for `logging.lastResort`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        errors.print(Text(clean(self.format(record))), soft_wrap=True)


def event(values: Any) -> None:
    """Print one line of JSON to standard output, for a parent process or a script."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def accept_any_text() -> None:
    """Let the standard streams write any text: what their encoding lacks is written out, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
