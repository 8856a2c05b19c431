"""Logs of inspect_ai: ``*.eval``, a ZIP of JSON files (compressed with zstandard), and the older ``*.json``."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError, MissingExtraError
from selfcorrect.logs.record import Log, Response, mapping, number, question_of, text_of

ZSTANDARD = 93
"""The compression method of ``.eval`` files, which Python's zipfile reads from 3.14 on only."""


def read(place: Path, metric: str = "") -> Log:
    """Read a log; ``metric`` names a scorer (empty: the first). Samples that ended in an error are dropped."""
    head, samples = _parts(place)
    responses, dropped, used = [], Counter[str](), metric
    for count, sample in enumerate(samples, 1):
        if not isinstance(sample, Mapping):
            raise DataError(f"{place}: sample {count} is no JSON object")
        if sample.get("error"):
            dropped["sample ended in an error"] += 1
            continue
        scores = mapping(sample.get("scores"))
        used = used or next(iter(scores), "")
        score = scores.get(used)
        responses.append(
            Response(
                id=str(sample.get("id")),
                question=question_of(sample.get("input")),
                reference=_target(sample.get("target")),
                text=_completion(sample),
                score=number(score.get("value")) if isinstance(score, Mapping) else None,
                repeat=_epoch(sample, f"{place}: sample {count}") - 1,
                cut=_stop_reason(sample) in ("max_tokens", "model_length"),
                meta=mapping(sample.get("metadata")),
            )
        )
    about = mapping(head.get("eval"))
    task, model = str(about.get("task") or ""), str(about.get("model") or "")
    return Log(place, "inspect", task, model, used, tuple(responses), dict(dropped))


def _epoch(sample: Mapping[str, Any], where: str) -> int:
    """Return the number of a response to its problem, from 1; DataError where it is no such number."""
    epoch = sample.get("epoch") or 1
    if type(epoch) is not int:
        raise DataError(f"{where}: expected epoch as a whole number, got {epoch!r:.80}")
    return epoch


def _parts(place: Path) -> tuple[Mapping[str, Any], Iterator[Any]]:
    """Return the head of a log and its samples, one after the other."""
    if place.suffix == ".json":
        try:
            whole = json.loads(place.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON ({error})") from error
        if not isinstance(whole, Mapping) or not isinstance(whole.get("samples"), list):
            raise DataError(f"{place}: not a log of inspect_ai: it has no 'samples'")
        return whole, iter(whole["samples"])
    try:
        archive = zipfile.ZipFile(place)
    except zipfile.BadZipFile as error:
        raise DataError(f"{place}: not a readable archive ({error})") from error
    names = [name for name in archive.namelist() if name.startswith("samples/") and name.endswith(".json")]
    if not names:
        raise DataError(f"{place}: not a log of inspect_ai: the archive has no samples/")
    head = "header.json" if "header.json" in archive.namelist() else "_journal/start.json"
    return _load(archive, place, head), _samples(archive, place, sorted(names))


def _samples(archive: zipfile.ZipFile, place: Path, names: Sequence[str]) -> Iterator[Any]:
    with archive:
        for name in names:
            yield _load(archive, place, name)


def _load(archive: zipfile.ZipFile, place: Path, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(_bytes(archive, place, name))
    except (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{place}: {name} cannot be read ({error})") from error
    if not isinstance(found, Mapping):
        raise DataError(f"{place}: {name} is no JSON object")
    return found


def _bytes(archive: zipfile.ZipFile, place: Path, name: str) -> bytes:
    """Return a member of the archive. Raises MissingExtraError where it needs zstandard and there is none."""
    about = archive.getinfo(name)
    try:
        return archive.read(about)
    except NotImplementedError:
        if about.compress_type != ZSTANDARD:
            raise
    try:
        import zstandard
    except ImportError:
        message = f"{place}: compressed with zstandard; to read it: pip install 'selfcorrect[logs]'"
        raise MissingExtraError(message) from None
    with place.open("rb") as file:
        file.seek(about.header_offset)
        local = file.read(30)  # the local header; the lengths of name and extra field stand at its end
        file.seek(int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little"), os.SEEK_CUR)
        packed = file.read(about.compress_size)
    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    except zstandard.ZstdError as error:
        raise DataError(f"{place}: {name} is damaged ({error})") from error


def _target(target: Any) -> str:
    if isinstance(target, list):
        return str(target[0]) if len(target) == 1 else ""
    return "" if target is None else str(target)


def _choice(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    output = sample.get("output")
    choices = output.get("choices") if isinstance(output, Mapping) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}


def _completion(sample: Mapping[str, Any]) -> str:
    output = sample.get("output")
    completion = output.get("completion") if isinstance(output, Mapping) else None
    if isinstance(completion, str):
        return completion
    message = _choice(sample).get("message")
    return text_of(message.get("content")) if isinstance(message, Mapping) else ""


def _stop_reason(sample: Mapping[str, Any]) -> str:
    return str(_choice(sample).get("stop_reason") or "")
