"""How the command line ends: a known error is one message, never a traceback."""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

from rich.panel import Panel
from rich.text import Text

from selfcorrect import printing
from selfcorrect.launched import report_to_launcher


def fail(message: str, code: int = 1, error: BaseException | None = None) -> NoReturn:
    """Print an error for the user and leave; with ``-v``, where it came from first."""
    if error is not None and printing.is_verbose():
        printing.complain("".join(traceback.format_exception(error)), style="dim")
    if not report_to_launcher(message):
        printing.complain(Panel(Text(message), title="selfcorrect", title_align="left", border_style="red"))
    sys.exit(code)
