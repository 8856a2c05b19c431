"""One run folder in, one self-contained HTML page out: tables, tests, curves, calibration, every trajectory.

    write_report(Path("runs/demo"))                        ->  runs/demo/report.html
    write_report(Path("runs/demo"), Path("runs/other"))    ->  the same page, with the other run's rows beside

The page needs no network and no other file. What the folder lacks is shown as missing; what is broken is a
DataError that names file and line. Model text is hostile until shown otherwise: the template escapes, the
trajectories travel as inert JSON and reach the page through text nodes only, and a content security policy lets
nothing run but the page's own scripts. Mathematics is set by KaTeX (``vendor/katex``, with its fonts in the page),
which trusts nothing: what it cannot set is shown as it was written.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from selfcorrect.errors import DataError
from selfcorrect.eval.analysis.calibration import judged
from selfcorrect.eval.analysis.error_budget import PARTS, error_budget
from selfcorrect.eval.analysis.voting import UNITS, Curve, curves
from selfcorrect.eval.page.charts import Band, Reliability, Series, band_panel, curve_panel, reliability_panel
from selfcorrect.eval.page.measures import MEASURES, Measure, measure
from selfcorrect.eval.page.templates import HERE, templates
from selfcorrect.eval.page.values import flat, grouped, is_number, show_p, show_time, show_value
from selfcorrect.eval.page.viewer import CLASSES, viewer_json
from selfcorrect.eval.results import (
    SCORES,
    TRAJECTORIES,
    EvalResult,
    in_natural_order,
    read_result,
    read_trajectories,
)
from selfcorrect.eval.tables.columns import COLUMNS, COMPUTE, COUNTED, JUDGED, REACHED, Column, cell
from selfcorrect.eval.tables.demo_table import claims, compute_table, paired_tests, result_table
from selfcorrect.eval.tables.paper_tables import BUDGET_HEAD, FEWEST_JUDGED, budget_line, has_own_verdicts
from selfcorrect.metrics import is_graded, is_scored
from selfcorrect.runs.folder import finished
from selfcorrect.runs.jsonl import read_json, read_jsonl, write_whole
from selfcorrect.study.shipped import LAPTOP
from selfcorrect.table import DASH, Figure, Table
from selfcorrect.types import Trajectory

KATEX = HERE / "vendor" / "katex"
STUDY_ROWS = {row.name: place for place, row in enumerate(LAPTOP.rows)}
FEWEST_VOTES = 4  # trajectories a problem, for points at 1, 2 and 4
MOST_PANELS = 12  # learning-curve panels of one checkpoint

RESULT_FIELDS = ("n", *REACHED, *JUDGED, *COUNTED)
BUDGET_FIELDS = ("wrong", *PARTS, "perfect_judge", "perfect_fixer", "bottleneck")
RESULT_SPANS = (("", 1), ("", len(REACHED) + len(JUDGED)), ("", len(COUNTED)))
BUDGET_SPANS = (("", 1), ("wrong at turn 1", 4), ("correct at turn 1", 3), ("", 1), ("ceilings", 2), ("", 1))
TOGETHER = (("turn1", "final"), ("i2c", "c2i"))  # learning curves that share a panel
NOT_CURVES = {"step", "epoch", "key", "time", "seconds", "timestamp", "wall_s", "elapsed_s"}
FIRST_CURVES = ("turn1", "i2c", "reward", "verdict_rate", "mean_length", "kl", "entropy", "loss", "eval_loss")


def write_report(run_folder: Path, beside: Path | None = None) -> Path:
    """Write ``<run_folder>/report.html`` and return its path; ``beside`` adds the rows of another run.

    Raises DataError where a folder does not exist or one of its files is broken.
    """
    run_folder = Path(run_folder)
    for folder in (run_folder, beside):
        if folder is not None and not folder.is_dir():
            raise DataError(f"no run folder at {folder}; check the path (working folder: {Path.cwd()})")
    page = run_folder / "report.html"
    text = _render(run_folder, beside).encode("utf-8", "replace").decode()  # a lone surrogate must not stop us
    write_whole(page, [text])
    return page


def _render(run: Path, beside: Path | None) -> str:
    demo_file = run / "tables" / "demo.json"
    demo = read_json(demo_file, missing_ok=True)
    evaluated = _told_apart([_read(folder) for folder in _in_order_of_the_study(_folders(run / "eval"))])
    groups = _sampled_alike(_results(_objects(demo, "rows"), demo_file, evaluated))
    results = [result for group in groups.values() for result in group]
    order = {result.title: place for place, result in enumerate(results)}
    evaluated.sort(key=lambda row: order.get(row.title, len(order)))
    if beside is not None:
        folders = _in_order_of_the_study(_folders(beside / "eval"))
        others = _told_apart([_read(folder, f"{beside.resolve().name}: ") for folder in folders])
        groups = _sampled_alike([*results, *_results([], demo_file, others)])
        results = [result for group in groups.values() for result in group]
        evaluated += others
    finished_rows = [(row.result, row.graded) for row in evaluated if row.is_result and row.result]
    tests = _tests(_objects(demo, "tests"), paired_tests(finished_rows))
    checks = _objects(demo, "checks") if demo else claims([result for result, _ in finished_rows])
    best_among, compared = next(iter(groups.items()), ("", []))
    best = _best(compared)
    alike = {result.title for result in compared}
    first_tests = [test for test in tests if best and _is_with(best["title"], alike, test)] or tests
    other_tests = [test for test in tests if test not in first_tests]
    provenance = _provenance(run)
    cards = {path.name.removesuffix(".card.json"): _card(read_json(path)) for path in _cards(run)}
    scripts = [_asset("vendor/katex/katex.min.js"), _asset("mathematics.js") + _asset("report.js")]
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            name=run.resolve().name,
            katex_script=Markup(scripts[0]),
            script=Markup(scripts[1]),
            script_digests=[base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts],
            katex_style=Markup(katex_style()),
            style=Markup(_asset("report.css")),
            run={key: demo.get(key) for key in ("benchmark", "n", "seed")},
            rows=results,
            results=_html(_result_table(groups), "scores"),
            compute=_html(taken) if (taken := compute_table(results)) else "",
            best=best,
            best_among=best_among if len(groups) > 1 else "",
            taken=_taken(run, provenance),
            terms=_terms(COLUMNS[field] for field in RESULT_FIELDS),
            compute_terms=_terms(COLUMNS[field] for field in COMPUTE),
            budget_terms=_terms(COLUMNS[field] for field in BUDGET_FIELDS),
            classes=CLASSES,
            bars=[bar for result in results if (bar := _transition_bar(result))],
            budgets=_budgets(evaluated),
            voting=[(row.title, drawn, _voting_panels(drawn)) for row in evaluated if (drawn := _votes(row))],
            tests=_html(_tests_table(first_tests)) if tests else "",
            other_tests=_html(_tests_table(other_tests)) if other_tests else "",
            tests_left=len(other_tests),
            checks=checks,
            tested=[check for check in checks if check.get("holds") is not None],
            curves=_all_curves(run),
            curve_terms=_terms(MEASURES.values()),
            calibrations=[
                (row.title, row.reliability, reliability_panel(row.reliability))
                for row in evaluated
                if row.reliability.n >= FEWEST_JUDGED and (row.result is None or has_own_verdicts(row.result))
            ],
            generation=grouped(
                {
                    name: value
                    for name, value in read_json(run / "gen" / "DONE", missing_ok=True).items()
                    if name != "files"
                }
            ),
            cards=cards,
            card_keys=list(dict.fromkeys(key for card in cards.values() for key in card)),
            seconds=flat(_mapping(demo.get("seconds"))),
            evaluations=[(row.name, _made_with(row.result)) for row in evaluated],
            provenance=provenance,
            packages=_packages(provenance),
            is_model_organism=_is_of_the_embedded_model(run, evaluated),
            paths=viewer_json(evaluated),
        )
    )


def _is_of_the_embedded_model(run: Path, evaluated: Sequence[_ShownRow]) -> bool:
    """True where a row is of the embedded model, or a checkpoint of the run began at it."""
    recipes = [file.read_text(encoding="utf-8", errors="replace") for file in run.glob("checkpoints/*/recipe.yaml")]
    return any(row.result and row.result.model == "embedded" for row in evaluated) or any(
        "model: embedded" in recipe.splitlines() for recipe in recipes
    )


def _tests(listed: Sequence[dict[str, Any]], paired: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the paired tests of every two rows, and before them what a demo's file lists of rows that are not here."""
    known = {(test["a"], test["b"]) for test in paired}
    return [test for test in listed if (test.get("a"), test.get("b")) not in known] + list(paired)


