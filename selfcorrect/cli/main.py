"""The command line: gen | train | eval | report | demo | reproduce | chat | serve | push | grade | compare | doctor.

Every stage command takes the name of a shipped recipe or a YAML file, then ``key=value`` overrides.
Stages are imported inside their command, so ``--help`` is quick.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from selfcorrect import __version__, printing
from selfcorrect.cli.chat import chat
from selfcorrect.cli.errors import fail
from selfcorrect.cli.evaluate import eval_app
from selfcorrect.cli.gen import gen
from selfcorrect.cli.grade import compare, grade
from selfcorrect.cli.options import AsJson, DryRun, RunOption, TakesTexts
from selfcorrect.cli.push import push
from selfcorrect.cli.recipes import recipes_app
from selfcorrect.cli.report import report_app
from selfcorrect.cli.reproduce import reproduce
from selfcorrect.cli.serve import serve
from selfcorrect.cli.stages import resumable
from selfcorrect.cli.train import train_app
from selfcorrect.errors import SelfCorrectError
from selfcorrect.explained import explained
from selfcorrect.extras import needs
from selfcorrect.launched import report_to_launcher, write_to_launching_terminal
from selfcorrect.printing import event, show
from selfcorrect.runs.progress import loading

app = typer.Typer(
    help="Self-rewarding self-correction: models that solve, judge and revise their own answers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        show(f"selfcorrect {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=show_version, is_eager=True)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results and errors alone; may stand after the command, too.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print libraries' notices and, of an error, where it came from.")
    ] = False,
) -> None:
    """Options of every command; `main` has read them."""


app.command("gen")(gen)
app.add_typer(train_app, name="train")
app.add_typer(eval_app, name="eval")
app.add_typer(report_app, name="report")


@app.command()
def demo(
    run: RunOption = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of every stage.")] = 0,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also IFT with GRPO's compute, GRPO with a random reward, with a KL.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """The whole way on the embedded model: problems → data → SFT → GRPO → result table and report."""
    from selfcorrect.cli import plan
    from selfcorrect.cli.unchanged import unchanged
    from selfcorrect.eval.tables.demo_table import demo_tables, show_rows_of

    steps = plan.demo_steps(run, seed) + (plan.control_steps(run, seed) if controls else [])
    if dry_run:
        show(plan.show_plan(steps))
        return
    needs("train", "report")
    with resumable():
        seconds = plan.run_steps(steps, run, check=unchanged)
    demo_tables(run, seconds)
    show(show_rows_of(run))
    from selfcorrect.eval.page.page import write_report

    show(Text.assemble("report: ", (str(write_report(run)), "bold")))


app.command("reproduce")(reproduce)
app.command("push")(push)
app.command("chat")(chat)
app.command("serve")(serve)
app.command("grade", cls=TakesTexts)(grade)
app.command("compare")(compare)
app.add_typer(recipes_app, name="recipes")


@app.command()
def doctor(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder: compare what its stages finished by hash, line by line.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print versions, devices, which engines work here and how to install the others; or look a run folder over."""
    if run is not None:
        from selfcorrect.runs.inspection import inspect

        inspected = inspect(run)
        event(inspected.to_json()) if as_json else show(inspected)
        raise typer.Exit(0 if inspected.is_whole else 1)
    from selfcorrect.doctor import diagnose

    with loading("PyTorch, and trying engines and grader"):
        found = diagnose()
    event(found.to_json()) if as_json else show(found)


def main(args: list[str] | None = None) -> None:
    """Run the command line; a known error is one message and exit code 1, never a traceback."""
    write_to_launching_terminal()
    printing.accept_any_text()
    logging.lastResort = printing.Logged(logging.WARNING)
    try:
        app(with_level(sys.argv[1:] if args is None else args))
    except SelfCorrectError as error:
        fail(str(error), error=error)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the reader went away; flushing at exit must not fail
        sys.exit(1)
    except Exception as error:
        message = explained(error)
        if message is None:
            report_to_launcher(f"a fault of selfcorrect: {error!r:.500}; the same command without --launch shows where")
            raise
        fail(message, error=error)


def with_level(words: Sequence[str]) -> list[str]:
    """Return the arguments without ``-q`` and ``-v``, wherever they stand, once they are in the environment."""
    kept, rest = list[str](), iter(words)
    for word in rest:
        if word == "--":
            kept += [word, *rest]
        elif word in ("-q", "--quiet", "-v", "--verbose"):
            os.environ[printing.LEVEL] = "quiet" if "q" in word[:3] else "verbose"
        else:
            kept.append(word)
    return kept
