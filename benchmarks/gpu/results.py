"""What the parts share: where they write, and under which size they run."""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

RESULTS = "results.jsonl"


def options(description: str | None) -> tuple[Path, bool]:
    """Return the folder of the results, and whether the sizes are to be tiny."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true")
    read = parser.parse_args()
    return read.out, read.small


def device() -> torch.device:
    """Return the GPU, or the CPU of a machine without one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def machine() -> dict[str, str]:
    """Return the card and the versions, which every result carries."""
    import transformers
    import trl

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"card": card, "torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}


def record(out: Path, part: str, **figures: Any) -> None:
    """Append a result, and print it."""
    line = json.dumps({"part": part, **figures, **machine()}, default=str)
    with (out / RESULTS).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


SHOWN = ("turn1", "final", "delta", "i2c", "c2i", "rm_C", "rm_W")


def short(scores: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a result table: each share with its interval and n, and the tokens a problem."""
    shares = {name: [scores[name], scores[f"{name}_interval"], scores.get(f"{name}_n")] for name in SHOWN}
    return {"n": scores["n"], **shares, "tokens_per_problem": scores["tokens_per_problem"]}


def synchronize() -> None:
    """Wait for what the GPU was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gb() -> float:
    """Return the most GPU memory that was allocated since the last call, in GB; 0 on a CPU."""
    if not torch.cuda.is_available():
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)