def _is_with(title: str, alike: set[str], test: Mapping[str, Any]) -> bool:
    """True for a test of the row of that title against one that was sampled alike, or is not among the rows here."""
    other = [name for name in (test.get("a"), test.get("b")) if name != title]
    return len(other) == 1 and other[0] in alike


def _taken(run: Path, provenance: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what the run took: the time of its stages, one after another, and the machines; empty where none says."""
    done = [read_json(run / entry["stage"] / "DONE", missing_ok=True) for entry in provenance]
    seconds = sum(found["seconds"] for found in done if is_number(found.get("seconds")))
    machines = dict.fromkeys(str(made) for entry in provenance if (made := entry["made"].get("machine")))
    return {"time": show_time(seconds), "machines": " and ".join(machines)} if seconds else {}


def _terms(named: Iterable[Column | Measure]) -> dict[str, str]:
    """Return titles with their meanings, for the list of words below a table or chart."""
    return {one.title: one.meaning for one in named if one.meaning}


def _html(table: Table, kind: str = "") -> Markup:
    return Markup(table.to_html(kind))


# --- reading -----------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def katex_style() -> str:
    """Return KaTeX's style sheet with its fonts in it."""

    def inlined(source: re.Match[str]) -> str:
        font = base64.b64encode((KATEX / "fonts" / f"{source[1]}.woff2").read_bytes()).decode()
        return f'src:url(data:font/woff2;base64,{font}) format("woff2")'

    return re.sub(r"src:url\(fonts/([\w-]+)\.woff2\)[^;}]*", inlined, _asset("vendor/katex/katex.min.css"))


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _in_order_of_start(folders: Sequence[Path]) -> list[Path]:
    def started(folder: Path) -> str:
        return str(read_json(folder / "provenance.json", missing_ok=True).get("started", ""))

    return sorted(folders, key=lambda folder: (started(folder), folder))


def _in_order_of_the_study(folders: Sequence[Path]) -> list[Path]:
    """Return the rows of a study in the order of its tables, baselines first; where a row is another's, as they are."""
    if any(folder.name not in STUDY_ROWS for folder in folders):
        return list(folders)
    return sorted(folders, key=lambda folder: STUDY_ROWS[folder.name])


def _cards(run: Path) -> list[Path]:
    return sorted((run / "data" / "sft").glob("*.card.json"))


def _objects(demo: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = demo.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"tables/demo.json: {key!r} is not a list of objects")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


@dataclass(frozen=True, slots=True)
class _ShownRow:
    """One evaluated row as the page shows it; without a result where the evaluation has not finished."""

    name: str
    title: str
    result: EvalResult | None
    recipe: str
    trajectories: Sequence[Trajectory]
    graded: Sequence[Trajectory]
    reliability: Reliability

    @property
    def is_result(self) -> bool:
        """False for a row on which a threshold was tuned."""
        return self.result is None or self.result.is_result


def _read(folder: Path, prefix: str = "") -> _ShownRow:
    """Read a row's folder; ``prefix`` says of which run it is, where two are shown."""
    finished(folder)
    result = read_result(folder) if (folder / SCORES).exists() else None
    if result is not None:
        result = replace(result, label=prefix + result.label)
    read = read_trajectories(folder, tokens=False) if (folder / TRAJECTORIES).exists() else []
    graded = [trajectory for trajectory in read if is_graded(trajectory)]
    sample = judged(graded)
    return _ShownRow(
        prefix + folder.name,
        prefix + folder.name if result is None else result.title,
        result,
        _read_text(folder / "recipe.yaml"),
        in_natural_order(read),
        graded,
        Reliability.of([(float(p), bool(right)) for p, right in zip(sample.p_N, sample.correct_N, strict=True)]),
    )


def _told_apart(rows: Sequence[_ShownRow]) -> list[_ShownRow]:
    """Return rows of which no two have the same title: others of a title have their folder's name behind it."""
    first: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: STUDY_ROWS.get(row.name, len(STUDY_ROWS))):
        first.setdefault(row.title, row.name)
    return [row if first[row.title] == row.name or row.result is None else _named(row, row.result) for row in rows]


