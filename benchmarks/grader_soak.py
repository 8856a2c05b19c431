"""Grade very often, hostile answers among them, in every way in which trainers call the grader; count what goes wrong.

    python benchmarks/grader_soak.py [--gradings 1000000] [--minutes 60] [--ways threads,fork]

Ways: 64 threads, after torch was imported and used (and CUDA, where there is one); asyncio; process pools, forked
while threads grade, and spawned; a main thread that Ctrl-C interrupts again and again and that goes on, as a notebook
does; and graders that are killed by SIGKILL, or ended by one SIGINT, at random moments. The last line is JSON:

    {"gradings", "hung", "orphans", "wrong", "rss_growth_mb", ...}

``wrong`` counts grades that differ from what is written here, and errors; ``hung`` ways from which nothing came back
for 120 seconds, and processes that did not end 10 seconds after a SIGINT; ``orphans`` processes that were still there 5
seconds after the one that graded had gone; ``rss_growth_mb`` is how much the largest process of a way, or worker,
grew between the fifth tenth of the samples and the last (medians; the way with the most); null where no way ran for a
minute. What the grader remembers fills up in the first 100,000 gradings of a process or so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selfcorrect.grading import grade, grade_async

MARK = "SELFCORRECT_SOAK"
"""Environment variable of every process of one soak, by which what is left of it is found."""

STALLED_S, ENDS_S, GONE_S, SAMPLED_S = 120.0, 10.0, 5.0, 0.25
CHUNK = 200  # gradings that a process pool gets at once

# --- what is graded -----------------------------------------------------------------------------------------------

HOSTILE = (
    r"\boxed{9^{9^{9^{9^9}}}}",
    r"\boxed{" + "{" * 5_000 + "5" + "}" * 5_000 + "}",
    r"\boxed{" + r"\frac{1}{" * 800,
    r"\boxed{" * 3_000,
    r"\boxed{__import__('os').system('kill -9 0')}",
    r"\boxed{\def\x{\x\x}\x}",
    r"\boxed{" + "9" * 200_000 + "}",
    r"\boxed{" + "x^2+" * 20_000 + "1}",
    r"\boxed{10^{10^6}!}",
    "\\boxed{\x00\x1b]0;x\x07\u202e\ud800}",
    r"\boxed{\sum_{k=1}^{10^{12}} \sin k}",
    "The answer is " * 20_000,
    r"\boxed{\begin{pmatrix}" + "1&" * 3_000 + r"1\end{pmatrix}^{999999}}",
)
"""None of these is 5, whatever it costs to find that out."""

HARD = r"\boxed{{\int_0^{{\infty}} \frac{{\sin^{{{k}}}(x^3) e^{{-x^2}}}}{{\sqrt{{x^5+\ln(1+x)}}}} dx}}"
"""Costs a worker all the CPU time that it has, and perhaps its life."""


def case(i: int) -> tuple[str, str, bool]:
    """Return grading number ``i``: a response, a reference answer, and whether it is correct."""
    k, shift = 2 + i // 7 % 1999, int(i % 3 == 0)  # every third is wrong; more of them than the grader remembers
    if i % 20_000 == 19_999:
        return HARD.format(k=3 + i // 20_000 % 50), "5", False
    if i % 10 == 9:
        return HOSTILE[i // 10 % len(HOSTILE)], "5", False
    if i % 50 == 8:  # a worker decides
        return rf"so $\boxed{{{2 * (k + shift)}\sin x\cos x}}$", rf"{k}\sin 2x", not shift
    if i % 10 == 7:
        return f"I get {k} apples.\n#### {k + shift:,}", str(k), not shift
    if i % 10 == 6:
        return rf"Thus $x \in \boxed{{({k}, {k + 5 + shift}]}}$", rf"({k},{k + 5}]", not shift
    if i % 10 == 5:
        return f"The answer is {k + shift}", rf"\frac{{{3 * k}}}{{3}}", not shift
    return rf"\boxed{{\frac{{{2 * k + shift}}}{{{2 * k + 2}}}}}", rf"\frac{{{k}}}{{{k + 1}}}", not shift


def is_as_written(i: int) -> bool:
    """Grade number ``i`` and return whether the grade is what `case` says."""
    response, gold, correct = case(i)
    with suppress(Exception):
        return grade(response, gold).correct == correct
    return False


def wrong_among(first: int, count: int) -> int:
    """Return how many of some gradings came out wrong: what a process of a pool does."""
    return sum(not is_as_written(i) for i in range(first, first + count))


# --- the ways: each a process of its own --------------------------------------------------------------------------


class Progress:
    """What a way has done so far; a line of JSON every half second, and one at its end."""

    def __init__(self) -> None:
        self.done, self.aside, self.wrong, self.lock = 0, 0, 0, threading.Lock()
        threading.Thread(target=self._tell, daemon=True).start()

    def add(self, done: int, wrong: int, aside: int = 0) -> None:
        """Count gradings; ``aside`` are beside those that the way is about, and must not hide that these hang."""
        with self.lock:
            self.done, self.wrong, self.aside = self.done + done, self.wrong + wrong, self.aside + aside

    def say(self, **more: Any) -> None:
        """Write a line."""
        os.write(1, (json.dumps({"done": self.done, "aside": self.aside, "wrong": self.wrong, **more}) + "\n").encode())

    def _tell(self) -> None:
        while True:
            time.sleep(0.5)
            self.say()


def threads(progress: Progress, count: int, first: int) -> dict[str, Any]:
    """Grade from 64 threads, after torch was imported and used."""
    return torch_in_use() | without_torch(progress, count, first)


def without_torch(progress: Progress, count: int, first: int) -> dict[str, Any]:
    """Grade from 64 threads."""
    numbers = iter(range(first, first + count))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                i = next(numbers, None)
            if i is None:
                return
            progress.add(1, not is_as_written(i))

    running = [threading.Thread(target=work, daemon=True) for _ in range(64)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return {}


def torch_in_use() -> dict[str, Any]:
    """Import torch and let it start its threads, and CUDA's context where there is one; return the versions."""
    try:
        import torch
    except ImportError:
        return {"torch": None}
    used = torch.ones(256, 256) @ torch.ones(256, 256)
    if torch.cuda.is_available():
        used = used.to("cuda") @ used.to("cuda")
    assert float(used.sum()) > 0
    return {"torch": torch.__version__, "cuda": torch.cuda.is_available()}


