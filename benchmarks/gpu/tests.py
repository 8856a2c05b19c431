"""The tests of engines, trainers, data and evaluation, as they stand, where PyTorch sees a GPU; and tests/gpu."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.results import options, record

ON_DEVICE = ("tests/gpu",)
AS_THEY_STAND = ("tests/train", "tests/selfcorrect/engines", "tests/data_gen", "tests/eval")


def main() -> None:
    """Run both; record the counts and the names of what failed."""
    out, small = options(__doc__)
    run(out, "on device", ON_DEVICE, ("-m", "gpu or not gpu"))
    if not small:
        spread = ("-n", "10") if find_spec("xdist") else ()
        run(out, "as they stand", AS_THEY_STAND, ("-m", "not slow and not gpu", *spread))


def run(out: Path, name: str, folders: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Run pytest, its whole output to a file of its own."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *folders, *arguments, "--tb=short", "-rf"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    (out / f"pytest-{name.replace(' ', '-')}.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    counts = {
        what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout[-400:])
    }
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    record(out, "tests", name=name, exit=done.returncode, **counts, names=failed)


if __name__ == "__main__":
    main()
