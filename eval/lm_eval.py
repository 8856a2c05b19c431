"""lm-evaluation-harness sample logs (``samples_<task>_<time>.jsonl`` of ``--log_samples``), read and written.

A log holds one row per document and filter: ``doc``, ``target``, ``resps`` (responses by request), hashes, metrics. It
knows nothing of attempts and verdicts, so a foreign log becomes single-attempt paths, one seed a response. Ours carry
the whole path under ``selfcorrect`` and come back as they were, without token ids.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfcorrect import prompts
from selfcorrect.correction import grade_trajectories
from selfcorrect.errors import DataError
from selfcorrect.grading import extract_answer, gold_is_readable
from selfcorrect.jsonl import read_jsonl
from selfcorrect.metrics import is_correct
from selfcorrect.problems import SCHEMAS
from selfcorrect.types import Attempt, Problem, Trajectory


def samples(trajectories: Sequence[Trajectory], scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one log row per path; ``exact_match`` is our grade of the final answer."""
    places: dict[str, int] = {}
    for t in trajectories:
        doc = {"id": t.problem.id, "question": t.problem.question, "answer": t.problem.gold, **t.problem.meta}
        prompt = prompts.solve(t.problem.question)
        settings: dict[str, Any] = {
            "temperature": scores.get("temperature"),
            "max_gen_toks": scores.get("max_tokens"),
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


def read_samples(file: Path, source: str) -> tuple[list[Trajectory], dict[str, int]]:
    """Return the graded paths of a log and how many rows were dropped, by reason; ``source`` names the grader's rules.

    A document that several filters list is read once. Raises DataError where nothing is left.
    """
    paths: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(read_jsonl(file), 1):
        if "selfcorrect" in row:
            paths.append(Trajectory.from_json(row["selfcorrect"]))
            continue
        try:
            identity = (str(row["doc_id"]), str(row.get("doc_hash")))
            responses = [str(text) for text in row["resps"][0]]
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{file}, row {number}: not a sample of lm-evaluation-harness ({error!r})") from error
        if identity in seen:
            dropped["another filter of the same document"] += 1
            continue
        seen.add(identity)
        question, gold = _question_and_gold(row)
        if not gold or not gold_is_readable(gold, source):
            dropped["reference answer unreadable"] += 1
            continue
        problem = Problem(f"{file.stem}-{identity[0]}", question, gold, source)
        for seed, text in enumerate(responses):
            attempt = Attempt(text, extract_answer(text, source=source))
            paths.append(Trajectory(problem, (attempt,), stop="end", seed=seed))
    if not paths:
        raise DataError(f"{file}: no usable sample; dropped: {dict(dropped) or 'none, the file is empty'}")
    return grade_trajectories(paths), dict(dropped)


def _question_and_gold(row: Mapping[str, Any]) -> tuple[str, str]:
    doc = row["doc"] if isinstance(row.get("doc"), Mapping) else {}
    for schema in SCHEMAS:
        if schema.keys <= doc.keys() and schema.fits(doc):
            question, gold = schema.read(doc)
            return question.strip(), (gold or "").strip()
    arguments = row.get("arguments")
    first = arguments.get("gen_args_0", {}) if isinstance(arguments, Mapping) else {}
    return str(first.get("arg_0", "")), str(row.get("target", "")).strip()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
