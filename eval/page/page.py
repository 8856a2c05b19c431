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
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from selfcorrect.errors import DataError, InputError
from selfcorrect.eval.analysis.error_budget import error_budget
from selfcorrect.eval.analysis.voting import Curve, curves
from selfcorrect.eval.page.charts import Band, Reliability, Series, band_panel, curve_panel, reliability_panel
from selfcorrect.eval.results import label_of
from selfcorrect.eval.tables.demo_table import claims, paired_tests
from selfcorrect.eval.tables.paper_tables import FEWEST_JUDGED
from selfcorrect.jsonl import read_journal, read_jsonl, write_whole
from selfcorrect.metrics import is_correct
from selfcorrect.printing import clean
from selfcorrect.runs import finished
from selfcorrect.types import Attempt, Outcome, SelfEvaluation, Trajectory, Verdict

HERE = Path(__file__).parent
KATEX = HERE / "vendor" / "katex"
TEXT_BUDGET = 32_000_000  # characters of trajectory text in one page, shared evenly by the rows
MOST_PANELS = 12  # learning-curve panels of one checkpoint

CLASSES = {
    "fixed": "wrong, then right (i→c)",
    "broken": "right, then wrong (c→i)",
    "missed": "wrong, but judged correct",
    "false alarm": "right and judged wrong, but kept right",
    "kept right": "right, and stayed right",
    "still wrong": "wrong, and stayed wrong",
    "not scored": "the grader failed, or it never ran",
}
SHARE_COLUMNS = {
    "turn1": "Turn 1",
    "final": "Final",
    "delta": "Δ",
    "i2c": "Δ i→c",
    "c2i": "Δ c→i",
    "rm_C": "RM acc. C",
    "rm_W": "RM acc. W",
    "no_verdict": "No verdict",
}
COUNT_COLUMNS = {
    "n": "n",
    "unanswered": "Un­answered",
    "ungradable": "Un­gradable",
    "truncated": "Trun­cated",
    "tokens_per_problem": "Tokens / prob.",
}
TOGETHER = (("turn1", "final"), ("i2c", "c2i"))  # learning curves that share a panel
NOT_CURVES = {"step", "epoch", "key", "time", "seconds", "timestamp", "wall_s", "elapsed_s"}
FIRST_CURVES = ("loss", "eval_loss", "reward", "turn1", "i2c", "verdict_rate", "kl", "length", "entropy", "lr")


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
    demo = read_object(run / "tables" / "demo.json")
    evaluated = [_Row.read(folder) for folder in _folders(run / "eval")]
    rows = _table_rows(demo, evaluated)
    order = {row["label"]: place for place, row in enumerate(rows)}
    evaluated.sort(key=lambda row: order.get(row.label, len(order)))
    if beside is not None:
        others = [_Row.read(folder, f"{beside.resolve().name}: ") for folder in _folders(beside / "eval")]
        rows += _table_rows({}, others)
        evaluated += others
    provenance = _provenance(run)
    cards = {path.name.removesuffix(".card.json"): _card(read_object(path)) for path in _cards(run)}
    results = [row for row in evaluated if row.is_result and row.scores]
    tests, checks = _objects(demo, "tests"), _objects(demo, "checks")
    if not demo:  # not the demo's: every pair of rows, and what each row can be asked
        tests = paired_tests([(row.scores | {"label": row.label}, row.paths) for row in results])
        checks = claims([row.scores | {"label": row.label} for row in results])
    scripts = [_asset("vendor/katex/katex.min.js"), _asset("report.js")]
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )
    environment.filters |= {
        "value": show_value,
        "points": show_points,
        "interval": show_interval,
        "p": show_p,
        "short": show_short,
    }
    return environment.get_template("report.html.j2").render(
        name=run.resolve().name,
        katex_script=Markup(scripts[0]),
        script=Markup(scripts[1]),
        script_digests=[base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts],
        katex_style=Markup(katex_style()),
        style=Markup(_asset("report.css")),
        run={key: demo.get(key) for key in ("benchmark", "n", "seed")},
        rows=rows,
        share_columns=SHARE_COLUMNS,
        count_columns=COUNT_COLUMNS,
        best=_best(rows),
        bars=[bar for row in rows if (bar := _transition_bar(row))],
        budgets=[
            (row.label, error_budget(scored).row())
            for row in evaluated
            if row.is_result and (scored := [path for path in row.paths if _scored(path)])
        ],
        voting=[(row.label, drawn, _voting_panels(drawn)) for row in evaluated if (drawn := _votes(row))],
        tests=tests,
        checks=checks,
        tested=[check for check in checks if check.get("holds") is not None],
        curves=[_curves(folder) for folder in _in_order_of_start(_folders(run / "checkpoints"))],
        calibrations=[
            (row.label, row.reliability, reliability_panel(row.reliability))
            for row in evaluated
            if row.reliability.n >= FEWEST_JUDGED and row.scores.get("stop", "sampled") in ("sampled", "never")
        ],
        generation=grouped(
            {name: value for name, value in read_object(run / "gen" / "DONE").items() if name != "files"}
        ),
        cards=cards,
        card_keys=list(dict.fromkeys(key for card in cards.values() for key in card)),
        seconds=flat(_mapping(demo.get("seconds"))),
        evaluated=evaluated,
        provenance=provenance,
        packages=_packages(provenance),
        is_model_organism=any(
            row.scores.get("model") == "embedded" or "model: embedded" in row.recipe for row in evaluated
        ),
        paths=viewer_json(evaluated),
    )


