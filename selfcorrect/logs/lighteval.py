"""``details_<task>_<time>.parquet`` of lighteval: a document, its responses and its scores in each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError, MissingExtraError
from selfcorrect.logs.record import Log, Response, number


def read(place: Path, metric: str = "") -> Log:
    """Read a details file. The reference is the choice that ``gold_index`` names; the score is the document's."""
    responses, dropped, used, task = [], Counter[str](), metric, ""
    for count, row in enumerate(_rows(place), 1):
        doc, answer, scores = (row.get(key) for key in ("doc", "model_response", "metric"))
        if not isinstance(doc, Mapping) or not isinstance(answer, Mapping):
            raise DataError(f"{place}, row {count}: expected lighteval's doc and model_response, got {sorted(row)}")
        reference = _reference(doc)
        scores = {name: value for name, value in (scores or {}).items() if number(value) is not None}
        used = used or next(iter(scores), "")
        task = task or str(doc.get("task_name") or "")
        texts = answer.get("text_post_processed") or answer.get("text") or []
        if not texts:
            dropped["no generated text"] += 1
        for repeat, text in enumerate(texts):
            score = number(scores.get(used)) if repeat == 0 else None  # of the document, not of each response
            meta = {key: value for key, value in (doc.get("specific") or {}).items() if isinstance(value, (str, int))}
            question = str(doc.get("original_query") or doc.get("query") or "")
            responses.append(
                Response(str(doc.get("id") or count), question, reference, str(text or ""), score, repeat, meta=meta)
            )
    return Log(place, "lighteval", task.split("|")[0], place.parent.parent.name, used, tuple(responses), dict(dropped))


def _rows(place: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError(f"{place}: parquet needs pyarrow: pip install 'selfcorrect[logs]'") from None
    try:
        with place.open("rb") as file:
            rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{place}: not a readable parquet file ({error})") from error
    return rows


def _reference(doc: Mapping[str, Any]) -> str:
    """Return the reference answer; empty where there are several, or none."""
    index, choices = doc.get("gold_index"), doc.get("choices") or []
    if isinstance(index, list):
        index = index[0] if len(index) == 1 else None
    return str(choices[index]) if isinstance(index, int) and 0 <= index < len(choices) else ""
