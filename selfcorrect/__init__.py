"""selfcorrect: models that solve, judge and revise their own answers (arXiv 2502.19613)."""

from __future__ import annotations

__version__ = "0.1.0"
