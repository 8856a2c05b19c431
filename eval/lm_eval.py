"""lm-evaluation-harness sample logs (``samples_<task>_<time>.jsonl`` of ``--log_samples``), read and written.

A log holds one row per document and filter: ``doc``, ``target``, ``resps`` (responses by request), hashes, metrics. It
knows nothing of attempts and verdicts, so a foreign log becomes single-attempt trajectories, one seed a response. Ours
carry the whole trajectory under ``selfcorrect`` and come back as they were, without token ids. Checked against what
lm_eval 0.4.13 wrote (tests/eval/data).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcorrect import prompts
from selfcorrect.correction.loop import grade_trajectories
from selfcorrect.errors import DataError
from selfcorrect.eval.results import SamplingSettings
from selfcorrect.grading import extract_answer, gold_is_readable
from selfcorrect.logs.lm_eval import generated, meta_of, question_and_reference
from selfcorrect.metrics import is_correct
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.types import Attempt, Problem, StopReason, Trajectory


def samples(trajectories: Sequence[Trajectory], sampling: SamplingSettings) -> Iterator[dict[str, Any]]:
    """Yield one log row per trajectory; ``exact_match`` is our grade of the final answer."""
    places: dict[str, int] = {}
    for t in trajectories:
        doc = {"id": t.problem.id, "question": t.problem.question, "answer": t.problem.gold, **t.problem.meta}
        prompt = prompts.solve(t.problem.question)
        settings: dict[str, Any] = {
            "temperature": sampling.temperature,
            "max_gen_toks": sampling.max_tokens,
            "until": [],
        }
        text = prompts.SEPARATOR.join(part for part in _parts(t) if part)
        yield {
            "doc_id": places.setdefault(t.problem.id, len(places)),
            "doc": doc,
            "target": t.problem.gold,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": settings}},
            "resps": [[text]],
            "filtered_resps": [t.final.answer or ""],
            "filter": "selfcorrect",
            "metrics": ["exact_match"],
            "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _hash(prompt),
            "target_hash": _hash(t.problem.gold),
            "exact_match": float(bool(is_correct(t.final))),
            "selfcorrect": t.to_json() | {"token_ids": [], "logprobs": [], "spans": []},
        }


def _parts(t: Trajectory) -> Iterator[str]:
    for turn, attempt in enumerate(t.attempts):
        yield attempt.text
        if turn < len(t.evaluations):
            yield t.evaluations[turn].text


@dataclass(frozen=True, slots=True)
class SampleLog:
    """A log as graded trajectories, and how many of its rows were dropped, by reason.

    ``agreed`` says for each of the log's filters on how many documents its own ``exact_match`` and our grade of the
    first response say the same, and on how many it could be asked; ``sampling`` is what the log tells of how they were.
    """

    trajectories: list[Trajectory]
    dropped: dict[str, int]
    agreed: dict[str, tuple[int, int]]
    sampling: SamplingSettings


def read_samples(file: Path, source: str) -> SampleLog:
    """Read a log; ``source`` names the rules of our grader. A document that several filters list is read once.

    Raises DataError where nothing is left.
    """
    trajectories: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    places: dict[tuple[str, str], int | None] = {}  # of a document's first response; None: dropped
    matches: list[tuple[str, tuple[str, str], bool]] = []
    sampling: SamplingSettings | None = None
    for number, row in enumerate(read_jsonl(file), 1):
        if "selfcorrect" in row:
            trajectories.append(Trajectory.from_json(row["selfcorrect"]))
            continue
        responses = generated(row, f"{file}:{number}")
        identity = (str(row.get("doc_id", number)), str(row.get("doc_hash")))
        if isinstance(row.get("exact_match"), (int, float)):
            matches.append((str(row.get("filter")), identity, row["exact_match"] > 0.5))
        if identity in places:
            dropped["another filter of the same document"] += 1
            continue
        places[identity] = None
        question, gold = question_and_reference(row)
        if not gold or not gold_is_readable(gold, source):
            dropped["reference answer unreadable"] += 1
            continue
        places[identity] = len(trajectories)
        sampling = sampling or _sampling(row)
        problem = Problem(f"{file.stem}-{identity[0]}", question, gold, source, meta_of(row))
        for seed, text in enumerate(responses):
            attempt = Attempt(text, extract_answer(text, source=source))
            trajectories.append(Trajectory(problem, (attempt,), stop=StopReason.END, seed=seed))
    if not trajectories:
        raise DataError(f"{file}: no usable sample; dropped: {dict(dropped) or 'none, the file is empty'}")
    graded = grade_trajectories(trajectories)
    agreed: dict[str, tuple[int, int]] = {}
    for name, identity, matched in matches:
        place = places[identity]
        if place is not None and (right := is_correct(graded[place].final)) is not None:
            same, asked = agreed.get(name, (0, 0))
            agreed[name] = (same + (matched == right), asked + 1)
    return SampleLog(graded, dict(dropped), agreed, sampling or SamplingSettings())


def _sampling(row: Mapping[str, Any]) -> SamplingSettings | None:
    arguments = row.get("arguments")
    given = arguments.get("gen_args_0", {}).get("arg_1") if isinstance(arguments, Mapping) else None
    if not isinstance(given, Mapping):
        return None
    numbers = {key: value for key, value in given.items() if type(value) in (int, float)}
    temperature = numbers.get("temperature") if given.get("do_sample", True) else 0.0
    longest = numbers.get("max_gen_toks")
    return SamplingSettings(temperature, numbers.get("top_p"), max_tokens=None if longest is None else int(longest))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
