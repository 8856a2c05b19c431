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
    """Run pytest, its whole output to a file of its own, written as it comes."""
    shown = ("-v", "--tb=short", "-rf", "--durations=15", "-o", "faulthandler_timeout=90", "-p", "no:cacheprovider")
    path = out / f"pytest-{name.replace(' ', '-')}.txt"
    with path.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", "pytest", *folders, *arguments, *shown]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    said = path.read_text(encoding="utf-8", errors="replace")
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", said[-400:])}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    record(out, "tests", name=name, exit=code, **counts, names=failed)


if __name__ == "__main__":
    main()
