"""Run the GPU kit: parts in processes of their own, each result written as it comes, so that a cut run still tells.

    make gpu-check                                        # every part, results in runs/gpu
    python -m benchmarks.gpu OUT --plan device,tests+demo,step,sampling
    python -m benchmarks.gpu OUT --small                  # on a CPU, in minutes: that every line of it runs

``--plan`` is a list of waves, one after another; parts joined by ``+`` run side by side. Parts that measure time stand
alone in their wave. OUT gets ``results.jsonl`` (a line a result, with the part, the card and the versions), a log for
each part, and what the parts write. The last line printed is JSON: the parts and how each ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.results import RESULTS

PARTS = ("device", "tests", "demo", "step", "sampling", "organism", "smollm", "study")
PLAN = "device,tests+demo,step,sampling,organism"


def main() -> None:
    """Run the waves of a plan within a number of seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--plan", default=PLAN, help=f"waves of parts: {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=570, help="for all of it")
    parser.add_argument("--small", action="store_true", help="tiny sizes: the same lines in little time")
    arguments = parser.parse_args()
    waves = [wave.split("+") for wave in arguments.plan.split(",")]
    if unknown := sorted({part for wave in waves for part in wave} - set(PARTS)):
        parser.error(f"unknown part {', '.join(unknown)}; expected {', '.join(PARTS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + arguments.seconds
    ended: dict[str, str] = {}
    for wave in waves:
        running = {part: start(part, arguments.out, arguments.small) for part in wave}
        for part, process in running.items():
            ended[part] = wait(process, end - time.monotonic())
            print(f"--- {part}: {ended[part]}", flush=True)
            show(part, arguments.out)
    print(json.dumps(ended))


def start(part: str, out: Path, small: bool) -> subprocess.Popen[bytes]:
    """Start a part; all it prints goes to its log."""
    command = [sys.executable, "-m", f"benchmarks.gpu.{part}", str(out), *(["--small"] if small else [])]
    with (out / f"{part}.log").open("wb") as log:
        environment = os.environ | {
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
        }
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def wait(process: subprocess.Popen[bytes], seconds: float) -> str:
    """Return how a part ended; one that has no time left is ended, with all its children."""
    started = time.monotonic()
    try:
        code = process.wait(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 15)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
        return f"cut after {time.monotonic() - started:.0f} s"
    return f"exit {code} after {time.monotonic() - started:.0f} s"


def show(part: str, out: Path) -> None:
    """Print a part's results and the end of its log."""
    if (out / RESULTS).exists():
        for line in (out / RESULTS).read_text(encoding="utf-8").splitlines():
            if json.loads(line)["part"] == part:
                print(line)
    print("\n".join((out / f"{part}.log").read_text(encoding="utf-8", errors="replace").splitlines()[-12:]), flush=True)


if __name__ == "__main__":
    main()