def in_asyncio(progress: Progress, count: int, first: int) -> dict[str, Any]:
    """Grade from tasks of one event loop, by `grade_async` and, in it, by `grade`."""

    async def some(mine: Iterator[int]) -> None:
        for i in mine:
            response, gold, correct = case(i)
            found = grade(response, gold) if i % 5 == 0 else await grade_async(response, gold)
            progress.add(1, found.correct != correct)

    async def everything() -> None:
        numbers = iter(range(first, first + count))
        await asyncio.gather(*(some(numbers) for _ in range(32)))

    asyncio.run(everything())
    return {}


def forked(progress: Progress, count: int, first: int) -> dict[str, Any]:
    """Grade in pools of forked processes; each is forked while threads of this process grade, too."""
    in_pools(progress, count, first, "fork")
    return {}


def spawned(progress: Progress, count: int, first: int) -> dict[str, Any]:
    """Grade in a pool of spawned processes."""
    in_pools(progress, count, first, "spawn")
    return {}


def in_pools(progress: Progress, count: int, first: int, method: str) -> None:
    """Grade in process pools, one after another, so that there are many starts; here, too, while they are forked."""
    ending = threading.Event()

    def beside() -> None:
        i = 8  # those that workers decide: their pipes are in use while the fork happens
        while not ending.is_set():
            progress.add(0, not is_as_written(i), aside=1)
            i += 50

    running = [threading.Thread(target=beside) for _ in range(8 if method == "fork" else 0)]
    for thread in running:
        thread.start()
    pools = max(1, min(20, count // 2_000))
    for number in range(pools):
        share = range(first + number * (count // pools), first + (number + 1) * (count // pools), CHUNK)
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            for wrong in pool.map(wrong_among, share, [CHUNK] * len(share)):
                progress.add(CHUNK, wrong)
    ending.set()
    for thread in running:
        thread.join()


def interrupted(progress: Progress, count: int, first: int) -> dict[str, Any]:
    """Grade in the main thread, and in others, while SIGINT comes again and again; the main thread goes on."""
    ending, presses = threading.Event(), 0

    def press() -> None:
        while not ending.is_set():
            time.sleep(random.uniform(0.1, 0.8))
            os.kill(os.getpid(), signal.SIGINT)

    def beside() -> None:
        i = first
        while not ending.is_set():
            progress.add(0, not is_as_written(i), aside=1)
            i += 1

    for work in (press, beside, beside):
        threading.Thread(target=work, daemon=True).start()
    i, last = first, first + count
    while i < last or not presses:  # a quick machine is done before the first press
        try:
            while i < last or not presses:  # most of these are for a worker: the press comes while it is asked
                progress.add(1, not is_as_written(8 + 50 * i if i % 3 else i))
                i += 1
        except KeyboardInterrupt:
            presses += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending.set()
    return {"presses": presses}


WAYS: dict[str, tuple[Callable[[Progress, int, int], dict[str, Any]], float]] = {
    "threads": (threads, 0.35),
    "asyncio": (in_asyncio, 0.15),
    "fork": (forked, 0.2),
    "spawn": (spawned, 0.2),
    "interrupted": (interrupted, 0.1),
}
"""The ways, and the share of all gradings that each gets."""


# --- the soak -----------------------------------------------------------------------------------------------------


def soak(gradings: int, rounds: int, ways: list[str], until: float) -> dict[str, Any]:
    """Run the ways one after another, then ``rounds`` of sudden ends; return the figures."""
    found: dict[str, Any] = {"gradings": 0, "hung": 0, "orphans": 0, "wrong": 0, "rss_growth_mb": None, "ways": {}}
    first = 0
    begun, shares = time.monotonic(), sum(WAYS[name][1] for name in ways if name in WAYS) or 1.0
    for name in [name for name in ways if name in WAYS]:
        share = WAYS[name][1] / shares
        limit = time.monotonic() + share * (until - begun)
        one = run_way(name, max(CHUNK, int(gradings * share) // CHUNK * CHUNK), first, limit)
        first += 1_000_000
        merge(found, name, one)
    for number in range(rounds if "ends" in ways else 0):
        merge(found, "ends", end_suddenly(number, first))
    return found


def merge(found: dict[str, Any], name: str, one: dict[str, Any]) -> None:
    """Add what one way, or one sudden end, showed."""
    for key in ("gradings", "hung", "orphans", "wrong"):
        found[key] += one[key]
    grown = [mb for mb in (found["rss_growth_mb"], one.get("rss_growth_mb")) if mb is not None]
    found["rss_growth_mb"] = max(grown, default=None)
    before = found["ways"].get(name)
    found["ways"][name] = {key: before[key] + one[key] for key in before} if before else one
    print(f"{name}: {json.dumps(one)}", file=sys.stderr, flush=True)


def started(name: str, count: int, first: int) -> tuple[subprocess.Popen[bytes], str, dict[str, Any], threading.Thread]:
    """Start a way as a process; its last line of progress is kept up to date in the mapping that comes back."""
    mark = uuid.uuid4().hex
    words = [sys.executable, str(Path(__file__).resolve()), "--way", name, str(count), str(first)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env=os.environ | {MARK: mark}, start_new_session=True)
    said: dict[str, Any] = {"done": 0, "aside": 0, "wrong": 0}

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):
                said.update(json.loads(line))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return process, mark, said, reader


def run_way(name: str, count: int, first: int, limit: float) -> dict[str, Any]:
    """Run one way to its end, to ``limit`` on the clock, or until nothing has come back for `STALLED_S`."""
    begun = time.monotonic()
    process, mark, said, reader = started(name, count, first)
    done, moved, hung, samples = 0, time.monotonic(), 0, list[float]()
    while process.poll() is None:
        time.sleep(SAMPLED_S)
        samples.append(largest_mb(mark))
        if said["done"] != done:
            done, moved = said["done"], time.monotonic()
        if time.monotonic() - moved > STALLED_S:
            hung = 1
        if hung or time.monotonic() > limit:
            for pid in marked(mark):  # all of it: a pool's processes outlive a parent that is killed, whoever grades
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            break
    process.wait()
    left = remaining(mark)
    reader.join(1)
    failed = process.returncode not in (0, -signal.SIGKILL)
    counts = {"hung": hung, "orphans": len(left), "wrong": said["wrong"] + failed}
    more = {key: said[key] for key in said.keys() - {"done", "aside", "wrong"}}
    more |= {"seconds": round(time.monotonic() - begun, 1), "cut": time.monotonic() > limit}
    return {"gradings": said["done"] + said["aside"], **counts, "rss_growth_mb": growth(samples), **more}


def end_suddenly(number: int, first: int) -> dict[str, Any]:
    """End a process whose threads grade at a random moment: by SIGKILL, or by one SIGINT; count what stays."""
    process, mark, said, _ = started("ends", 10**9, first + 1_000_003 * number)
    patience = time.monotonic() + STALLED_S
    while said["done"] < 200 and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.05)
    time.sleep(random.Random(number).uniform(0, 1))
    how = signal.SIGKILL if number % 2 == 0 else signal.SIGINT
    hung, wrong = 0, said["wrong"]  # what a process says while it ends, its workers gone, is not counted
    process.send_signal(how)
    try:
        process.wait(ENDS_S)
    except subprocess.TimeoutExpired:
        hung = 1
        process.kill()
        process.wait()
    return {"gradings": said["done"], "hung": hung, "orphans": len(remaining(mark)), "wrong": wrong}


def remaining(mark: str) -> list[int]:
    """Return the processes of a way that are still there after `GONE_S`, and end them."""
    until = time.monotonic() + GONE_S
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def marked(mark: str) -> list[int]:
    """Return the living processes that carry a mark in their environment."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found


def largest_mb(mark: str) -> float:
    """Return the memory of the largest process that carries a mark, in MB."""
    pages = [0]
    for pid in marked(mark):
        with suppress(OSError, IndexError, ValueError):
            pages.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]))
    return max(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(samples: list[float]) -> float | None:
    """Return how much memory grew from the fifth tenth of a way's samples to the last; None of less than a minute."""
    tenth = len(samples) // 10
    if tenth < 60 / SAMPLED_S / 10:
        return None
    return round(statistics.median(samples[-tenth:]) - statistics.median(samples[4 * tenth : 5 * tenth]), 1)


def main() -> None:
    """Soak, or, as a child, run one way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradings", type=int, default=10**6, help="how many, over all ways")
    parser.add_argument(
        "--minutes", type=float, default=24 * 60.0, help="at most so long; ways are cut, and it is said"
    )
    parser.add_argument("--rounds", type=int, default=20, help="sudden ends, every other one by SIGKILL")
    parser.add_argument("--ways", default=",".join([*WAYS, "ends"]), help="some of them, with commas")
    parser.add_argument("--way", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        name, count, first = options.way
        progress = Progress()
        way = WAYS[name][0] if name in WAYS else without_torch
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
        try:
            more = way(progress, int(count), int(first))
        except KeyboardInterrupt:
            sys.exit(130)
        progress.say(**more)
        return
    ways = options.ways.split(",")
    if unknown := set(ways) - {*WAYS, "ends"}:
        parser.error(f"no way {', '.join(sorted(unknown))}; the ways are {', '.join([*WAYS, 'ends'])}")
    begun = time.monotonic()
    found = soak(options.gradings, options.rounds, ways, begun + 60 * options.minutes)
    print(json.dumps(found | {"asked": options.gradings, "seconds": round(time.monotonic() - begun, 1)}))
    sys.exit(int(any(found[key] for key in ("hung", "orphans", "wrong"))))


if __name__ == "__main__":
    main()
