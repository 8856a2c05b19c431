"""Finished evaluations: `EvalResult` is what ``scores.json`` holds, `EvaluatedRow` a folder with its trajectories.

Everything that reads an evaluation (tables, the page, calibration, voting, comparison, export) reads it here.

Example::

    row = read_row(Path("runs/demo/eval/ift"))
    row.result.method                  # "self-rewarding"
    row.result.scores.final            # Estimate(value=78.2, interval=(75.54, 80.65), n=1000)
    row.trajectories()[0].final.grade

``scores.json`` names its ``schema``. Version 2 holds the method under ``method`` and what tables call the row under
``label``. In files without a ``schema`` (version 0.1) ``method`` is the label and ``loop`` the method; they are read as
well. ``loop`` is still written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from selfcorrect.errors import DataError
from selfcorrect.keys import Keys
from selfcorrect.metrics import Scores, Share, power_note
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs.compute import Compute, compute_of_model
from selfcorrect.runs.folder import finished
from selfcorrect.runs.jsonl import read_journal, read_json
from selfcorrect.runs.recipes import to_values
from selfcorrect.types import Trajectory

SCHEMA = 2
SCORES = "scores.json"
TRAJECTORIES = "trajectories.jsonl"

Row = Mapping[str, Any]


# --- the record ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measure in percent, points or a unit of its own, with its 95% interval and the n that it is a share of.

    ``value`` is None where there was nothing to measure: no verdict, no wrong first attempt.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None

    @classmethod
    def of(cls, share: Share) -> Estimate:
        """Return a share as it is stored and shown: in percent, rounded to two decimals."""
        return cls(None if share.percent is None else round(share.percent, 2), _rounded(share.interval), share.n)


def _estimate(keys: Keys, key: str) -> Estimate:
    """Return a measure of a file, its interval (``<key>_interval``) and its n (``<key>_n``)."""
    return Estimate(keys.number(key), keys.interval(f"{key}_interval"), keys.count(f"{key}_n"))


def _rounded(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return interval and (round(interval[0], 2), round(interval[1], 2))


SHARES = ("turn1", "final", "i2c", "c2i", "rm_C", "rm_W", "no_verdict", "p_c2i")


@dataclass(frozen=True, slots=True)
class RowScores:
    """What was measured on a row: shares with intervals, counts and means; None where an old file does not say.

    The shares are those of `selfcorrect.metrics.Scores`, in percent. ``n`` scored trajectories of ``problems``.
    """

    n: int
    problems: int | None
    turn1: Estimate
    final: Estimate
    i2c: Estimate
    c2i: Estimate
    rm_C: Estimate
    rm_W: Estimate
    no_verdict: Estimate
    p_c2i: Estimate
    delta: Estimate
    unanswered: int | None
    ungradable: int | None
    truncated: int | None
    tokens_per_problem: float | None
    samples_per_problem: float | None
    stops: Mapping[str, int]
    faults: Mapping[str, int]
    resolution: float | None

    @classmethod
    def of(cls, scores: Scores) -> RowScores:
        """Return scores as they are stored and shown."""
        return cls(
            n=scores.n,
            problems=scores.problems,
            **{name: Estimate.of(getattr(scores, name)) for name in SHARES},
            delta=Estimate(round(scores.delta, 2), _rounded(scores.delta_interval)),
            unanswered=scores.unanswered,
            ungradable=scores.ungradable,
            truncated=scores.truncated,
            tokens_per_problem=round(scores.tokens_per_problem, 1),
            samples_per_problem=round(scores.samples_per_problem, 3),
            stops=scores.stops,
            faults=scores.faults,
            resolution=round(scores.resolution, 2),
        )

    @property
    def power(self) -> str:
        """What a reader must know before comparing two rows; empty where an old file does not say."""
        return "" if self.resolution is None else power_note(self.n, self.resolution)

    @property
    def has_verdicts(self) -> bool:
        """True where the method asks for verdicts: some were given, or one was due and did not come."""
        return bool(self.rm_C.n or self.rm_W.n) or "no-verdict" in self.stops

    def to_json(self) -> dict[str, Any]:
        """Return the scores under the keys of ``scores.json``, which are those of ``published_tables.json``."""
        row: dict[str, Any] = {}
        for name in (part.name for part in fields(self)):
            value = getattr(self, name)
            if not isinstance(value, Estimate):
                row[name] = dict(value) if isinstance(value, Mapping) else value
                continue
            row |= {name: value.value, f"{name}_interval": value.interval and list(value.interval)}
            row |= {} if name == "delta" else {f"{name}_n": value.n}
        return row | {"power": self.power}

    @classmethod
    def from_json(cls, keys: Keys) -> RowScores:
        """Read the scores of a file."""
        return cls(
            n=int(keys.needed("n", keys.count("n"))),
            problems=keys.count("problems"),
            **{name: _estimate(keys, name) for name in (*SHARES, "delta")},
            unanswered=keys.count("unanswered"),
            ungradable=keys.count("ungradable"),
            truncated=keys.count("truncated"),
            tokens_per_problem=keys.number("tokens_per_problem"),
            samples_per_problem=keys.number("samples_per_problem"),
            stops=keys.counts("stops"),
            faults=keys.counts("faults"),
            resolution=keys.number("resolution"),
        )


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How a row's trajectories were sampled; None where it is not known (a log of another tool's)."""

    temperature: float | None = None
    top_p: float | None = None
    horizon: int | None = None
    max_tokens: int | None = None
    path_tokens: int | None = None
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Short hashes of what a row depends on; two rows that differ in one are not of the same experiment."""

    grader: str | None = None
    prompts: str | None = None
    template: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class EvalResult:
    """The content of ``scores.json``: what was measured, how it was sampled, and what made it.

    ``method``, ``stop`` and ``judge`` are those of the recipe (`correction.loop`, `correction.stop_rule`,
    ``"orm: runs/x/checkpoints/orm"``); ``method`` is empty where a file of the first versions does not say it.
    ``dropped`` counts the problems that were left out, by reason; ``budget`` is the error budget as `Budget.row` gives
    it; ``imported`` the log of another tool that the row was read from; ``compute`` is what it took to make the model,
    and the judge where there is one, None where that is not recorded.
    """

    label: str
    scores: RowScores
    method: str = ""
    stop: str = "sampled"
    rule: Row | None = None
    judge: str | None = None
    row: str = ""
    model: str | None = None
    benchmark: str = ""
    split: str | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    problem_set: Row = field(default_factory=dict)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    thinking_tokens_per_problem: float | None = None
    budget: Row = field(default_factory=dict)
    fingerprints: Fingerprints = field(default_factory=Fingerprints)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str | None = None
    imported: str | None = None
    compute: Compute | None = None

    @property
    def title(self) -> str:
        """What tables call the row; one that is not of the synthetic test split says so: it is another result."""
        is_other = self.benchmark == "arithmetic" and self.split in ("validation", "ood", "wording")
        return f"{self.label} ({self.split})" if is_other else self.label

    @property
    def has_default_label(self) -> bool:
        """True where nobody named the row: its label says the method and no more."""
        return self.label == default_label(self.method, self.stop)

    @property
    def judge_kind(self) -> str:
        """The kind of the judge (``orm``); empty where nobody but the model judges."""
        return (self.judge or "").partition(":")[0]

    @property
    def format(self) -> str:
        """How its trajectories are written: ``long-cot`` (one message), ``two-turn`` (the paper's), ``chat``."""
        return {"self-rewarding": "long-cot", "two-turn": "two-turn"}.get(self.method, "chat")

    @property
    def sees_references(self) -> bool:
        """True where the checker decides when to stop: an upper bound, not a method."""
        return "gold" in (self.method, self.stop)

    @property
    def is_result(self) -> bool:
        """False for a row on which every judged attempt was revised: a threshold is tuned on it, or p c→i measured."""
        return self.stop != "never"

    @property
    def checkpoint(self) -> str:
        """The name of the model's folder where it is a checkpoint of a run; empty for any other model."""
        model = Path(self.model or "")
        return model.name if model.parent.name == "checkpoints" else ""

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``scores.json``; `from_json` gives an equal record back."""
        made = {"schema": SCHEMA, "method": self.method, **self.scores.to_json(), "label": self.label}
        made |= {name: _plain(getattr(self, name)) for name in ("row", "dropped", "benchmark", "split", "model")}
        made |= {"loop": self.method, "stop": self.stop, "rule": _plain(self.rule), "judge": self.judge}
        made |= {part.name: _plain(getattr(self.sampling, part.name)) for part in fields(self.sampling)}
        made |= {"budget": dict(self.budget)}
        made |= {name: getattr(self.fingerprints, name) for name in ("grader", "prompts")}
        made |= {
            "versions": dict(self.versions) or None,
            "machine": self.machine,
            "problem_set": dict(self.problem_set),
        }
        made |= {"thinking_tokens_per_problem": self.thinking_tokens_per_problem}
        made |= {name: getattr(self.fingerprints, name) for name in ("template", "tokenizer")}
        made |= {} if self.imported is None else {"imported": self.imported}
        return made | ({} if self.compute is None else {"compute": asdict(self.compute)})

    @classmethod
    def from_json(cls, row: Row, where: str = SCORES) -> EvalResult:
        """Read a row of this or an earlier version; DataError names ``where``, the key, and what to do."""
        keys = Keys(row, where, "evaluate the row anew")
        schema = keys.count("schema") or 1
        if schema > SCHEMA:
            raise DataError(
                f"{where}: 'schema' is {schema}, and this version of selfcorrect reads up to {SCHEMA}: use the version "
                "that wrote it, or evaluate the row anew"
            )
        said = keys.text("method")
        method = keys.needed("method", said) if schema == SCHEMA else keys.text("loop") or ""
        label = keys.text("label") or (said if schema == 1 else None)
        return cls(
            label=str(keys.needed("label", label)),
            scores=RowScores.from_json(keys),
            method=str(method),
            stop=keys.text("stop") or "sampled",
            rule=keys.object("rule"),
            judge=keys.text("judge"),
            row=keys.text("row") or "",
            model=keys.text("model"),
            benchmark=keys.text("benchmark") or "",
            split=keys.text("split"),
            dropped=keys.counts("dropped"),
            problem_set=keys.object("problem_set") or {},
            sampling=SamplingSettings(
                keys.number("temperature"),
                keys.number("top_p"),
                keys.count("horizon"),
                keys.count("max_tokens"),
                keys.count("path_tokens"),
                keys.integers("seeds"),
            ),
            thinking_tokens_per_problem=keys.number("thinking_tokens_per_problem"),
            budget=keys.object("budget") or {},
            fingerprints=Fingerprints(**{part.name: keys.text(part.name) for part in fields(Fingerprints)}),
            versions=keys.object("versions") or {},
            machine=keys.text("machine"),
            imported=keys.text("imported"),
            compute=_compute(keys),
        )


def _compute(keys: Keys) -> Compute | None:
    found = keys.object("compute")
    return None if found is None else Compute(**keys.counts("compute"))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value


def default_label(method: str, stop: str) -> str:
    """Return what tables call a row that nobody named: its method, and a stop decision of its own."""
    return method if stop == "sampled" else f"{method}, stop={stop}"


# --- folders ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EvaluatedRow:
    """One finished evaluation: its folder and its result."""

    folder: Path
    result: EvalResult

    @property
    def name(self) -> str:
        """The row's name: that of its folder."""
        return self.folder.name

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.result.title

    def problems(self) -> tuple[str, dict[str, str]]:
        """Return the shipped recipe of the row's benchmark, and the ``problems.*`` overrides that give its problems."""
        source = self.result.benchmark
        name = "embedded" if source == "arithmetic" else Path(source).name.split(".")[0]
        shipped = {path.stem: path for path in (Path(__file__).parent / "recipes").glob("*.yaml")}
        recipe = name if name in shipped else "math500"
        known = to_values(ProblemsRecipe())
        theirs = known | _problems_in(shipped[recipe])
        ours = _problems_in(self.folder / "recipe.yaml") or {"source": source, "split": self.result.split}
        wanted = {key: value for key, value in ours.items() if key in known and value != theirs[key]}
        return recipe, {f"problems.{key}": _inline(value) for key, value in wanted.items()}

    def trajectories(self, *, tokens: bool = True) -> list[Trajectory]:
        """Return its graded trajectories, as `read_trajectories` does."""
        return read_trajectories(self.folder, tokens=tokens)


def _problems_in(recipe: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    problems = values.get("problems") if isinstance(values, dict) else None
    return problems if isinstance(problems, dict) else {}


def _inline(value: Any) -> str:
    """Return a value as an override writes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def find_rows(places: Iterable[Path]) -> list[EvaluatedRow]:
    """Return the rows of run folders (all of theirs) and row folders, in order, each once.

    Raises DataError for a place that is neither, RunFolderError for a finished row that lost something since.
    """
    rows: dict[Path, EvaluatedRow] = {}
    for place in places:
        if (place / SCORES).is_file():
            folders: Sequence[Path] = [place]
        elif (place / "eval").is_dir():
            folders = sorted(path.parent for path in (place / "eval").glob(f"*/{SCORES}"))
        else:
            raise DataError(f"{place} is neither a run folder (with eval/) nor an evaluated row (with {SCORES})")
        for folder in folders:
            rows.setdefault(folder.resolve(), read_row(folder))
    return list(rows.values())


def read_row(folder: Path) -> EvaluatedRow:
    """Return the row in a folder; RunFolderError where it was finished and lost something since."""
    finished(folder)
    return EvaluatedRow(folder, read_result(folder))


def read_result(folder: Path) -> EvalResult:
    """Return what ``scores.json`` in a folder holds; what its model took, if not there, as the model's folder says it."""
    file = folder / SCORES
    result = EvalResult.from_json(read_json(file), str(file))
    return result if result.compute else replace(result, compute=_compute_of_its_model(folder, result))


def _compute_of_its_model(folder: Path, result: EvalResult) -> Compute | None:
    """Return what it took to make the checkpoint of the same run that a row was sampled from, None where it is no such.

    Rows that were evaluated before compute was counted do not say it, and their checkpoints may.
    """
    run = folder.resolve().parent.parent
    model = Path(result.model or "")
    if result.judge or not result.checkpoint or model.parts[-3:-2] != (run.name,):
        return None
    checkpoint = run / "checkpoints" / result.checkpoint
    return compute_of_model(str(checkpoint)) if (checkpoint / "recipe.yaml").is_file() else None


def read_trajectories(folder: Path, *, tokens: bool = True) -> list[Trajectory]:
    """Return the graded trajectories of an evaluation, in order of their keys.

    ``tokens=False`` leaves out token ids and log-probabilities, most of what they hold.
    """
    found = read_journalled(folder, tokens=tokens)
    return [found[key] for key in sorted(found)]


def read_journalled(folder: Path, *, tokens: bool = True) -> dict[str, Trajectory]:
    """Return the trajectories of an evaluation by their keys, in the order in which they were recorded."""
    file = folder / TRAJECTORIES
    found = {}
    for number, row in enumerate(read_journal(file), 1):
        try:
            bare = {} if tokens else {"token_ids": (), "logprobs": ()}
            found[str(row["key"])] = Trajectory.from_json(row["trajectory"] | bare)
        except (KeyError, TypeError, DataError) as error:
            raise DataError(f"{file}, record {number}: not a trajectory ({error!r:.300})") from error
    return found


def in_natural_order(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """Return trajectories as a reader expects them: problem 2 before problem 10, then by seed."""

    def key(trajectory: Trajectory) -> list[Any]:
        parts = re.split(r"(\d+)", trajectory.problem.id)
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts] + [
            (0, trajectory.seed or 0, "")
        ]

    return sorted(trajectories, key=key)
