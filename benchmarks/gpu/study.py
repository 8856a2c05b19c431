"""`selfcorrect reproduce` at the scale laptop, on all cores: table 3 of three seeds and its controls, and the claims.

The embedded model is small: its steps run on the CPU, a core each, and the card is left alone. What comes back is the
folder of tables, and the scores of every row.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

from benchmarks.gpu.results import options, record, short

TABLES = ("table3", "controls")


def main() -> None:
    """Run the plan (``--small``: print it) and record its rows; ``study.tar.gz`` has tables and scores."""
    out, small = options(__doc__)
    run = out / "study"
    seeds = os.environ.get("STUDY_SEEDS", "0,1,2")
    words = ["reproduce", *os.environ.get("STUDY_TABLES", ",".join(TABLES)).split(","), "--scale", "laptop"]
    words += ["--seeds", seeds, "--jobs", str(os.cpu_count() or 2), "--run", str(run)]
    started = time.monotonic()
    ended = selfcorrect(words if not small else [*words, "--dry-run"], float(os.environ.get("STUDY_SECONDS", "500")))
    record(out, "study", wall_s=round(time.monotonic() - started), exit=ended, dry_run=small)
    runs = [str(path) for path in sorted(run.glob("s*")) if (path / "eval").is_dir()]
    for table in ("table3", "claims") if runs else ():  # of what is done, where the plan was cut
        selfcorrect(["report", table, *runs, "--out", str(run / "tables")], 60)
    for path in sorted(run.glob("s*/eval/*/scores.json")):
        row = f"{path.parts[-4]}/{path.parent.name}"
        record(out, "study", row=row, scores=short(json.loads(path.read_text(encoding="utf-8"))))
    if (run / "tables").is_dir():
        shutil.make_archive(str(out / "study-tables"), "gztar", run / "tables")


def selfcorrect(words: list[str], seconds: float) -> int | str:
    """Run a command on the CPU and return its exit code, or that it was cut."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen([sys.executable, "-m", "selfcorrect", *words], env=environment)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its steps
        process.wait()
        return f"cut after {seconds:.0f} s"


if __name__ == "__main__":
    main()
