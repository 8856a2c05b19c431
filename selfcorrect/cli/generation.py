"""The stage of ``selfcorrect gen``, for its command and for plans of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selfcorrect.cli import closing
from selfcorrect.cli.stages import Stage, importing

if TYPE_CHECKING:
    from selfcorrect.data_gen.recipe import GenRecipe


def generation() -> Stage[GenRecipe, dict[str, Any]]:
    """Return the stage that makes the data."""
    with importing():
        from selfcorrect.data_gen import pipeline as program
    return Stage(
        "gen", "data_gen", "embedded", program.GenRecipe, program.plan, program.run, closing.gen_folder,
        closing.close_gen,
    )  # fmt: skip
