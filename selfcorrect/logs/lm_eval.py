"""``samples_<task>_<time>.jsonl`` of lm-evaluation-harness (``--log_samples``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError
from selfcorrect.logs.record import Log, Response, number
from selfcorrect.problems import MATCHED, OddRow, read_problem
from selfcorrect.runs.jsonl import read_jsonl


def read(place: Path, metric: str = "") -> Log:
    """Read a sample log. A document comes once for each filter: the score is the first filter's."""
    responses: dict[tuple[str, int], Response] = {}
    dropped: Counter[str] = Counter()
    used = metric
    for count, row in enumerate(read_jsonl(place), 1):
        texts = generated(row, f"{place}:{count}")
        listed = row.get("metrics") or ["exact_match"]
        known = [name for name in listed if isinstance(name, str) and name in row] if isinstance(listed, list) else []
        names = [metric] if metric else known
        score = number(row.get(names[0])) if names else None
        used = used or (names[0] if names else "")
        question, reference = question_and_reference(row)
        for repeat, text in enumerate(texts):
            key = (str(row.get("doc_id", count)), repeat)
            if key in responses:
                dropped["another filter of the same document"] += not repeat
                continue
            own = score if repeat == 0 else None  # the harness scores a document, not each of its responses
            responses[key] = Response(key[0], question, reference, text, own, repeat, meta=meta_of(row))
    task = place.name.removeprefix("samples_").removesuffix(".jsonl").split("_20")[0]
    return Log(place, "lm_eval", task, place.parent.name, used, tuple(responses.values()), dict(dropped))


def generated(row: Mapping[str, Any], where: str) -> list[str]:
    """Return the texts that were generated for a document; one that is null is empty, and so unanswered.

    Raises DataError for a row that is none of the harness, and for one of a task that generates nothing: where choices
    are scored, ``resps`` holds a log-likelihood for each.
    """
    requests = row.get("resps")
    if not isinstance(requests, list) or not requests:
        raise DataError(f"{where}: not a sample of lm-evaluation-harness: it has no 'resps'")
    first = requests[0] if isinstance(requests[0], list) else requests
    if any(not isinstance(text, str) and text is not None for text in first):
        raise DataError(
            f"{where}: no generated text: this log is of a task that scores the log-likelihood of given choices "
            f"(resps: {str(requests)[:60]}); only logs of generate_until tasks have answers to grade"
        )
    if not first:
        raise DataError(f"{where}: not a sample of lm-evaluation-harness: 'resps' is empty")
    return [text or "" for text in first]


def question_and_reference(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return a document's question and reference answer; what it does not say itself, the prompt and target do."""
    doc = row["doc"] if isinstance(row.get("doc"), Mapping) else {}
    question, reference = "", ""
    with suppress(OddRow, KeyError):
        found = read_problem(doc)
        question, reference = found.question, found.gold
    return question or _prompt(row), reference or _target(row)


def meta_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document's level, subject and the like, which budgets are split by."""
    doc = row["doc"] if isinstance(row.get("doc"), Mapping) else {}
    return {key: doc[key] for key in MATCHED if isinstance(doc.get(key), (str, int, float))}


def _prompt(row: Mapping[str, Any]) -> str:
    arguments = row.get("arguments")
    first = arguments.get("gen_args_0") if isinstance(arguments, Mapping) else None
    return str(first.get("arg_0") or "") if isinstance(first, Mapping) else ""


def _target(row: Mapping[str, Any]) -> str:
    """Return what the harness compares with; empty where it is nothing, or several things."""
    target = row.get("target")
    if isinstance(target, list):
        target = target[0] if len(target) == 1 else None
    return str(target).strip() if isinstance(target, (str, int, float)) and not isinstance(target, bool) else ""
