"""selfcorrect: models that solve, judge and revise their own answers (arXiv 2502.19613).

``from selfcorrect import SelfCorrectModel`` is all that a user of a finished model needs; nothing heavy is
imported until a model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selfcorrect import old_names

if TYPE_CHECKING:
    from selfcorrect.grading import grade
    from selfcorrect.model import SelfCorrectModel

__version__ = "0.2.0"
old_names.install()
__all__ = ["SelfCorrectModel", "__version__", "grade"]


def __getattr__(name: str) -> Any:
    if name == "SelfCorrectModel":
        from selfcorrect.model import SelfCorrectModel

        return SelfCorrectModel
    if name == "grade":
        from selfcorrect.grading import grade

        return grade
    raise AttributeError(f"module 'selfcorrect' has no attribute {name!r}")
