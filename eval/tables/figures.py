"""Figures as PNG and SVG: learning (figure 1), voting at equal cost (figure 2), reliability and risk-coverage."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selfcorrect.eval.analysis.calibration import risk_coverage
from selfcorrect.eval.analysis.voting import UNITS, Curve
from selfcorrect.eval.tables.learning_curves import RUNNING
from selfcorrect.eval.tables.paper_tables import Believed
from selfcorrect.metrics import Share
from selfcorrect.printing import clean
from selfcorrect.runs.files import whole_file

FEWEST = 20  # attempts; risk is not drawn at coverages of fewer
COLOURS = ("#2c6fad", "#cf5a2b", "#23807a", "#94690f", "#7a4fa3", "#5d646d")
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#eceef0",
    "axes.axisbelow": True,
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "selfcorrect",
    "svg.fonttype": "none",
}


@contextmanager
def drawing(name: str, out: Path, panels: int, written: list[Path]) -> Iterator[Sequence[Axes]]:
    """Give ``panels`` axes side by side and save them as ``<out>/<name>.png`` and ``.svg``."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * panels, 3.6), layout="constrained")
        yield list(figure.subplots(1, panels, squeeze=False)[0])
        for ending in ("png", "svg"):
            path = out / f"{name}.{ending}"
            with whole_file(path) as file:
                figure.savefig(file, format=ending, dpi=160, metadata={"Date": None} if ending == "svg" else None)
            written.append(path)


def figure1(curves: Mapping[str, Sequence[Mapping[str, float]]], out: Path) -> list[Path]:
    """Draw turn-1 and final accuracy, and response length, against the RL step; one colour a checkpoint.

    Each step has problems of its own, so its figures scatter: they are pale, the mean of the last `RUNNING` in colour.
    """
    written: list[Path] = []
    with drawing("figure1", out, 2, written) as (left, right):
        for colour, (name, steps) in zip(COLOURS * len(curves), curves.items(), strict=False):
            x = [step["step"] for step in steps]
            shown = [(left, "turn1", "--", f"{name}: turn 1"), (left, "final", "-", f"{name}: final")]
            shown += [(right, "mean_length", "-", name)] if all("mean_length" in step for step in steps) else []
            for axes, key, line, label in shown:
                y = [step[key] for step in steps]
                axes.plot(x, y, line, color=colour, lw=0.7, alpha=0.3)
                smooth = [statistics.fmean(y[max(0, at - RUNNING + 1) : at + 1]) for at in range(len(y))]
                axes.plot(x, smooth, line, color=colour, lw=1.6, label=as_text(label))
        left.set(xlabel="RL step", ylabel=f"accuracy on rollouts, %; mean of {RUNNING}")
        right.set(xlabel="RL step", ylabel="response length, tokens")
        left.legend(fontsize=7)
    return written


def figure2(curves: Sequence[tuple[str, Curve]], out: Path) -> list[Path]:
    """Draw accuracy against sampled responses and against tokens, with 95% bands."""
    written: list[Path] = []
    with drawing("figure2", out, 2, written) as panels:
        for axes, unit in zip(panels, UNITS, strict=True):
            for colour, (label, curve) in zip(COLOURS * len(curves), curves, strict=False):
                if not curve.has(unit):
                    continue
                x = [getattr(point, unit) for point in curve.points]
                line = "--" if curve.method == "verdict-weighted" else "-"  # it often covers best-of-n
                low, high = zip(*(point.interval for point in curve.points), strict=True)
                axes.fill_between(x, low, high, color=colour, alpha=0.1, lw=0)
                axes.plot(
                    x, [p.accuracy for p in curve.points], f"o{line}", ms=3, color=colour, lw=1.4, label=as_text(label)
                )
            axes.set_xscale("log", base=2)
            axes.set(xlabel=f"{unit} a problem", ylabel="accuracy, %")
            axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        _legend_below(panels[0])
    return written


def as_text(label: str) -> str:
    """Return a label that is drawn as it is: without controls, and without mathematics where it has dollar signs."""
    return clean(label).replace("$", r"\$")


def _legend_below(axes: Axes) -> None:
    """Name the curves of an axes once for the whole figure, below it."""
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)


def calibration(measured: Sequence[Believed], out: Path) -> list[Path]:
    """Draw the reliability diagram, in ten bins of equal count, and the risk-coverage curve of each row.

    The axis of P(correct) is in log-odds: trained verdicts crowd at 0 and 1, where ten bins of equal width say nothing.
    """
    written: list[Path] = []
    with drawing("calibration", out, 2, written) as (left, right):
        line = np.linspace(0.001, 0.999, 999)
        left.plot(line, 100 * line, ":", color="#737a83", lw=1)
        for colour, row in zip(COLOURS * len(measured), measured, strict=False):
            bins = equal_count_bins(row.points)
            x, y = [mean for mean, _ in bins], [share.percent or 0.0 for _, share in bins]
            whiskers = np.abs(np.array([share.interval or (0.0, 100.0) for _, share in bins]).T - np.array(y))
            left.errorbar(
                x, y, whiskers, fmt="o:", ms=3, lw=0.8, elinewidth=0.8, color=colour, label=as_text(row.row.title)
            )
            p, correct_N = np.array([p for p, _ in row.points]), np.array([float(r) for _, r in row.points])
            coverage, risk = risk_coverage(p, correct_N)
            right.plot(coverage[FEWEST:], risk[FEWEST:], color=colour, lw=1.4, label=as_text(row.row.title))
        left.set_xscale("logit")
        left.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        left.xaxis.set_minor_formatter(lambda value, place: "")
        left.set(xlabel="P(correct), in log-odds", ylabel="right, %", ylim=(0, 100))
        right.set(xlabel="coverage: share of attempts kept, most certain first, %", ylabel="wrong among them, %")
        _legend_below(left)
    return written


def equal_count_bins(points: Sequence[tuple[float, bool]], count: int = 10) -> list[tuple[float, Share]]:
    """Return (mean P(correct), share right) of ``count`` bins that hold as many attempts each."""
    ordered = sorted(points)
    cuts = [round(i * len(ordered) / count) for i in range(count + 1)]
    return [
        (sum(p for p, _ in members) / len(members), Share(sum(right for _, right in members), len(members)))
        for members in (ordered[a:b] for a, b in pairwise(cuts))
        if members
    ]
