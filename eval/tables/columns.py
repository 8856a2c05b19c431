"""The columns of all result tables, each defined once: the field it shows, its title, what it means, how it is written.

The terminal, Markdown, LaTeX, the page and the glossary's test take them from `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from selfcorrect.eval.results import Estimate, EvalResult
from selfcorrect.table import DASH, Figure, Heading


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``field`` is the name in `RowScores`, in `Budget` or in `Quality`, ``short`` a title in two lines."""

    field: str
    title: str
    meaning: str
    short: str = ""
    decimals: int = 1
    signed: bool = False

    @property
    def heading(self) -> Heading:
        """The title as tables take it."""
        return Heading(self.title, self.meaning, self.short)

    def figure(self, value: float | None, interval: tuple[float, float] | None = None, n: int | None = None) -> Figure:
        """Return a value as it is written in this column."""
        return Figure(value, interval, self.decimals, self.signed, n)


_ALL = (
    Column("n", "n", "scored trajectories"),
    Column("seeds", "seeds", "models by other seeds of data and training, and the lowest and highest Final among them"),
    Column("turn1", "Turn 1", "first attempts that are correct, percent"),
    Column("final", "Final", "final answers that are correct, percent"),
    Column("delta", "Δ", "Final minus Turn 1, points", signed=True),
    Column("i2c", "Δ i→c", "incorrect at turn 1, correct at the end: fixed, percent"),
    Column("c2i", "Δ c→i", "correct at turn 1, incorrect at the end: broken, percent"),
    Column("p_c2i", "p c→i", "broken, percent of the correct first attempts that were then to be revised"),
    Column("rm_C", "RM C", "judged correct, percent of the correct first attempts that have a verdict"),
    Column("rm_W", "RM W", "judged wrong, percent of the wrong first attempts that have a verdict"),
    Column("no_verdict", "no verdict", "first attempts without a well-formed verdict, percent", "no\nverdict"),
    Column("unanswered", "unanswered", "final answers that cannot be read; they count as wrong", "unan-\nswered"),
    Column("ungradable", "ungradable", "trajectories on which the checker failed; they are not in n", "ungra-\ndable"),
    Column("truncated", "cut", "trajectories that reached a token limit"),
    Column("tokens_per_problem", "tokens", "sampled tokens a trajectory, mean", decimals=0),
    Column("model_problems", "problems seen", "problems on which the model was sampled or trained, stage by stage"),
    Column("model_sampled", "tokens sampled", "to make the model: by gen for its rows, and in its rollouts"),
    Column("model_trained", "tokens trained on", "of the rows and trajectories of its updates, once for each time"),
    Column("never_flagged", "never flagged", "wrong at turn 1 and not noticed, percent"),
    Column("not_fixed", "not fixed", "wrong at turn 1, noticed, wrong at the end, percent"),
    Column("fixed", "fixed", "wrong at turn 1, noticed, correct at the end, percent"),
    Column("broken", "broken", "correct at turn 1, flagged, wrong at the end, percent"),
    Column("kept", "kept", "correct at turn 1, flagged, correct at the end, percent"),
    Column("left_alone", "left alone", "correct at turn 1 and not flagged, percent"),
    Column("wrong", "wrong", "wrong at turn 1, percent"),
    Column(
        "perfect_judge",
        "perfect judge, fixing as now",
        "Final if exactly the wrong attempts were flagged, assuming that the share fixed of those flagged now holds",
    ),
    Column(
        "perfect_fixer",
        "perfect fixer, judging as now",
        "Final if every revision were correct, assuming that the same attempts are flagged as now",
    ),
    Column("bottleneck", "lost in", "detection: more wrong attempts are never flagged; fixing: more are not fixed"),
    Column("ece", "ECE", "mean distance of P(correct) from the share that is correct, points, corrected for noise"),
    Column("ece_binned", "as binned", "ECE in ten equal bins, not corrected, points"),
    Column("brier", "Brier", "mean squared difference between P(correct) and correctness", decimals=3),
    Column("auroc", "AUROC", "chance that a correct attempt has a higher P(correct) than a wrong one", decimals=3),
    Column("aurc", "AURC", "mean error rate over all shares of attempts answered, most certain first, percent"),
)
COLUMNS = {column.field: column for column in _ALL}

REACHED = ("turn1", "final", "delta", "i2c", "c2i")
"""What was reached, in percent and points."""
JUDGED = ("rm_C", "rm_W", "no_verdict")
"""How the model judged itself; a dash for methods that do not."""
COUNTED = ("unanswered", "ungradable", "truncated", "tokens_per_problem")
COMPUTE = {"model_problems": "problems", "model_sampled": "sampled_tokens", "model_trained": "trained_tokens"}
"""What it took to make the model of a row; a dash where that is not recorded."""


def headings(fields: Iterable[str]) -> tuple[Heading, ...]:
    """Return the titles of columns."""
    return tuple(COLUMNS[field].heading for field in fields)


def cell(result: EvalResult, field: str) -> str:
    """Return what a result has in a column: a measure with its interval, a count, or a dash."""
    column = COLUMNS[field]
    value = getattr(result.compute, COMPUTE[field], None) if field in COMPUTE else getattr(result.scores, field)
    if isinstance(value, Estimate):
        if field in JUDGED and not result.scores.has_verdicts:
            return Figure(None)
        return column.figure(value.value, value.interval, value.n if field in ("rm_C", "rm_W") else None)
    if isinstance(value, int):
        return f"{value:,}"
    return DASH if value is None else column.figure(value)
