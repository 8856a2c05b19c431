"""The command line: gen | train | eval | demo | report | grade | doctor.

Every stage command takes the name of a shipped recipe or a YAML file, then ``key=value`` overrides.
Stages are imported inside their command, so ``--help`` is quick.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperGroup

from selfcorrect.errors import InputError, SelfCorrectError, nearest
from selfcorrect.progress import meter
from selfcorrect.recipes import load_recipe

app = typer.Typer(
    help="Self-rewarding self-correction: models that solve, judge and revise their own answers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(
    help="Train a model: sft (stage 1), dpo, grpo, ppo (stage 2), orm (a judge), pretrain (the embedded model).",
    no_args_is_help=True,
)
report_app = typer.Typer(help="Tables, figures and pages from finished runs.", no_args_is_help=True)


class RunByDefault(TyperGroup):
    """A group whose first argument may be left out: what is no command of its is meant for ``run``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` before arguments that name no command."""
        named = args and (args[0] in self.commands or args[0] in ("--help", "-h"))
        return super().parse_args(ctx, args if named else ["run", *args])


eval_app = typer.Typer(
    cls=RunByDefault,
    help="Score a model by a method: [bold]eval \\[RECIPE] \\[KEY=VALUE]...[/bold], which is short for eval run.",
)
app.add_typer(eval_app, name="eval")
app.add_typer(train_app, name="train")
app.add_typer(report_app, name="report")

console = Console()
errors = Console(stderr=True)

RecipeArgs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A shipped recipe's name or a YAML file, then overrides such as seed=1 engine.max_batch=64.",
        show_default=False,
    ),
]
RunOption = Annotated[
    Path, typer.Option("--run", help="The run folder: this stage reads and writes there, and resumes.")
]
Fit = Literal["temperature", "platt", "isotonic"]
Target = Literal["best", "broken", "tokens"]
EngineOption = Annotated[
    str | None, typer.Option("--engine", help="transformers, vllm, openai or ray: short for engine.kind=...")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the resolved recipe, a first example and the plan; do nothing.")
]


LaunchOption = Annotated[
    str | None,
    typer.Option(
        "--launch", help="Run on the processes of an accelerate config: ddp, fsdp, zero2, zero3, cpu or a file."
    ),
]


def train_stage(
    program: str, schema: str, args: list[str] | None, default: str, run: Path, dry_run: bool, launch: str | None
) -> None:
    """Run a training program, here or on the processes of an accelerate configuration."""
    if launch and not dry_run:
        resolve("train", args, getattr(import_module(f"train.{program}"), schema), default)  # refuse before launching
        import_module("train.launch").relaunch(launch, sys.argv[1:])
    stage(f"train.{program}", schema, "train", args, default, run, dry_run)


def resolve(stage: str, args: list[str] | None, schema: type[Any], default: str) -> Any:
    """Return the recipe that the arguments of a stage command name, with its overrides."""
    args = list(args or [])
    name = args.pop(0) if args and "=" not in args[0] else default
    shipped_in = Path(__file__).parent.parent / stage / "recipes"
    shipped = {path.stem: path for path in sorted(shipped_in.glob("*.yaml")) if not path.stem.startswith("examples")}
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped.get(name)
    if path is None:
        raise InputError(
            f"no {stage} recipe named {name!r}{nearest(name, shipped)}; shipped: {', '.join(shipped)}; "
            "or give the path of a .yaml file"
        )
    return load_recipe(schema, path, args)


def stage(module: str, schema: str, folder: str, args: list[str] | None, default: str, run: Path, dry_run: bool) -> Any:
    """Run one stage (or show its plan) and return its summary; Ctrl-C leaves with what to do next."""
    program = import_module(module)
    recipe = resolve(folder, args, getattr(program, schema), default)
    if dry_run:
        console.print(program.plan(recipe, run))
        return None
    with resumable():
        check_grader()
        return program.run(recipe, run)


def with_engine(args: list[str] | None, engine: str | None) -> list[str]:
    """Return a stage's arguments with ``--engine`` as the override that it is short for."""
    return [*(args or []), *([f"engine.kind={engine}"] if engine else [])]


def check_grader() -> None:
    """Refuse to start a run on a grader that fails its self-test (verl#7437: a broken grader is silent)."""
    from selfcorrect.grading.self_test import self_test

    if failures := self_test(workers=False):
        raise SelfCorrectError("the grader fails its self-test, so no run can be trusted:\n" + "\n".join(failures))


@app.command()
def gen(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    engine: EngineOption = None,
    dry_run: DryRun = False,
    export: Annotated[
        list[str] | None,
        typer.Option("--export", help="Write the data for trl, axolotl, llama-factory, openrlhf or verl too; repeat."),
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option("--push-to-hub", help="Upload the data set: owner/name on the hub.")
    ] = None,
) -> None:
    """Sample self-correction data: attempts, self-evaluations, revisions, kept by rejection (stage 1)."""
    exports = import_module("data_gen.exports")
    exports.check(export or [])
    stage("data_gen.pipeline", "GenRecipe", "data_gen", with_engine(args, engine), "embedded", run, dry_run)
    if dry_run or not (export or push_to_hub):
        return
    for name, counts in exports.export(run, export or []).items():
        console.print(f"{run / 'export' / name}: " + ", ".join(f"{what} {count:,}" for what, count in counts.items()))
    if push_to_hub:
        console.print(f"pushed to {exports.push_to_hub(run, push_to_hub)}")


@train_app.command()
def sft(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
    show_mask: Annotated[
        bool, typer.Option("--show-mask", help="Print one example coloured by what is learned.")
    ] = False,
) -> None:
    """Fine-tune on the trajectories of `gen`, learning exactly what the recipe says (METHOD eq. 1)."""
    if show_mask:
        program = import_module("train.sft")
        console.print(program.show_first_mask(resolve("train", args, program.SftRecipe, "embedded-sft"), run))
        return
    train_stage("sft", "SftRecipe", args, "embedded-sft", run, dry_run, launch)


@train_app.command()
def grpo(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Reinforce correctness of the last answer with GRPO, starting from a fine-tuned model (stage 2)."""
    train_stage("grpo", "GrpoRecipe", args, "embedded-grpo", run, dry_run, launch)


@train_app.command()
def ppo(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Reinforce with PPO: a value model and GAE in the place of GRPO's groups (stage 2, as in the paper)."""
    train_stage("ppo", "PpoRecipe", args, "embedded-ppo", run, dry_run, launch)


@train_app.command()
def dpo(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Prefer right paths to wrong ones: iterative DPO, or M-DPO on the pairs of `gen` (stage 2)."""
    train_stage("dpo", "DpoRecipe", args, "embedded-dpo", run, dry_run, launch)


@train_app.command()
def orm(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    dry_run: DryRun = False,
    launch: LaunchOption = None,
) -> None:
    """Train an outcome reward model, the external judge that self-rewarding is compared with."""
    train_stage("orm", "OrmRecipe", args, "embedded-orm", run, dry_run, launch)


@train_app.command()
def pretrain(args: RecipeArgs = None, run: RunOption = Path("runs/pretrain"), dry_run: DryRun = False) -> None:
    """Rebuild the embedded model organism from synthetic word problems."""
    stage("train.pretrain", "PretrainRecipe", "train", args, "pretrain", run, dry_run)


@eval_app.command("run")
def evaluate(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    engine: EngineOption = None,
    dry_run: DryRun = False,
) -> None:
    """Run the correction loop on a benchmark and score it: turn 1, final, transitions, self-reward accuracy."""
    row = stage("eval.run", "EvalRecipe", "eval", with_engine(args, engine), "embedded", run, dry_run)
    if row:
        from eval.tables import show_rows

        odd = ", ".join(f"{name} {count}" for name, count in row.get("faults", {}).items())
        console.print(show_rows([row]))
        console.print(Text(f"{row.get('power', '')}; odd paths: {odd or 'none'}", style="dim"))


@eval_app.command("calibrate")
def evaluate_calibrate(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    fit: Annotated[Fit, typer.Option(help="How P(correct) is mapped.")] = "platt",
    target: Annotated[Target, typer.Option(help="best final accuracy, or that within --limit.")] = "best",
    limit: Annotated[
        float | None,
        typer.Option(help="broken: most percent of right answers spoiled; tokens: most tokens a problem."),
    ] = None,
) -> None:
    """Tune the stop decision on validation problems: calibrate P(correct), choose its threshold, save both."""
    program = import_module("eval.commands")
    recipe = resolve("eval", args, program.EvalRecipe, "calibration")
    with resumable():
        check_grader()
        console.print(program.calibrate(recipe, run, fit, target, limit))


@eval_app.command("regrade")
def evaluate_regrade(rows: Annotated[list[Path], typer.Argument(help="Row folders, or run folders.")]) -> None:
    """Grade stored responses again, without sampling: after a change of the grader."""
    check_grader()
    console.print(import_module("eval.commands").regrade_rows(rows))


@eval_app.command("compare")
def evaluate_compare(
    a: Annotated[Path, typer.Argument(help="A row folder, such as runs/demo/eval/ift.")],
    b: Annotated[Path, typer.Argument(help="The row folder to hold against it.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write every flip to this .jsonl file.")] = None,
) -> None:
    """Test two rows on their common problems (paired) and list the problems that flipped."""
    console.print(import_module("eval.commands").compare_rows(a, b, out))


@eval_app.command("import")
def evaluate_import(
    file: Annotated[Path, typer.Argument(help="samples_*.jsonl of lm-evaluation-harness.")],
    row: Annotated[str, typer.Option(help="The name of the new row.")] = "imported",
    label: Annotated[str, typer.Option(help="What tables call it.")] = "imported",
    source: Annotated[str, typer.Option(help="Whose grading rules: math, gsm8k, ...")] = "math",
    run: RunOption = Path("runs/default"),
) -> None:
    """Read a sample log of lm-evaluation-harness as a row, graded by our grader."""
    check_grader()
    console.print(import_module("eval.commands").import_samples(file, row, label, source, run))


@eval_app.command("export")
def evaluate_export(
    row: Annotated[Path, typer.Argument(help="A row folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to; default: samples_<benchmark>.jsonl there.")
    ] = None,
) -> None:
    """Write a row as a sample log of lm-evaluation-harness."""
    console.print(import_module("eval.commands").export_samples(row, out))


@app.command()
def demo(
    run: RunOption = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of every stage.")] = 0,
    dry_run: DryRun = False,
) -> None:
    """The whole way on the embedded model: problems → data → SFT → GRPO → result table and report."""
    from eval.tables import demo_tables, show_rows_of
    from selfcorrect import study

    steps = study.demo_steps(run, seed)
    if dry_run:
        console.print(study.show_plan(steps))
        return
    with resumable():
        seconds = study.run_steps(steps, run)
    demo_tables(run, seconds)
    console.print(show_rows_of(run))
    from eval.report import write_report

    console.print(f"report: [bold]{write_report(run)}[/bold]")


@report_app.command("html")
def report_html(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    beside: Annotated[Path | None, typer.Argument(help="Another run, to look at side by side.")] = None,
) -> None:
    """Write one self-contained page: tables, plots and a trajectory viewer."""
    from eval.report import write_report

    console.print(f"report: [bold]{write_report(run, beside)}[/bold]")


def report_command(name: str, what: str) -> None:
    """Register ``report NAME RUNS...``."""

    @report_app.command(name, help=what)
    def report(
        runs: Annotated[list[Path], typer.Argument(help="Run folders, or single rows such as runs/demo/eval/ift.")],
        out: Annotated[Path | None, typer.Option(help="Where files go; default: tables/ in the first run.")] = None,
        beside: Annotated[str | None, typer.Option(help="Part of a table to hold ours against, such as GSM8K.")] = None,
        by: Annotated[str | None, typer.Option(help="budget: a field of the problems, such as level.")] = None,
    ) -> None:
        console.print(import_module("eval.reports").make(name, runs, out, beside, by))


for _name, _what in {
    "table3": "Table 3: all methods on MATH500, OlympiadBench and Minerva Math, ours beside the paper's.",
    "table4": "Table 4: accuracy of the self-reward on right and on wrong attempts.",
    "table5": "Table 5: two-turn chat at temperature 1.0.",
    "table7": "Table 7: who judges: gold, a reward model, the model itself or another.",
    "table8": "Table 8: what the fine-tuning set is made of.",
    "table9": "Table 9: multi-turn DPO by preference set.",
    "table10": "Table 10: as table 5, at temperature 0.7.",
    "figure1": "Figure 1: accuracy and length while RL runs.",
    "figure2": "Figure 2: voting and correcting, at equal responses and at equal tokens.",
    "budget": "Error budget: never flagged, flagged and not fixed, fixed; ceilings; by subject or level.",
    "calibration": "ECE, Brier, AUROC, reliability and risk-coverage of P(correct).",
}.items():
    report_command(_name, _what)


@app.command("grade")
def grade_command(
    response: Annotated[str | None, typer.Argument(help="The text to grade.")] = None,
    gold: Annotated[str | None, typer.Argument(help="The reference answer.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Whose rules: math, gsm8k, minerva_math, ...; default: math, or each row's own.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the extraction, both normal forms, the rule.")
    ] = False,
    jsonl: Annotated[Path | None, typer.Option("--jsonl", help="Grade a file of {response, gold} rows.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the graded rows of --jsonl.")] = None,
    audit: Annotated[bool, typer.Option("--audit", help="With --jsonl: print disagreements with math_verify.")] = False,
) -> None:
    """Grade a response against a reference answer: correct, wrong or ungradable, and why."""
    from selfcorrect.grading import command, grade

    if jsonl is not None:
        with meter("grading", None) as progress:
            advance = lambda done: progress.advance(done - progress.done)
            if audit:
                total, differing = command.audit(jsonl, source=source, progress=advance)
                lines = [
                    *(row.line() for row in differing),
                    f"{len(differing)} of {total} rows differ from math_verify",
                ]
            else:
                lines = command.grade_jsonl(jsonl, source=source, out=out, progress=advance).lines()
        console.print(Text("\n".join(lines)))
    elif response is None or gold is None:
        raise InputError("give RESPONSE and GOLD, or --jsonl FILE")
    elif explain:
        console.print(Text(command.explain(response, gold, source or "math")))
    else:
        result = grade(response, gold, source=source or "math")
        console.print(Text.assemble((str(result.outcome), "bold"), f": {result.reason}"))


@app.command()
def doctor() -> None:
    """Print versions, devices, which engines work here, and the install command for each that does not."""
    from selfcorrect.doctor import diagnose

    console.print(diagnose())


def main(args: list[str] | None = None) -> None:
    """Run the command line; a known error is one message and exit code 1, never a traceback."""
    try:
        app(args)
    except SelfCorrectError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        fail(f"{error.strerror}: {error.filename or ''}; what was recorded is whole: mend it and run the same command")


@contextmanager
def resumable() -> Iterator[None]:
    """Turn Ctrl-C into a message and exit code 130 (journals and checkpoints are whole at any moment)."""
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted; what was recorded is whole: run the same command to resume", code=130)


def fail(message: str, code: int = 1) -> NoReturn:
    """Print an error for the user and leave."""
    errors.print(Panel(Text(message), title="selfcorrect", title_align="left", border_style="red"))
    sys.exit(code)


if __name__ == "__main__":
    main()
