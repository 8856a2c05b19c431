"""Identity is content, not a path: short hashes of problems, of model folders and of files (`inputs` keeps them).

What the hash of a model sees: every file that decides what the model writes (weights, adapter, configuration,
tokenizer, chat template), by its bytes up to `WHOLE_BYTES`. Of a larger safetensors file it sees the header (names,
shapes, types of all tensors), the length, and the first and last `EDGE_BYTES` of every tensor; of any other large file
`SAMPLES` evenly spread blocks. So any training step, merge, cast or truncation is seen, and a flipped bit in the middle
of a large tensor is not. Paths and times do not count, so a copied folder is the same model. A model of the hub is its
revision.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from selfcorrect.types import Problem

WHOLE_BYTES = 256 * 2**20
"""Files up to this size are hashed whole (a quarter of a second)."""
EDGE_BYTES = 4096
"""Bytes hashed at each end of a tensor of a larger file."""
SAMPLES = 256
"""Blocks of `EDGE_BYTES` hashed of a larger file of another kind."""
MODEL_FILES = (
    "*.safetensors", "*.bin", "*.gguf", "*.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
)  # fmt: skip
"""The files of a model folder that decide what it writes."""
SHOWN = 3


def fingerprint_problem(problem: Problem) -> str:
    """Return a short hash of what is asked and what counts as right: question, reference, rules, tolerance."""
    said = (problem.question, problem.gold, problem.source, str(problem.meta.get("tolerance", "")))
    return _short(json.dumps(said).encode())


def fingerprint_problems(problems: Iterable[Problem]) -> str:
    """Return a short hash of problems, their ids and their order."""
    return fingerprint_parts(problem_parts(problems))


def problem_parts(problems: Iterable[Problem]) -> dict[str, str]:
    """Return one hash for each problem id."""
    return {problem.id: fingerprint_problem(problem) for problem in problems}


def fingerprint_parts(parts: Mapping[str, str]) -> str:
    """Return one hash for a mapping of names to hashes, in its order."""
    return _short(json.dumps(list(parts.items())).encode())


def model_parts(model: str) -> dict[str, str]:
    """Return one hash for each file of a model folder, the revision of a hub model, or nothing."""
    from selfcorrect.chat import model_path

    folder = Path(model_path(model))
    if not folder.is_dir():
        revision = _hub_revision(model)
        return {"revision": revision} if revision else {}
    files = {path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    return {path.name: file_digest(path) for path in sorted(files)}


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Say which names changed, came and went, the first of each by name."""
    changed = [name for name in old if name in new and old[name] != new[name]]
    gone = [name for name in old if name not in new]
    added = [name for name in new if name not in old]
    return "; ".join(
        f"{len(names):,} {word} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
        for word, names in (("changed", changed), ("gone", gone), ("new", added))
        if names
    )


def _short(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def _hub_revision(model: str) -> str:
    """Return the revision of a hub model that lies in this machine's cache, empty where none does."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except (HFValidationError, OSError):  # a name that is no repository's: a server's own
        return ""
    return Path(found).parent.name if isinstance(found, str) else ""


def file_digest(path: Path) -> str:
    """Return the hash of a file: of all of it, or of a large one of what the module says."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=12)
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            while block := file.read(2**22):
                digest.update(block)
            return digest.hexdigest()
        for start, end in _tensors(file, size) if path.suffix == ".safetensors" else _blocks(size):
            for place in dict.fromkeys((start, max(start, end - EDGE_BYTES))):
                file.seek(place)
                digest.update(file.read(min(EDGE_BYTES, end - place)))
    return digest.hexdigest()


def _blocks(size: int) -> Iterable[tuple[int, int]]:
    return [(start, start + EDGE_BYTES) for start in range(0, size - EDGE_BYTES, max(1, size // SAMPLES))]


def _tensors(file: BinaryIO, size: int) -> Iterable[tuple[int, int]]:
    """Return where a safetensors file's header and tensors begin and end; blocks where it is damaged."""
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size:
            return _blocks(size)
        header = json.loads(file.read(length))
        places = sorted(tensor["data_offsets"] for name, tensor in header.items() if name != "__metadata__")
        begins = 8 + length
        if any(not 0 <= start <= end <= size - begins for start, end in places):
            return _blocks(size)
        header_blocks = [(start, min(start + EDGE_BYTES, begins)) for start in range(0, begins, EDGE_BYTES)]
        return [*header_blocks, *((begins + start, begins + end) for start, end in places)]
    except (struct.error, ValueError, AttributeError, KeyError, TypeError):
        return _blocks(size)
