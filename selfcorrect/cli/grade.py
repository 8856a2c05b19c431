"""``selfcorrect grade`` and ``selfcorrect compare``: the grader and the paired test, for anybody's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer
from rich.text import Text

from selfcorrect.cli.options import AsJson, known_source
from selfcorrect.errors import InputError
from selfcorrect.extras import named_extras
from selfcorrect.printing import event, show
from selfcorrect.runs.progress import meter

By = Literal["auto", "id", "question"]


def grade(
    response: Annotated[
        str | None, typer.Argument(help="The text to grade; or, alone, a file of rows: answers.csv, answers.parquet.")
    ] = None,
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
    jsonl: Annotated[
        Path | None,
        typer.Option("--jsonl", help="Grade a file of {response, gold} rows: JSON lines, .json, .csv, .tsv, .parquet."),
    ] = None,
    response_column: Annotated[
        str | None, typer.Option("--response-column", help="Of a file: where its responses are; default: response.")
    ] = None,
    reference_column: Annotated[
        str | None,
        typer.Option("--reference-column", help="Of a file: where its reference answers are; default: gold."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write the graded rows of a file, as JSON lines.")
    ] = None,
    audit: Annotated[bool, typer.Option("--audit", help="Of a file: print disagreements with math_verify.")] = False,
    as_json: AsJson = False,
) -> None:
    """Grade a response against a reference answer: correct, wrong or ungradable, and why."""
    if jsonl is not None and response is not None:
        raise InputError("give RESPONSE and GOLD, or --jsonl FILE, not both")
    if file := jsonl or file_of(response, gold):
        columns = Columns(response_column or "response", reference_column or "gold")
        grade_file(file, columns, source, out, audit, as_json)
        return
    of_a_file = {
        "--out": out, "--audit": audit, "--response-column": response_column, "--reference-column": reference_column
    }  # fmt: skip
    if given := [name for name, value in of_a_file.items() if value]:
        raise InputError(f"{given[0]} goes with --jsonl FILE")
    if response is None or gold is None:
        raise InputError("give RESPONSE and GOLD, or --jsonl FILE")
    from selfcorrect.grading import command
    from selfcorrect.grading import grade as graded
    from selfcorrect.types import to_json

    result = graded(response, gold, source=source or "math")
    if as_json:
        event(to_json(result))
    elif explain:
        show(command.explain(response, gold, source or "math"))
    else:
        show(Text.assemble((str(result.outcome), "bold"), f": {result.reason}"))


class Columns(NamedTuple):
    """Under which names the rows of a file have their responses and reference answers."""

    response: str
    reference: str


def file_of(response: str | None, gold: str | None) -> Path | None:
    """Return the file of rows that is meant where one argument stands alone and ends as such files do."""
    from selfcorrect.problems.files import is_problem_file

    if response is None or gold is not None or not is_problem_file(Path(response)):
        return None
    return Path(response)


def grade_file(file: Path, columns: Columns, source: str | None, out: Path | None, audit: bool, as_json: bool) -> None:
    """Grade a file of rows, or audit it against math_verify, and print the counts."""
    from selfcorrect.grading import command

    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out {out}: expected the path of a file in a folder that exists")
    response, gold = columns
    with meter("grading", None) as progress:
        advance = lambda done: progress.advance(done - progress.done)
        if not audit:
            report = command.grade_jsonl(
                file, source=source, response_key=response, gold_key=gold, out=out, progress=advance
            )
            event(report.to_json()) if as_json else show("\n".join(report.lines()))
            return
        total, differing = command.audit(file, source=source, response_key=response, gold_key=gold, progress=advance)
    lines = [*(row.line() for row in differing), f"{len(differing)} of {total} rows differ from math_verify"]
    event({"rows": total, "differing": [row.to_json() for row in differing]}) if as_json else show("\n".join(lines))


def compare(
    a: Annotated[
        Path, typer.Argument(help="A log of lm_eval, inspect_ai, lighteval or verifiers, or a row folder of ours.")
    ],
    b: Annotated[Path, typer.Argument(help="The log to hold against it; it may be of another tool.")],
    metric: Annotated[
        str, typer.Option(help="Which score of the logs to test beside our grade; default: the first.")
    ] = "",
    source: Annotated[
        str | None,
        typer.Option(help="Whose grading rules: math, gsm8k, ...; default: the log's own.", callback=known_source),
    ] = None,
    by: Annotated[
        By, typer.Option(help="How problems are matched; auto: ids, where they name the same questions.")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it to this .md or .json file, or the flips to .jsonl.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write it to this page: tables, every flip with both responses.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test two evaluation logs, of any tools, on their common problems: regraded, paired, with every flip."""
    from selfcorrect.compare import check_out, check_page, compare_logs

    check_out(out)
    check_page(html)
    with named_extras(), meter("grading", None) as progress:  # of `report` it takes NumPy and SciPy, a page Jinja
        compared = compare_logs(a, b, metric, source or "", by, lambda done: progress.advance(done - progress.done))
    if out is not None:
        compared.write(out)
    if html is not None:
        with named_extras():
            from selfcorrect.eval.page.comparison import write_comparison
        write_comparison(compared, html)
    event(compared.to_json()) if as_json else show(compared)