# --- reading -----------------------------------------------------------------------------------------------------


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one where there is no file; raises DataError where it is broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as JSON: {error}; remove it or make it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


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
    return sorted(folders, key=lambda folder: (str(read_object(folder / "provenance.json").get("started", "")), folder))


def _cards(run: Path) -> list[Path]:
    return sorted((run / "data" / "sft").glob("*.card.json"))


def _objects(demo: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = demo.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"tables/demo.json: {key!r} is not a list of objects")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


@dataclass(slots=True)
class _Row:
    """One evaluated row: its files, its trajectories without their tokens, its calibration."""

    name: str
    label: str
    scores: dict[str, Any]
    recipe: str
    paths: list[Trajectory]
    reliability: Reliability = field(init=False)

    def __post_init__(self) -> None:
        self.reliability = Reliability.of(list(_judged(self.paths)))

    @property
    def is_result(self) -> bool:
        """False for paths on which a threshold was tuned."""
        return self.scores.get("stop") != "never"

    @classmethod
    def read(cls, folder: Path, prefix: str = "") -> _Row:
        finished(folder)
        scores = read_object(folder / "scores.json")
        paths = list(_read_paths(folder / "trajectories.jsonl"))
        label = label_of(scores) or str(scores.get("method") or folder.name)
        return cls(folder.name, prefix + label, scores, _read_text(folder / "recipe.yaml"), sorted(paths, key=_natural))


def _read_paths(path: Path) -> Iterator[Trajectory]:
    if not path.exists():
        return
    for number, row in enumerate(read_journal(path), 1):
        try:
            yield Trajectory.from_json(row["trajectory"] | {"token_ids": (), "logprobs": ()})
        except (DataError, KeyError, TypeError) as error:
            raise DataError(f"{path}, record {number}: not a trajectory ({error!r}"[:400] + ")") from error


def _natural(path: Trajectory) -> list[Any]:
    parts = re.split(r"(\d+)", path.problem.id)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts] + [(0, path.seed or 0, "")]


def _judged(paths: Sequence[Trajectory]) -> Iterator[tuple[float, bool]]:
    """First attempts with P(correct) and a usable grade: what RM accuracy is measured on."""
    for path in paths:
        p = _probability(path.evaluations[0]) if path.evaluations else None
        right = _right(path.first)
        if p is not None and right is not None:
            yield p, right


def _probability(evaluation: SelfEvaluation) -> float | None:
    p = evaluation.p_correct
    return p if p is not None and math.isfinite(p) else None


def _right(attempt: Attempt) -> bool | None:
    try:
        return is_correct(attempt)
    except InputError:
        return None


