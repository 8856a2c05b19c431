"""The graders that RL libraries bring, on the cases that ours is measured on: what each accepts, right and wrong.

    python benchmarks/grader_peers.py [cases.jsonl] [--peers trl,verl-math,verl-dapo,verl-prime]

Run it where the library is: TRL in `.venv` (make install), verl in `.venv-doors/verl` (make test-doors). Each is called
as its library's users call it: TRL's gets the reference answer in dollars, verl's as it is, DAPO's reads boxes. A case
has 20 seconds; what raises, hangs or gives no score accepts nothing, and is counted. Hostile cases are left out. The
last line is JSON. `benchmarks/grader.py` measures ours and math_verify.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selfcorrect.grading.command import read_rows

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "grader" / "cases_dev.jsonl"
LIMIT_S = 20.0

Grader = Callable[[str, str], Any]


def trl() -> Grader:
    """TRL's `accuracy_reward`, which asks math_verify."""
    from trl.rewards import accuracy_reward

    return lambda response, gold: accuracy_reward([[{"role": "assistant", "content": response}]], [f"${gold}$"])[0]


def verl_math() -> Grader:
    """verl's grader of MATH (`math_reward`): the last box, as normalised text."""
    from verl.utils.reward_score.math_reward import compute_score

    return compute_score


def verl_dapo() -> Grader:
    """verl's grader of DAPO (`math_dapo`), which reads boxes where it is told to."""
    from verl.utils.reward_score.math_dapo import compute_score

    return lambda response, gold: compute_score(response, gold, strict_box_verify=True)["acc"]


def verl_prime() -> Grader:
    """verl's grader of Numina and others (`prime_math`): PRIME's, with SymPy."""
    from verl.utils.reward_score.prime_math import compute_score

    def graded(response: str, gold: str) -> Any:
        found = compute_score(response, gold)
        return found[0] if isinstance(found, tuple) else found

    return graded


PEERS = {"trl": trl, "verl-math": verl_math, "verl-dapo": verl_dapo, "verl-prime": verl_prime}


class Late(BaseException):
    """A case took longer than `LIMIT_S`; no library's `except Exception` may take it for an answer."""


def measured(grader: Grader, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a grader accepts of the right and of the wrong answers, and how often it gave no score."""

    def late(*_: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    counts: Counter[str] = Counter()
    begun = time.process_time()
    for row in rows:
        kind = "right" if row["expected"] else "wrong"
        counts[kind] += 1
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            score = grader(row["response"], row["gold"])
        except Late:
            counts["late"] += 1
            continue
        except Exception as error:  # noqa: BLE001 - a grader that raises is a finding
            counts["raised"] += 1
            counts[f"raised {type(error).__name__}"] += 1
            continue
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        counts["no score"] += score is None
        counts[f"{kind} accepted"] += bool(score) and float(score) > 0
    return dict(sorted(counts.items())) | {"cpu_s": round(time.process_time() - begun, 1)}


def main() -> None:
    """Measure the peers that are installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--peers", default=",".join(PEERS), help="some of them, with commas")
    options = parser.parse_args()
    rows = [row for row in read_rows(options.cases) if row["part"] != "hostile" and row["expected"] in (True, False)]
    found: dict[str, Any] = {"cases": len(rows)}
    for name in options.peers.split(","):
        grader = None
        with suppress(ModuleNotFoundError):
            grader = PEERS[name]()
        found[name] = measured(grader, rows) if grader else "not installed"
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