def _named(row: _ShownRow, result: EvalResult) -> _ShownRow:
    named = replace(result, label=f"{result.label} [{row.name}]")
    return replace(row, title=named.title, result=named)


# --- tables and plots --------------------------------------------------------------------------------------------


def _results(rows: Sequence[Mapping[str, Any]], file: Path, evaluated: Sequence[_ShownRow]) -> list[EvalResult]:
    """Return what the demo's table lists, then the results of the other evaluated folders."""
    listed = [EvalResult.from_json(row, f"{file}, row {number}") for number, row in enumerate(rows, 1)]
    shown = {result.title for result in listed}
    return listed + [row.result for row in evaluated if row.result and row.is_result and row.title not in shown]


def _sampled_alike(results: Sequence[EvalResult]) -> dict[str, list[EvalResult]]:
    """Return results by what they were measured on and how they were sampled, in words; only those of one are alike."""
    groups: dict[str, list[EvalResult]] = {}
    for result in results:
        at = result.sampling.temperature
        how = "sampling not known" if at is None else "greedy" if at == 0 else f"temperature {at:g}"
        drawn = max(1, len(result.sampling.seeds))
        count = "one trajectory a problem" if drawn == 1 else f"{drawn} trajectories a problem"
        words = ", ".join(filter(None, (Path(result.benchmark).name, how, count)))
        groups.setdefault(words, []).append(result)
    return groups


