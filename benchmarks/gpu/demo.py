"""`selfcorrect demo`, the whole way on the embedded model, on the GPU; its table and the seconds of its steps."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from benchmarks.gpu.results import options, record, short


def main() -> None:
    """Run the demo (``--small``: its plan alone) and record its rows."""
    out, small = options(__doc__)
    run = out / "demo"
    command = [sys.executable, "-m", "selfcorrect", "demo", "--run", str(run), *(["--dry-run"] if small else [])]
    started = time.monotonic()
    subprocess.run(command, check=True)
    record(out, "demo", wall_s=round(time.monotonic() - started), dry_run=small)
    if small:
        return
    record(out, "demo", seconds=json.loads((run / "logs" / "seconds.json").read_text(encoding="utf-8")))
    for path in sorted((run / "eval").glob("*/scores.json")):
        record(out, "demo", row=path.parent.name, scores=short(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