def transition(path: Trajectory) -> str:
    """Return the name in `CLASSES` of what the self-correction did to a problem. Each path has exactly one."""
    first, final = _right(path.first), _right(path.final)
    verdict = path.evaluations[0].verdict if path.evaluations else None
    if first is None or final is None:
        return "not scored"
    if first != final:
        return "fixed" if final else "broken"
    if first:
        return "false alarm" if verdict is Verdict.WRONG else "kept right"
    return "missed" if verdict is Verdict.CORRECT else "still wrong"


# --- tables and plots --------------------------------------------------------------------------------------------


def _table_rows(demo: Mapping[str, Any], evaluated: Sequence[_Row]) -> list[dict[str, Any]]:
    """The table's rows where there is one, else the scores of each evaluated folder."""
    rows = _objects(demo, "rows")
    shown = {row.get("label") for row in rows}
    rows = rows + [
        row.scores | {"label": row.label}
        for row in evaluated
        if row.scores and row.is_result and row.label not in shown
    ]
    return [
        row
        | {"label": str(row.get("label") or row.get("method") or "–")}
        | ({"no_verdict": None, "no_verdict_interval": None} if _never_judges(row) else {})
        for row in rows
    ]


def _never_judges(row: Mapping[str, Any]) -> bool:
    """True for methods without verdicts. A model that was due to judge and did not, stops for that reason."""
    stops = _mapping(row.get("stops"))
    return row.get("no_verdict") == 100 and bool(stops) and stops.keys() <= {"end", "horizon", "length"}


def _best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the row of the highest Final among those that do not look at the reference answers, None without any."""
    able = [row for row in rows if _is_number(row.get("final")) and "gold" not in (row.get("loop"), row.get("stop"))]
    return max(able, key=lambda row: float(row["final"]), default=None)


def _transition_bar(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The four shares of a stacked bar: broken and kept right add up to Turn 1, kept right and fixed to Final."""
    shares = [row.get(key) for key in ("turn1", "i2c", "c2i")]
    if not all(map(_is_number, shares)):
        return None
    turn1, gained, lost = (float(share) for share in shares if share is not None)
    parts = (
        ("broken", "right → wrong", lost),
        ("kept", "kept right", turn1 - lost),
        ("fixed", "wrong → right", gained),
        ("wrong", "kept wrong", 100 - turn1 - gained),
    )
    return {"row": row, "parts": [(name, words, max(0.0, round(share, 2))) for name, words, share in parts]}


def _scored(path: Trajectory) -> bool:
    return _right(path.first) is not None and _right(path.final) is not None


def _votes(row: _Row) -> list[Curve]:
    """The row's voting curves; none where a problem has a single path."""
    counts: dict[str, int] = {}
    for path in row.paths:
        counts[path.problem.id] = counts.get(path.problem.id, 0) + _scored(path)
    return curves([path for path in row.paths if _scored(path)]) if min(counts.values(), default=0) > 1 else []


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

    return [(unit, band_panel(bands(unit), unit)) for unit in ("responses", "tokens")]


