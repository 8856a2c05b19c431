"""The pages' Jinja templates: every value escaped, without control characters; an unknown name is an error."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from selfcorrect.eval.page.values import show_short, show_value
from selfcorrect.printing import clean

HERE = Path(__file__).parent


def templates() -> Environment:
    """Return what loads the templates of this folder."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )
    environment.filters |= {"value": show_value, "short": show_short}
    return environment
