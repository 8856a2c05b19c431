"""``selfcorrect report``: tables, figures and pages from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from selfcorrect.cli.options import AsJson
from selfcorrect.printing import event, show

report_app = typer.Typer(help="Tables, figures and pages from finished runs.", no_args_is_help=True)


@report_app.command("html")
def report_html(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    beside: Annotated[Path | None, typer.Argument(help="Another run, to look at side by side.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained page: tables, plots and a trajectory viewer."""
    from selfcorrect.eval.page.page import write_report

    page = write_report(run, beside)
    event({"report": "html", "files": [str(page)]}) if as_json else show(Text.assemble("report: ", (str(page), "bold")))


def report_command(name: str, what: str) -> None:
    """Register ``report NAME RUNS...``."""

    @report_app.command(name, help=what)
    def report(
        runs: Annotated[list[Path], typer.Argument(help="Run folders, or single rows such as runs/demo/eval/ift.")],
        out: Annotated[Path | None, typer.Option(help="Where files go; default: tables/ in the first run.")] = None,
        beside: Annotated[str | None, typer.Option(help="Part of a table to hold ours against, such as GSM8K.")] = None,
        by: Annotated[str | None, typer.Option(help="budget: a field of the problems, such as level.")] = None,
        as_json: AsJson = False,
    ) -> None:
        from selfcorrect.eval.tables.make import make

        made = make(name, runs, out, beside, by)
        event(made.to_json()) if as_json else show(made)


for _name, _what in {
    "table3": "Table 3: all methods on MATH500, OlympiadBench and Minerva Math, ours beside the paper's.",
    "table4": "Table 4: accuracy of the self-reward on correct and on wrong attempts.",
    "table5": "Table 5: two-turn chat at temperature 1.0.",
    "table7": "Table 7: who judges: gold, a reward model, the model itself or another.",
    "table8": "Table 8: what the fine-tuning set is made of.",
    "table9": "Table 9: multi-turn DPO by preference set.",
    "table10": "Table 10: as table 5, at temperature 0.7.",
    "figure1": "Figure 1: accuracy and length while RL runs.",
    "figure2": "Figure 2: voting and correcting, at equal responses and at equal tokens.",
    "budget": "Error budget: never flagged, flagged and not fixed, fixed; ceilings; by subject or level.",
    "claims": "What the paper finds, held against run folders that are seeds of one study; with claims.json.",
    "calibration": "ECE, Brier, AUROC, reliability and risk-coverage of P(correct).",
}.items():
    report_command(_name, _what)