def _curves(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.jsonl"
    logged = list(read_jsonl(path)) if path.exists() else []
    points: dict[str, list[tuple[float, float]]] = {}
    for place, row in enumerate(logged, 1):
        step = row["step"] if _is_number(row.get("step")) else place
        for key, value in row.items():
            if key not in NOT_CURVES and _is_number(value):
                points.setdefault(key, []).append((float(step), float(value)))
    groups: list[tuple[str, ...]] = [group for group in TOGETHER if all(key in points for key in group)]
    grouped = {key for group in groups for key in group}
    groups += [(key,) for key in points if key not in grouped]
    groups.sort(key=lambda group: FIRST_CURVES.index(group[0]) if group[0] in FIRST_CURVES else len(FIRST_CURVES))
    return {
        "name": folder.name,
        "steps": len(logged),
        "panels": [
            (group, curve_panel([Series(key, tuple(sorted(points[key]))) for key in group]))
            for group in groups[:MOST_PANELS]
        ],
        "left_out": [" and ".join(group) for group in groups[MOST_PANELS:]],
    }


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings or counts as one level: ``{"kept · D1": "454"}``."""
    shown: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix} · {key}" if prefix else str(key)
        if isinstance(item, Mapping):
            shown |= flat(item, name)
        elif isinstance(item, list) and any(isinstance(part, Mapping) for part in item):
            shown[name] = f"{len(item)} records"
        else:
            shown[name] = ", ".join(map(show_value, item)) if isinstance(item, list) else show_value(item)
    return shown


def grouped(value: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return nested counts under their top-level names; what is not nested comes first, under an empty name."""
    single = {key: item for key, item in value.items() if not isinstance(item, Mapping)}
    nested = {str(key): flat(item) for key, item in value.items() if isinstance(item, Mapping)}
    return {name: shown for name, shown in {"": flat(single), **nested}.items() if shown}


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
            "made": read_object(folder / "provenance.json"),
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


# --- numbers as text ---------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def show_value(value: Any) -> str:
    """Return a value from a file as text: thousands grouped, a true minus sign, an en dash for a missing one."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_number(value):
        digits = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        return digits.replace("-", "−")
    return str(value)


def show_points(value: Any, signed: bool = False) -> str:
    """Return percent or percent points with one decimal; an en dash where there is none."""
    if not _is_number(value):
        return "–"
    if not round(value, 1):
        return "0.0"
    return f"{value:{'+' if signed else ''}.1f}".replace("-", "−")


def show_short(value: str) -> str:
    """Return a hash or a path short enough for a table cell."""
    return value if len(value) <= 24 else f"{value[:6]}…{value[-17:]}"


def show_interval(value: Any, signed: bool = False) -> str:
    """Return ``[low, high]`` as ``low–high``, or ``low to high`` where signs would collide with the dash."""
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_number, value)):
        return ""
    return (" to " if signed else "–").join(show_points(bound, signed) for bound in value)


def show_p(value: Any) -> str:
    """Return a p-value as a reader wants it: ``0.031``, ``< 0.001``."""
    if not _is_number(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


# --- the trajectories in the page --------------------------------------------------------------------------------


def viewer_json(rows: Sequence[_Row]) -> Markup:
    """Return every row's paths as JSON that is inert inside a script element.

    ``texts`` holds each distinct string once; a path is ``[problem, seed, class, stop, attempts, evaluations]`` with
    attempts ``[text, outcome, answer, reason]`` and evaluations ``[text, verdict, p_correct]``, all strings as
    positions in ``texts`` (see report.js). A row that spends its share of `TEXT_BUDGET` is cut and says so.
    """
    texts: dict[str, int] = {}
    problems: dict[tuple[str, str, str], int] = {}
    classes = list(CLASSES)
    outcomes = list(Outcome)
    verdicts = list(Verdict)

    def text(value: str) -> int:
        return texts.setdefault(value, len(texts))

    def record(path: Trajectory) -> list[Any]:
        identity = (path.problem.id, path.problem.question, path.problem.gold)
        return [
            problems.setdefault(identity, len(problems)),
            path.seed,
            classes.index(transition(path)),
            text(path.stop),
            [
                [
                    text(attempt.text),
                    outcomes.index(attempt.grade.outcome) if attempt.grade else -1,
                    -1 if attempt.answer is None else text(attempt.answer),
                    text(attempt.grade.reason if attempt.grade else ""),
                ]
                for attempt in path.attempts
            ],
            [
                [
                    text(evaluation.text),
                    -1 if evaluation.verdict is None else verdicts.index(evaluation.verdict),
                    None if (p := _probability(evaluation)) is None else round(p, 4),
                ]
                for evaluation in path.evaluations
            ],
        ]

    shown = []
    for row in rows:
        room = TEXT_BUDGET / len(rows)
        paths = []
        for path in row.paths:
            room -= sum(map(len, (a.text for a in path.attempts))) + sum(map(len, (e.text for e in path.evaluations)))
            if room < 0:
                break
            paths.append(record(path))
        if row.paths:
            shown.append(
                {"name": row.name, "label": row.label, "paths": paths, "all": len(row.paths), "result": row.is_result}
            )
    data = {
        "classes": [list(item) for item in CLASSES.items()],
        "texts": list(texts),
        "problems": [[text_id, question, gold] for text_id, question, gold in problems],
        "rows": shown,
    }
    return inert_json(data)


_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def inert_json(value: Any) -> Markup:
    """Return compact JSON without a character that HTML or JavaScript could read as markup."""
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", plain))