def _result_table(groups: Mapping[str, Sequence[EvalResult]]) -> Table:
    """Return the results as one table, with a heading over each group where there are several."""
    table = result_table([result for group in groups.values() for result in group])
    rows = iter(table.rows)
    lines: list[tuple[str, ...]] = []
    for words, group in groups.items():
        lines += [(words,)] if len(groups) > 1 else []
        lines += [next(rows) for _ in group]
    return replace(table, rows=lines, spans=RESULT_SPANS, strong="Final")


def _best(results: Sequence[EvalResult]) -> dict[str, Any] | None:
    """Return the row of the highest Final among those that do not look at the reference answers, None without any."""
    able = [result for result in results if result.scores.final.value is not None and not result.sees_references]
    best = max(able, key=lambda result: result.scores.final.value or 0.0, default=None)
    if best is None:
        return None
    took = best.compute and {name: f"{getattr(best.compute, name):,}" for name in ("sampled_tokens", "trained_tokens")}
    return {key: cell(best, key) for key in ("final", "turn1")} | {"title": best.title, "took": took}


def _budgets(evaluated: Sequence[_ShownRow]) -> Markup | str:
    """Return the error budgets of the rows that are results; empty where nothing was scored."""
    rows = [(row.title, [t for t in row.graded if is_scored(t)]) for row in evaluated if row.is_result]
    lines = [budget_line(title, error_budget(scored)) for title, scored in rows if scored]
    return _html(Table("", BUDGET_HEAD, lines, spans=BUDGET_SPANS, strong="Final"), "scores") if lines else ""


def _tests_table(tests: Sequence[Mapping[str, Any]]) -> Table:
    """Return paired tests as `paired_tests` gives them, or as they stand in the demo's file."""
    lines = [
        (
            *(str(test.get(key) or DASH) for key in ("a", "b")),
            Figure(_number(test.get("gain")), _interval(test.get("gain_interval")), signed=True),
            *(show_value(test.get(key)) for key in ("only_a", "only_b", "n")),
            show_p(test.get("p_value")),
        )
        for test in tests
    ]
    return Table("", ("A", "B", "gain B − A", "only A correct", "only B correct", "n", "p"), lines, left=(1,))


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _interval(value: Any) -> tuple[float, float] | None:
    is_one = isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value))
    return (float(value[0]), float(value[1])) if is_one else None


def _made_with(result: EvalResult | None) -> list[str]:
    """Return what made a row, in the order of the page's table; nothing for one that has not finished."""
    if result is None:
        return [DASH] * 8
    named = [
        ", ".join(f"{name} {n:,}" for name, n in counts.items()) for counts in (result.dropped, result.scores.faults)
    ]
    return [
        show_value(result.model),
        result.benchmark or DASH,
        show_value(result.sampling.temperature),
        ", ".join(map(str, result.sampling.seeds)) or DASH,
        *(names or "none" for names in named),
        show_value(result.fingerprints.grader),
        show_value(result.fingerprints.prompts),
    ]


