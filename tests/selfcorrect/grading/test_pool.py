"""The guarded pool: killed, replaced, bounded; callable from threads and asyncio; gone at exit."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selfcorrect.grading import grade, grade_async, grade_many
from selfcorrect.grading.pool import Pool, Worker, close_pool, decide, shared_pool
from selfcorrect.grading.reader import read
from selfcorrect.grading.worker import MEMORY_BYTES

IDENTITY = (r"$\boxed{2\sin x\cos x}$", r"\sin 2x")
ROOT = Path(__file__).resolve().parents[3]


def test_open_questions_are_decided_by_a_worker() -> None:
    assert grade(*IDENTITY).correct
    assert grade(*IDENTITY).reason == "equal at 12 points to 100 digits"
    assert decide(read(r"\sqrt{5+2\sqrt6}"), read(r"\sqrt2+\sqrt3"), positive=False) is True
    assert decide(read(r"\sqrt{5+2\sqrt6}"), read(r"\sqrt2+\sqrt3+10^{-60}"), positive=False) is False


def test_the_same_verdict_from_threads_and_under_asyncio() -> None:
    with ThreadPoolExecutor(6) as threads:
        results = list(
            threads.map(lambda k: grade(rf"\boxed{{{k}\sin x\cos x}}", rf"\frac{{{k}}}{{2}}\sin 2x"), range(2, 14))
        )
    assert all(result.correct for result in results)

    async def several() -> list[bool]:
        inside = grade(*IDENTITY).correct
        return [inside, *[(await grade_async(*IDENTITY)).correct for _ in range(3)]]

    assert all(asyncio.run(several()))


def test_a_batch_keeps_its_order() -> None:
    pairs = [(rf"\boxed{{{k}}}", str(k % 3)) for k in range(9)] + [IDENTITY, (r"\boxed{\cos 2x}", r"2\cos^2 x - 1")]
    seen: list[int] = []
    results = grade_many(pairs, progress=seen.append)
    assert [result.correct for result in results] == [k % 3 == k for k in range(9)] + [True, True]
    assert seen[-1] == len(pairs)
    assert seen == sorted(seen)


def test_a_dead_worker_is_replaced_and_the_question_asked_again() -> None:
    assert grade(*IDENTITY).correct
    for worker in list(shared_pool().free):
        os.kill(worker.process.pid, 9)
        worker.process.wait()
    assert decide(read(r"\sin 4x"), read(r"2\sin 2x\cos 2x"), positive=False) is True


def test_a_worker_that_does_not_answer_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfcorrect.grading.pool.HARD_S", 0.3)
    worker = Worker()
    assert worker.ask({"left": ["num", "1", []], "right": ["num", "1", []], "positive": False}) is not None
    os.kill(worker.process.pid, 19)
    begun = time.monotonic()
    assert worker.ask({"left": ["num", "1", []], "right": ["num", "1", []], "positive": False}) is None
    assert time.monotonic() - begun < 5
    assert not worker.alive


def test_a_worker_has_its_limits() -> None:
    worker = Worker()
    question = {"left": ["num", "1", []], "right": ["num", "1", []], "positive": False}
    assert worker.ask(question) is not None
    limits = Path(f"/proc/{worker.process.pid}/limits").read_text()
    assert str(MEMORY_BYTES) in next(line for line in limits.splitlines() if line.startswith("Max address space"))
    resident = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident < MEMORY_BYTES / 4
    worker.kill()


def test_a_worker_gives_up_a_hard_integral_by_itself() -> None:
    question = r"\int_0^{\infty} \frac{\sin^{17}(x^3) e^{-x^2}}{\sqrt{x^5+\ln(1+x)}} dx"
    assert decide(read(question), read("5"), positive=False) is None
    assert grade(*IDENTITY).correct


def test_a_small_pool_serves_many_threads() -> None:
    pool = Pool(size=1)
    question = {"left": ["num", "1", []], "right": ["num", "1", []], "positive": False}
    replies: list[object] = []
    threads = [threading.Thread(target=lambda: replies.append((pool.ask(question) or {})["verdict"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    assert replies == [True] * 8


def test_no_process_is_left_behind_and_nothing_heavy_is_imported() -> None:
    code = f"""
import sys
from selfcorrect.grading import grade
assert grade({IDENTITY[0]!r}, {IDENTITY[1]!r}).correct
assert not [name for name in ("sympy", "torch", "transformers", "antlr4", "mpmath") if name in sys.modules]
from selfcorrect.grading.pool import shared_pool
print(*[worker.process.pid for worker in shared_pool().free])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    pids = done.stdout.split()
    assert pids
    time.sleep(0.2)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_forked_child_uses_its_own_workers() -> None:
    assert grade(*IDENTITY).correct
    child = os.fork()
    if child == 0:
        verdict = decide(read(r"\sin 6x"), read(r"2\sin 3x\cos 3x"), positive=False)
        close_pool()
        os._exit(0 if verdict else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert decide(read(r"\sin 8x"), read(r"2\sin 4x\cos 4x"), positive=False) is True
