"""The command line: gen | train | eval | demo | report | grade | doctor.

Every stage command takes the name of a shipped recipe or a YAML file, then ``key=value`` overrides.
Stages are imported inside their command, so ``--help`` is quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from selfcorrect import __version__, printing
from selfcorrect.children import leave_working_folder
from selfcorrect.closing import closing, is_finished, without_rows
from selfcorrect.errors import InputError, SelfCorrectError, nearest
from selfcorrect.explained import explained
from selfcorrect.extras import ENGINE_EXTRAS, needs
from selfcorrect.launched import report_to_launcher, write_to_launching_terminal
from selfcorrect.printing import event, show
from selfcorrect.runs.progress import loading, meter, quiet_bars
from selfcorrect.runs.recipes import load_recipe

app = typer.Typer(
    help="Self-rewarding self-correction: models that solve, judge and revise their own answers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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


class TakesTexts(TyperCommand):
    """A command whose arguments may begin with a minus, such as ``grade -5 -5``: only its options are options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the options first and the texts after ``--``."""
        takes_value = {name: not getattr(option, "is_flag", True) for option in self.params for name in option.opts}
        options, texts, words = list[str](), list[str](), iter(args)
        for word in words:
            if word == "--":
                texts += words
            elif word in ("-h", "--help") or (word.startswith("--") and len(word) > 2 and not word[2].isdigit()):
                options.append(word)
                if takes_value.get(word):
                    options += [value for value in [next(words, None)] if value is not None]
            else:
                texts.append(word)
        return super().parse_args(ctx, [*options, "--", *texts])


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        show(f"selfcorrect {__version__}")
        raise typer.Exit


def known_source(name: str | None) -> str | None:
    """Return the name of a data set whose grading rules are known, or refuse it with the nearest."""
    from selfcorrect.grading.rules import MATH, SOURCES, rules_for

    if name is not None and rules_for(name) is MATH and "math" not in name.lower():
        raise InputError(
            f"--source: no grading rules are named {name!r}{nearest(name, SOURCES)}; known: {', '.join(SOURCES)} "
            "(math serves any other data set)"
        )
    return name


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
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for a script.")]
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
    needs("train")
    if launch and not dry_run:
        with loading("PyTorch and TRL"):
            resolve(
                "train", args, getattr(import_module(f"selfcorrect.train.{program}"), schema), default
            )  # refuse before launching
        with resumable():
            import_module("selfcorrect.train.common.launch").relaunch(launch, sys.argv[1:])
    stage(f"selfcorrect.train.{program}", schema, "train", args, default, run, dry_run)


def resolve(stage: str, args: list[str] | None, schema: type[Any], default: str) -> Any:
    """Return the recipe that the arguments of a stage command name, with its overrides."""
    args = list(args or [])
    name = args.pop(0) if args and "=" not in args[0] else default
    shipped_in = Path(__file__).parent / stage / "recipes"
    shipped = {path.stem: path for path in sorted(shipped_in.glob("*.yaml")) if not path.stem.startswith("examples")}
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped.get(name)
    if path is None:
        raise InputError(
            f"no {stage} recipe named {name!r}{nearest(name, shipped)}; shipped: {', '.join(shipped)}; "
            "or give the path of a .yaml file"
        )
    return load_recipe(schema, path, args)


def stage(
    module: str,
    schema: str,
    folder: str,
    args: list[str] | None,
    default: str,
    run: Path,
    dry_run: bool,
    panel: bool = True,
) -> Any:
    """Run one stage (or show its plan) and return its summary; Ctrl-C leaves with what to do next.

    Other processes of ``--launch`` than the first stay silent. A stage that made no training row is an error.
    """
    if folder == "train":
        needs("train")
    with loading("PyTorch and what this stage needs"):
        try:
            program = import_module(module)
        except ModuleNotFoundError:
            needs("train")
            raise
    recipe = resolve(folder, args, getattr(program, schema), default)
    if folder != "train":
        needs(*filter(None, [ENGINE_EXTRAS.get(recipe.engine.kind)]))
    with resumable(), quiet_bars():
        if dry_run:
            show(program.plan(recipe, run))
            return None
        check_grader()
        before = is_finished(module, recipe, run)
        summary = program.run(recipe, run)
    if panel and os.environ.get("RANK", "0") == "0" and not printing.is_quiet():
        show(closing(module, recipe, run, summary, before))
    if reason := without_rows(module, summary, run):
        raise SelfCorrectError(reason)
    return summary


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
    exports = import_module("selfcorrect.data_gen.output.exports")
    exports.check(export or [])
    stage("selfcorrect.data_gen.pipeline", "GenRecipe", "data_gen", with_engine(args, engine), "embedded", run, dry_run)
    if dry_run or not (export or push_to_hub):
        return
    for name, counts in exports.export(run, export or []).items():
        show(f"{run / 'export' / name}: " + ", ".join(f"{what} {count:,}" for what, count in counts.items()))
    if push_to_hub:
        show(f"pushed to {exports.push_to_hub(run, push_to_hub)}")


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
        needs("train")
        program = import_module("selfcorrect.train.sft")
        show(program.show_first_mask(resolve("train", args, program.SftRecipe, "embedded-sft"), run))
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
    stage("selfcorrect.train.embedded.pretrain", "PretrainRecipe", "train", args, "pretrain", run, dry_run)


@eval_app.command("run")
def evaluate(
    args: RecipeArgs = None,
    run: RunOption = Path("runs/default"),
    engine: EngineOption = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run the correction loop on a benchmark and score it: turn 1, final, transitions, self-reward accuracy."""
    result = stage(
        "selfcorrect.eval.run", "EvalRecipe", "eval", with_engine(args, engine), "embedded", run, dry_run, not as_json
    )
    if result and as_json:
        event(result.to_json())


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
    with loading("PyTorch and what this stage needs"):
        program = import_module("selfcorrect.eval.commands")
    recipe = resolve("eval", args, program.EvalRecipe, "calibration")
    with resumable(), quiet_bars():
        check_grader()
        show(program.calibrate(recipe, run, fit, target, limit))