def _transition_bar(result: EvalResult) -> dict[str, Any] | None:
    """The four shares of a stacked bar: the first two add up to Turn 1, the middle two to Final."""
    scores = result.scores
    turn1, gained, lost = scores.turn1.value, scores.i2c.value, scores.c2i.value
    if turn1 is None or gained is None or lost is None:
        return None
    parts = (
        ("broken", "correct → wrong (broken)", lost),
        ("kept", "correct → correct", turn1 - lost),
        ("fixed", "wrong → correct (fixed)", gained),
        ("wrong", "wrong → wrong", 100 - turn1 - gained),
    )
    shown = [(name, words, max(0.0, round(share, 2))) for name, words, share in parts]
    return {
        "title": result.title,
        "delta": Figure(scores.delta.value, signed=True),
        "parts": [(name, words, share, Figure(share)) for name, words, share in shown],
    }


def _votes(row: _ShownRow) -> list[Curve]:
    """The row's voting curves; none where a problem has so few trajectories that they have no course."""
    scored = [trajectory for trajectory in row.graded if is_scored(trajectory)]
    counts = Counter({trajectory.problem.id: 0 for trajectory in row.trajectories})
    counts.update(trajectory.problem.id for trajectory in scored)
    return curves(scored) if min(counts.values(), default=0) >= FEWEST_VOTES else []


def _voting_panels(drawn: Sequence[Curve]) -> list[tuple[str, Markup]]:
    def bands(unit: str) -> list[Band]:
        return [
            Band(
                curve.method,
                tuple((getattr(point, unit), point.accuracy) for point in curve.points),
                tuple(point.interval for point in curve.points),
            )
            for curve in drawn
        ]

    return [(unit, band_panel(bands(unit), unit)) for unit in UNITS if all(curve.has(unit) for curve in drawn)]


def _all_curves(run: Path) -> list[dict[str, Any]]:
    """Return the curves of each checkpoint: RL's first, which show what became of the correction; then by start."""
    found = [_curves(folder) for folder in _in_order_of_start(_folders(run / "checkpoints"))]
    return sorted(found, key=lambda curves: not any("turn1" in names for names, _, _ in curves["panels"]))


def _curves(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.jsonl"
    logged = list(read_jsonl(path)) if path.exists() else []
    points: dict[str, list[tuple[float, float]]] = {}
    for place, row in enumerate(logged, 1):
        step = row["step"] if is_number(row.get("step")) else place
        for key, value in row.items():
            if key not in NOT_CURVES and is_number(value):
                points.setdefault(key, []).append((float(step), float(value)))
    groups: list[tuple[str, ...]] = [group for group in TOGETHER if all(key in points for key in group)]
    grouped = {key for group in groups for key in group}
    groups += [(key,) for key in points if key not in grouped]
    groups.sort(key=lambda group: FIRST_CURVES.index(group[0]) if group[0] in FIRST_CURVES else len(FIRST_CURVES))
    return {
        "name": folder.name,
        "steps": len(logged),
        "panels": [
            (
                group,
                [measure(key) for key in group],
                curve_panel([Series(measure(key).title, tuple(sorted(points[key]))) for key in group]),
            )
            for group in groups[:MOST_PANELS]
        ],
        "left_out": [" and ".join(group) for group in groups[MOST_PANELS:]],
    }


def _card(card: Mapping[str, Any]) -> dict[str, str]:
    """What differs between data sets: their counts. Recipe and rejection counts are the generation's, shown there."""
    counts = _mapping(card.get("counts")) or {
        key: item for key, item in card.items() if key not in ("recipe", "samples")
    }
    return flat(counts) | {key: show_value(card[key]) for key in ("model", "tokenizer", "prompts") if key in card}


def _provenance(run: Path) -> list[dict[str, Any]]:
    """One entry for each stage folder that says what made it, with its recipe."""
    folders = [path.parent for depth in ("", "*/", "*/*/") for path in run.glob(f"{depth}provenance.json")]
    return [
        {
            "stage": str(folder.relative_to(run)),
            "made": read_json(folder / "provenance.json", missing_ok=True),
            "recipe": _read_text(folder / "recipe.yaml"),
        }
        for folder in sorted(folders)
    ]


def _packages(provenance: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Package versions over all stages; several versions of one package are all shown."""
    versions: dict[str, list[str]] = {}
    for entry in provenance:
        for name, version in _mapping(entry["made"].get("packages")).items():
            if str(version) not in versions.setdefault(str(name), []):
                versions[str(name)].append(str(version))
    return {name: " and ".join(found) for name, found in sorted(versions.items())}
