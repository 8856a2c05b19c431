"""``selfcorrect reproduce``: tables and figures of the paper from problems, as a plan of public commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfcorrect.cli.plan import run_steps
from selfcorrect.cli.stages import resumable
from selfcorrect.cli.unchanged import unchanged
from selfcorrect.errors import InputError, nearest
from selfcorrect.extras import needs
from selfcorrect.printing import Command, event, show
from selfcorrect.runs.folder import is_done
from selfcorrect.study import forecast
from selfcorrect.study.graph import Plan, Step, urgent_first
from selfcorrect.study.shipped import EXTRA, SCALES, TABLES

Scale = Literal["laptop", "smollm", "gpu"]


def reproduce(
    names: Annotated[list[str], typer.Argument(help=f"{', '.join(TABLES)}, or all.", show_default=False)],
    scale: Annotated[Scale, typer.Option(help="The embedded model, SmolLM2-135M, or the paper's models.")] = "laptop",
    seeds: Annotated[str, typer.Option(help="Seeds of data and training, such as 0,1,2.")] = "0",
    run: Annotated[Path, typer.Option("--run", help="The folder of the study; a seed has a run folder in it.")] = Path(
        "runs/study"
    ),
    jobs: Annotated[int | None, typer.Option(help="Steps side by side; default: the cores, 2 to 4.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands in order, and what they take.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as JSON, for a script.")] = False,
) -> None:
    """Make tables and figures of the paper: every step a public command, done ones skipped, the rest side by side."""
    steps = study_steps(tables_of(names, scale), scale, numbers(seeds), run)
    taken = forecast.costs(steps, scale)
    steps = urgent_first(steps, {name: cost.seconds or 3600 * cost.gpu_hours for name, cost in taken.items()})
    if dry_run:
        event({"steps": as_rows(steps, taken)}) if as_json else show(show_forecast(steps, taken))
        return
    needs("train", "report")
    show(total(steps, taken))
    with resumable():
        run_steps(steps, run, jobs, unchanged)
    show(f"tables and figures: {run / 'tables'}")


def tables_of(names: Sequence[str], scale: Scale) -> list[str]:
    """Return the tables and figures that words name; ``all`` is every one that the scale has."""
    had = {table for study in SCALES[scale].values() for table in (*study.tables, *study.curves)}
    known = [name for name in (*TABLES, *EXTRA) if name in had]
    for name in names:
        if name not in (*known, "all"):
            raise InputError(
                f"no {name!r} at the scale {scale}{nearest(name, [*known, 'all'])}; there are {', '.join(known)}, all"
            )
    return known if "all" in names else [name for name in known if name in names]


def numbers(text: str) -> list[int]:
    """Return the seeds that an option names."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds: expected whole numbers such as 0,1,2, got {text!r}") from error
    if len(set(found)) < len(found) or min(found) < 0:
        raise InputError(f"--seeds: expected different numbers of at least 0, got {text!r}")
    return found


def study_steps(tables: Sequence[str], scale: Scale, seeds: Sequence[int], run: Path) -> list[Step]:
    """Return every step that tables need, then the reports that write them; each step behind those it waits for."""
    steps: list[Step] = []
    for folder, study in SCALES[scale].items():
        plans = [Plan(study, run / folder / f"s{seed}", seed, f"{folder} s{seed} ".lstrip()) for seed in seeds]
        for plan in plans:
            plan.evaluate(study.rows_of(tables), untrained=plan is plans[0])
            plan.train(name for table in tables for name in study.curves.get(table, ()))
            steps += plan.steps.values()
        for table in tables:
            if table in study.curves:
                shown = plans[0].models(study.curves[table])
            else:
                shown = [row for plan in plans for row in plan.rows(study.tables.get(table, ()))]
            if shown and table != "controls":
                places = [step.folder for step in shown if step.folder]
                steps.append(_report(table, folder, places, run, [step.name for step in shown]))
        made = [step for plan in plans for step in plan.steps]
        if study.rows_of(tables):
            steps.append(_report("claims", folder, [plan.run for plan in plans], run, made))
    return steps


def _report(table: str, folder: str, places: Sequence[Path], run: Path, after: Sequence[str]) -> Step:
    args = ("report", table, *map(str, places), "--out", str(run / "tables" / folder))
    return Step(f"{folder} report {table}".lstrip(), args, None, tuple(after))


def show_forecast(steps: Sequence[Step], taken: Mapping[str, forecast.Cost]) -> RenderableType:
    """Return the plan: commands in the order in which they may run one after another, each with what it takes."""
    resuming = any(cost.resume_gb for cost in taken.values())
    table = Table("step", "takes", "GB", *(["GB to resume"] if resuming else []), "state", title="plan")
    for step in steps:
        cost = taken[step.name]
        takes = f"{cost.gpu_hours:,.1f} GPU h" if cost.gpu_hours else f"{cost.seconds:,.0f} s"
        resume = [f"{cost.resume_gb:,.0f}"] if resuming else []
        table.add_row(step.name, takes, f"{cost.gb:,.2f}", *resume, _state(step))
    commands = [Command(f"selfcorrect {shlex.join(step.args)}", style="") for step in steps]
    return Group(table, total(steps, taken), Text(), *commands)


def total(steps: Sequence[Step], taken: Mapping[str, forecast.Cost]) -> RenderableType:
    """Return one line: what is still to do, and what that takes."""
    left = [step for step in steps if _state(step) != "done"]
    hours, gpu = (sum(getattr(taken[step.name], key) for step in left) for key in ("seconds", "gpu_hours"))
    disk = sum(taken[step.name].gb for step in left)
    resume = max((taken[step.name].resume_gb for step in left), default=0.0)
    said = f"{len(left)} of {len(steps)} steps to do"
    if gpu:
        said += (
            f": about {gpu:,.0f} GPU hours and {disk:,.0f} GB, {resume:,.0f} more while the largest step trains (to "
            f"to resume from), if {forecast.SAMPLED_A_SECOND:,.0f} tokens a second and GPU are sampled, "
            f"{forecast.MEAN_TOKENS} a part, and training runs at {forecast.FLOPS / 1e12:.0f} TFLOP/s (assumptions: "
            "nothing of this has run here)"
        )
    else:
        said += f": about {hours / 60:,.0f} minutes of one idle core, {disk:,.2f} GB"
    return Text(said, style="bold")


def _state(step: Step) -> str:
    return "always made" if step.folder is None else "done" if is_done(step.folder) else "to do"


def as_rows(steps: Sequence[Step], taken: Mapping[str, forecast.Cost]) -> list[dict[str, object]]:
    """Return the plan for a script."""
    return [
        {
            "step": step.name,
            "command": ["selfcorrect", *step.args],
            "after": list(step.after),
            "state": _state(step),
            "seconds": round(taken[step.name].seconds, 1),
            "gpu_hours": round(taken[step.name].gpu_hours, 2),
            "gb": round(taken[step.name].gb, 3),
            "resume_gb": round(taken[step.name].resume_gb, 3),
        }
        for step in steps
    ]
