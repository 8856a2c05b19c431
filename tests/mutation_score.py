"""Print the mutation score of each module, read from ``mutmut results --all true``; exit with 1 below 90% in all.

A mutant counts as found where a test failed or ran out of time, and as missed where none did or none ran it.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable

BAR = 90.0
FOUND, MISSED = ("killed", "timeout"), ("survived", "no tests", "suspicious")


def tally(lines: Iterable[str]) -> dict[str, Counter[str]]:
    """Return how many mutants of each module have which status, from lines ``module.function__mutmut_3: killed``."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        name, separator, status = line.strip().rpartition(": ")
        if separator and "__mutmut_" in name:
            found[name.rsplit(".", 1)[0]][status] += 1
    return found


def percent(statuses: Counter[str]) -> float:
    """Return the share of the mutants that were found."""
    found, missed = (sum(statuses[status] for status in group) for group in (FOUND, MISSED))
    return 100 * found / (found + missed) if found + missed else 0.0


def main() -> int:
    """Print the table and return the exit code."""
    modules = tally(sys.stdin)
    together = sum(modules.values(), Counter[str]())
    for name, statuses in [*sorted(modules.items()), ("all", together)]:
        counts = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
        print(f"{name:<28}{percent(statuses):6.1f}%   {counts}")
    return 0 if percent(together) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
