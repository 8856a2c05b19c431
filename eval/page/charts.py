"""Small SVG charts for the report: learning curves and reliability. Values in, markup out, nothing else.

Drawn by hand and not by a plotting library: colours are CSS classes (one picture serves light and dark), text is
real text in the page's font, the output is the same bytes for the same numbers. Every label is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from selfcorrect.metrics import Share
from selfcorrect.table import Figure

WIDTH, HEIGHT = 300, 198
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 24, 38
FEW = 10  # judgements; bins with fewer are drawn faint
MOST_POINTS = 240  # of one drawn line; longer series are averaged down to this
MOST_READ = 80  # places of a curve whose values can be read with the cursor

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a learning-curve panel: finite points in order of x."""

    name: str
    points: tuple[Point, ...]


def curve_panel(series: Sequence[Series]) -> Markup:
    """Return one panel of learning curves: the logged values pale, a running mean over them where they are many.

    Under the cursor the step and the drawn values are written at the top.
    """
    points = [point for line in series for point in line.points]
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    if first == last:
        first, last = first - 1, last + 1
    x_ticks = [x for x in ticks(first, last, 4) if first <= x <= last]
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points), 4)
    x_of = _scale((first, last), (LEFT, WIDTH - RIGHT))
    y_of = _scale((y_ticks[0], y_ticks[-1]), (HEIGHT - BOTTOM, TOP))
    parts = [_axes(x_ticks, y_ticks, x_of, y_of), _under("training step")]
    for place, line in enumerate(series):
        drawn = averaged_down(line.points)
        smooth = running_mean(drawn)
        colour = f"s{place % 3}"
        if len(drawn) == 1:
            x, y = drawn[0]
            parts.append(f'<circle class="{colour} dot" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3"/>')
            continue
        if smooth:
            parts.append(f'<path class="{colour} pale" d="{_line(drawn, x_of, y_of)}"/>')
        parts.append(f'<path class="{colour}" d="{_line(smooth or drawn, x_of, y_of)}"/>')
    parts += _readings(series, x_of)
    names = ", ".join(line.name for line in series)
    return _svg(f"{names} by training step", HEIGHT, parts)


def _readings(series: Sequence[Series], x_of: _scale) -> list[str]:
    """Return strips side by side, each of which shows a hairline and its values while the cursor is over it."""
    at: dict[float, list[str]] = {}
    for line in series:
        for x, y in averaged_down(line.points, MOST_READ):
            at.setdefault(round(x, 1), []).append(f"{line.name} {_number(float(f'{y:.4g}'))}")
    xs = sorted(at)
    words = [escape(f"step {_number(x)}: {', '.join(at[x])}") for x in xs]
    edges = [LEFT, *((x_of(a) + x_of(b)) / 2 for a, b in pairwise(xs)), WIDTH - RIGHT]
    tall = HEIGHT - BOTTOM - TOP
    return [
        f'<g class="at"><rect x="{low:.1f}" y="{TOP}" width="{high - low:.1f}" height="{tall}"/>'
        f'<path d="M{x_of(x):.1f} {TOP}v{tall}"/>'
        f'<text x="{WIDTH - RIGHT}" y="12" text-anchor="end">{shown}</text></g>'
        for x, shown, (low, high) in zip(xs, words, pairwise(edges), strict=True)
    ]


def _under(words: str, bottom: float = HEIGHT - BOTTOM) -> str:
    """Return the title of the axis across."""
    middle = (LEFT + WIDTH - RIGHT) / 2
    return f'<text class="axis" x="{middle:.0f}" y="{bottom + 31:.0f}" text-anchor="middle">{escape(words)}</text>'


@dataclass(frozen=True, slots=True)
class Band:
    """One line with a band around it: points in order of x, and (low, high) at each."""

    name: str
    points: tuple[Point, ...]
    bounds: tuple[Point, ...]


def band_panel(bands: Sequence[Band], unit: str) -> Markup:
    """Return lines with bands over a logarithmic axis of powers of two (what n paths cost)."""
    xs = [math.log2(x) for band in bands for x, _ in band.points]
    first, last = math.floor(min(xs)), max(math.floor(min(xs)) + 1, math.ceil(max(xs)))
    low = min(bound for band in bands for bound, _ in band.bounds)
    high = max(bound for band in bands for _, bound in band.bounds)
    y_ticks = ticks(low, high, 4)
    x_of = _scale((first, last), (LEFT, WIDTH - RIGHT))
    y_of = _scale((y_ticks[0], y_ticks[-1]), (HEIGHT - BOTTOM, TOP))
    every = 1 + (last - first) // 6
    parts = [_axes([], y_ticks, x_of, y_of), _under(f"{unit} a problem, logarithmic")]
    parts += [
        f'<text x="{x_of(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_number(2.0**x)}</text>'
        for x in range(first, last + 1, every)
    ]
    for place, band in enumerate(bands):
        colour = f"s{place % 4}"
        x_log = [math.log2(x) for x, _ in band.points]
        upper = [(x, bound) for x, (_, bound) in zip(x_log, band.bounds, strict=True)]
        lower = [(x, bound) for x, (bound, _) in zip(x_log, band.bounds, strict=True)]
        parts.append(f'<path class="{colour} band" d="{_line([*upper, *reversed(lower)], x_of, y_of)}Z"/>')
        line = [(x, y) for x, (_, y) in zip(x_log, band.points, strict=True)]
        parts.append(f'<path class="{colour}" d="{_line(line, x_of, y_of)}"/>')
        for (x, y), (cost, _), (least, most) in zip(line, band.points, band.bounds, strict=True):
            words = f"{band.name}: {y:.1f}% ({least:.1f} to {most:.1f}) at {cost:.1f} {unit}"
            centre = f'cx="{x_of(x):.1f}" cy="{y_of(y):.1f}"'
            parts.append(
                f'<g><title>{escape(words)}</title><circle class="hit" {centre} r="9"/>'
                f'<circle class="{colour} dot" {centre} r="3"/></g>'
            )
    return _svg(f"Accuracy by {unit}: {', '.join(band.name for band in bands)}", HEIGHT, parts)


