"""Compare our grader with math_verify on the same labelled cases, interleaved, one process each, one core.

    python benchmarks/grader.py [cases.jsonl] [--limit N] [--no-peer] [--hostile]

Prints right accepted, wrong accepted and CPU time by group; the last line is one JSON object with the figures.
Times are CPU seconds of the process that grades (ours: the caller plus its workers), so a busy machine does not
matter; math_verify is timed inside its own child, which is killed after 20 s. Hostile cases are left out of the speed
ratio (math_verify hangs on some) unless ``--hostile``.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selfcorrect.grading import grade
from selfcorrect.grading.command import read_rows
from selfcorrect.grading.self_test import self_test
from selfcorrect.grading.workers.peer import MathVerify
from selfcorrect.grading.workers.pool import shared_pool

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "grader" / "cases_dev.jsonl"


def group(row: dict[str, Any]) -> str:
    """Return the group that the table reports a case under."""
    if row["source"].startswith("real-"):
        return "real outputs"
    if row["part"] == "peer":
        return "peers' tables"
    if row["part"] == "hostile":
        return "hostile"
    return "rewrites and changes" if row["kind"] in ("rewrite", "wrong") else "benchmark solutions"


def worker_cpu() -> float:
    """Return the CPU seconds that the pool's living workers have used."""
    total = 0.0
    pool = shared_pool()
    for worker in [*pool.free, *pool.lent]:
        try:
            fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / 100
        except (OSError, IndexError):
            continue
    return total


def percentile(times: list[float], share: float) -> float:
    """Return a percentile of times in milliseconds."""
    ordered = sorted(times)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--limit", type=int, help="every k-th case, so that about this many are graded")
    parser.add_argument("--no-peer", action="store_true", help="our grader alone")
    parser.add_argument("--hostile", action="store_true", help="let math_verify grade the hostile cases too (slow)")
    options = parser.parse_args()
    rows = list(read_rows(options.cases))
    if options.limit:
        rows = rows[:: max(1, len(rows) // options.limit)]
    failures = self_test()
    if failures:
        sys.exit("self-test failed:\n" + "\n".join(failures))
    started = worker_cpu()

    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    clocks: list[float] = []
    slowest = (0.0, "")
    workers: dict[str, float] = defaultdict(float)
    peer = None if options.no_peer else MathVerify().__enter__()
    for row in rows:
        name = group(row)
        before = worker_cpu() if name == "hostile" else 0.0
        cpu, clock = time.process_time(), time.perf_counter()
        ours = grade(row["response"], row["gold"], source=row["source"]).correct
        spent, waited = time.process_time() - cpu, time.perf_counter() - clock
        clocks.append(waited)
        if name == "hostile":
            workers["hostile"] += max(0.0, worker_cpu() - before)
        slowest = max(slowest, (waited, str(row.get("id"))))
        verdicts = {"ours": ours}
        times["ours", name].append(spent)
        if peer is not None and (name != "hostile" or options.hostile):
            theirs, _, peer_cpu = peer.judge(row["response"], row["gold"])
            verdicts["math_verify"] = bool(theirs)
            times["math_verify", name].append(peer_cpu)
        for who, verdict in verdicts.items():
            cell = counts[who, name]
            if row["expected"] is True:
                cell[0] += verdict
                cell[1] += 1
            elif row["expected"] is False:
                cell[2] += verdict
                cell[3] += 1
    if peer is not None:
        peer.__exit__(None, None, None)
    extra = max(0.0, worker_cpu() - started - workers["hostile"])

    print(f"{'grader':<12} {'group':<22} {'right accepted':>18} {'wrong accepted':>16} {'median ms':>10} {'p99 ms':>9}")
    for who, name in sorted(counts):
        right, of_right, wrong, of_wrong = counts[who, name]
        spent_here = times[who, name]
        print(
            f"{who:<12} {name:<22} {f'{right}/{of_right}':>18} {f'{wrong}/{of_wrong}':>16} "
            f"{percentile(spent_here, 0.5):>10.3f} {percentile(spent_here, 0.99):>9.2f}"
        )

    def total(who: str, names: list[str]) -> float:
        return sum(sum(times[who, name]) for name in names)

    def shares(who: str) -> dict[str, float]:
        cells = [counts[key] for key in counts if key[0] == who and key[1] != "hostile"]
        right, of_right, wrong, of_wrong = (sum(cell[k] for cell in cells) for k in range(4))
        return {"right_accepted": right / max(1, of_right), "wrong_accepted": wrong / max(1, of_wrong)}

    shared = sorted({name for who, name in times if who == "math_verify"})
    all_ours = [spent for (who, _), values in times.items() if who == "ours" for spent in values]
    figures: dict[str, Any] = {
        "cases": len(rows),
        "ours": shares("ours"),
        "ours_cpu_s": sum(all_ours) + extra,
        "ours_worker_cpu_s": extra,
        "ours_worker_cpu_hostile_s": workers["hostile"],
        "ours_median_ms": percentile(all_ours, 0.5),
        "ours_p99_ms": percentile(all_ours, 0.99),
        "ours_slowest_wall_s": slowest[0],
        "ours_slowest_case": slowest[1],
        "ours_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if shared:
        figures["math_verify"] = shares("math_verify")
        figures["math_verify_cpu_s"] = total("math_verify", shared)
        figures["speed_ratio"] = total("math_verify", shared) / (total("ours", shared) + extra)
        if ("math_verify", "real outputs") in times:
            ours_real = total("ours", ["real outputs"])
            figures["speed_ratio_real"] = total("math_verify", ["real outputs"]) / ours_real
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