@eval_app.command("regrade")
def evaluate_regrade(rows: Annotated[list[Path], typer.Argument(help="Row folders, or run folders.")]) -> None:
    """Grade stored responses again, without sampling: after a change of the grader."""
    check_grader()
    show(import_module("selfcorrect.eval.commands").regrade_rows(rows))


@eval_app.command("compare")
def evaluate_compare(
    a: Annotated[Path, typer.Argument(help="A row folder, such as runs/demo/eval/ift.")],
    b: Annotated[Path, typer.Argument(help="The row folder to hold against it.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write every flip to this .jsonl file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Test two rows on their common problems (paired) and list the problems that flipped."""
    compared = import_module("selfcorrect.eval.commands").compare_rows(a, b, out)
    event(compared.to_json()) if as_json else show(compared)


@eval_app.command("import")
def evaluate_import(
    file: Annotated[Path, typer.Argument(help="samples_*.jsonl of lm-evaluation-harness.")],
    row: Annotated[str, typer.Option(help="The name of the new row.")] = "imported",
    label: Annotated[str, typer.Option(help="What tables call it.")] = "imported",
    source: Annotated[str, typer.Option(help="Whose grading rules: math, gsm8k, ...", callback=known_source)] = "math",
    run: RunOption = Path("runs/default"),
) -> None:
    """Read a sample log of lm-evaluation-harness as a row, graded by our grader."""
    check_grader()
    show(import_module("selfcorrect.eval.commands").import_samples(file, row, label, source, run))


@eval_app.command("export")
def evaluate_export(
    row: Annotated[Path, typer.Argument(help="A row folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to; default: samples_<benchmark>.jsonl there.")
    ] = None,
) -> None:
    """Write a row as a sample log of lm-evaluation-harness."""
    show(import_module("selfcorrect.eval.commands").export_samples(row, out))


@app.command()
def demo(
    run: RunOption = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of every stage.")] = 0,
    dry_run: DryRun = False,
) -> None:
    """The whole way on the embedded model: problems → data → SFT → GRPO → result table and report."""
    from selfcorrect import study
    from selfcorrect.eval.tables.demo_table import demo_tables, show_rows_of

    steps = study.demo_steps(run, seed)
    if dry_run:
        show(study.show_plan(steps))
        return
    needs("train", "report")
    with resumable():
        seconds = study.run_steps(steps, run)
    demo_tables(run, seconds)
    show(show_rows_of(run))
    from selfcorrect.eval.page.page import write_report

    show(Text.assemble("report: ", (str(write_report(run)), "bold")))


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
        made = import_module("selfcorrect.eval.tables.make").make(name, runs, out, beside, by)
        event(made.to_json()) if as_json else show(made)


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


@app.command("grade", cls=TakesTexts)
def grade_command(
    response: Annotated[str | None, typer.Argument(help="The text to grade.")] = None,
    gold: Annotated[str | None, typer.Argument(help="The reference answer.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Whose rules: math, gsm8k, minerva_math, ...; default: math, or each row's own.", callback=known_source
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the extraction, both normal forms, the rule.")
    ] = False,
    jsonl: Annotated[Path | None, typer.Option("--jsonl", help="Grade a file of {response, gold} rows.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the graded rows of --jsonl.")] = None,
    audit: Annotated[bool, typer.Option("--audit", help="With --jsonl: print disagreements with math_verify.")] = False,
    as_json: AsJson = False,
) -> None:
    """Grade a response against a reference answer: correct, wrong or ungradable, and why."""
    if jsonl is not None:
        if response is not None:
            raise InputError("give RESPONSE and GOLD, or --jsonl FILE, not both")
        grade_file(jsonl, source, out, audit, as_json)
        return
    if out or audit:
        raise InputError(f"{'--out' if out else '--audit'} goes with --jsonl FILE")
    if response is None or gold is None:
        raise InputError("give RESPONSE and GOLD, or --jsonl FILE")
    from selfcorrect.grading import command, grade
    from selfcorrect.types import to_json

    result = grade(response, gold, source=source or "math")
    if as_json:
        event(to_json(result))
    elif explain:
        show(command.explain(response, gold, source or "math"))
    else:
        show(Text.assemble((str(result.outcome), "bold"), f": {result.reason}"))


def grade_file(jsonl: Path, source: str | None, out: Path | None, audit: bool, as_json: bool) -> None:
    """Grade a file of rows, or audit it against math_verify, and print the counts."""
    from selfcorrect.grading import command

    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out {out}: expected the path of a file in a folder that exists")
    with meter("grading", None) as progress:
        advance = lambda done: progress.advance(done - progress.done)
        if not audit:
            report = command.grade_jsonl(jsonl, source=source, out=out, progress=advance)
            event(report.to_json()) if as_json else show("\n".join(report.lines()))
            return
        total, differing = command.audit(jsonl, source=source, progress=advance)
    lines = [*(row.line() for row in differing), f"{len(differing)} of {total} rows differ from math_verify"]
    event({"rows": total, "differing": [row.to_json() for row in differing]}) if as_json else show("\n".join(lines))


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


@contextmanager
def resumable() -> Iterator[None]:
    """Turn Ctrl-C into a message and exit code 130 (journals and checkpoints are whole at any moment)."""
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted; what was recorded is whole: run the same command to resume", code=130)


def fail(message: str, code: int = 1, error: BaseException | None = None) -> NoReturn:
    """Print an error for the user and leave; with ``-v``, where it came from first."""
    if error is not None and printing.is_verbose():
        printing.complain("".join(traceback.format_exception(error)), style="dim")
    if not report_to_launcher(message):
        printing.complain(Panel(Text(message), title="selfcorrect", title_align="left", border_style="red"))
    sys.exit(code)


if __name__ == "__main__":
    leave_working_folder()
    main()