@dataclass(frozen=True, slots=True)
class Reliability:
    """Ten equal bins of P(correct) of the first attempts: mean P(correct) and how many were correct in each."""

    bins: tuple[tuple[float, Share], ...]  # (mean P(correct), correct of how many), empty bins with n = 0

    @classmethod
    def of(cls, judged: Sequence[tuple[float, bool]]) -> Reliability:
        """Bin ``(p_correct, is correct)`` pairs."""
        bins = []
        for place in range(10):
            members = [(p, right) for p, right in judged if min(9, int(p * 10)) == place]
            mean = sum(p for p, _ in members) / len(members) if members else (place + 0.5) / 10
            bins.append((mean, Share(sum(right for _, right in members), len(members))))
        return cls(tuple(bins))

    @property
    def n(self) -> int:
        """How many judged attempts were binned."""
        return sum(share.n for _, share in self.bins)

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of P(correct) from the share that was correct, weighted by count, in percent points."""
        return sum(abs(100 * mean * share.n - 100 * share.hits) for mean, share in self.bins) / max(1, self.n)

    @property
    def ece(self) -> Figure:
        """The same as it is shown."""
        return Figure(self.expected_calibration_error)


def reliability_panel(reliability: Reliability) -> Markup:
    """Return a reliability diagram with 95% intervals, and below it how many judgements each bin holds."""
    square = WIDTH - LEFT - RIGHT
    bottom = TOP + square
    height = bottom + 96
    x_of = _scale((0, 1), (LEFT, WIDTH - RIGHT))
    y_of = _scale((0, 100), (bottom, TOP))
    parts = [_axes([0, 0.5, 1], [0, 50, 100], x_of, y_of, bottom), _under("P(correct) of the attempt", bottom)]
    parts.append('<text class="axis" x="0" y="12">correct, percent</text>')
    parts.append(f'<text class="axis" x="0" y="{height - 40:.0f}">n</text>')
    parts.append(f'<path class="ideal" d="M{x_of(0)} {y_of(0)}L{x_of(1)} {y_of(100)}"/>')
    most = max(share.n for _, share in reliability.bins)
    base = height - 20
    for place, (mean, share) in enumerate(reliability.bins):
        centre = x_of((place + 0.5) / 10)
        tall = 26 * share.n / max(1, most)
        parts.append(
            f'<rect class="count" x="{centre - 10:.1f}" y="{base - tall:.1f}" width="20" height="{tall:.1f}"/>'
        )
        if share.n:
            parts.append(f'<text class="tiny" x="{centre:.1f}" y="{base + 11}" text-anchor="middle">{share.n}</text>')
        if share.interval is None or share.percent is None:
            continue
        low, high = share.interval
        x, y = x_of(mean), y_of(share.percent)
        title = (
            f"P(correct) {mean:.2f}: {share.hits} of {share.n} correct, {share.percent:.1f}% ({low:.1f} to {high:.1f})"
        )
        faint = ' class="faint"' if share.n < FEW else ""
        parts.append(
            f'<g{faint}><title>{title}</title><circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
            f'<path class="whisker" d="M{x:.1f} {y_of(low):.1f}V{y_of(high):.1f}"/>'
            f'<circle class="s0 dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/></g>'
        )
    return _svg(f"Share correct by P(correct), {reliability.n} judgements", height, parts)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return round tick values that enclose ``low`` and ``high``, about ``most`` of them."""
    if high <= low:
        pad = abs(low) * 0.5 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / most
    unit: float = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def averaged_down(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most ``most`` points, each the mean of a run of neighbours."""
    if len(points) <= most:
        return list(points)
    cuts = [round(place * len(points) / most) for place in range(most + 1)]
    return [_mean(points[a:b]) for a, b in pairwise(cuts)]


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Return the centred running mean of a line of 24 points or more; nothing for a shorter one."""
    if len(points) < 24:
        return []
    reach = max(2, len(points) // 24)
    means = (_mean(points[max(0, place - reach) : place + reach + 1])[1] for place in range(len(points)))
    return [(x, mean) for (x, _), mean in zip(points, means, strict=True)]


def _mean(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


class _scale:
    """A linear map of one interval onto another."""

    def __init__(self, source: tuple[float, float], target: tuple[float, float]) -> None:
        self.source, self.target = source, target

    def __call__(self, value: float) -> float:
        (a, b), (c, d) = self.source, self.target
        return c + (value - a) / (b - a) * (d - c)


def _axes(
    x_ticks: Sequence[float], y_ticks: Sequence[float], x_of: _scale, y_of: _scale, bottom: float = HEIGHT - BOTTOM
) -> str:
    parts = []
    for y in y_ticks:
        place = y_of(y)
        parts.append(f'<path class="grid" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{place + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    parts.extend(
        f'<text x="{x_of(x):.1f}" y="{bottom + 16:.0f}" text-anchor="middle">{_number(x)}</text>' for x in x_ticks
    )
    return "".join(parts)


def _line(points: Sequence[Point], x_of: _scale, y_of: _scale) -> str:
    return "M" + "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in points)


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


def _svg(title: str, height: float, parts: Sequence[str]) -> Markup:
    body = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )
