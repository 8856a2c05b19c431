"""The guarded pool: killed, replaced, bounded; callable from threads and asyncio; gone at exit."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selfcorrect.errors import GraderError
from selfcorrect.grading import grade, grade_async, grade_many
from selfcorrect.grading.maths.parser import read
from selfcorrect.grading.maths.tree import to_lists
from selfcorrect.grading.workers.pool import Pool, Worker, close_pool, decide, shared_pool
from selfcorrect.grading.workers.worker import MEMORY_BYTES

IDENTITY = (r"$\boxed{2\sin x\cos x}$", r"\sin 2x")
HARD = r"\boxed{\int_0^{\infty} \frac{\sin^{17}(x^3) e^{-x^2}}{\sqrt{x^5+\ln(1+x)}} dx}"
ROOT = Path(__file__).resolve().parents[3]


def test_open_questions_are_decided_by_a_worker() -> None:
    assert grade(*IDENTITY).correct
    assert grade(*IDENTITY).reason == "equal at 24 points to 100 digits"
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
    monkeypatch.setattr("selfcorrect.grading.workers.pool.HARD_S", 0.3)
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
from selfcorrect.grading.workers.pool import shared_pool
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


QUESTION = {"left": ["num", "1", []], "right": ["num", "1", []], "positive": False}


def test_a_worker_that_cannot_start_is_an_error_and_not_an_undecided_grade(tmp_path: Path) -> None:
    """A broken mpmath earlier on the path made every open question undecided, without a word."""
    (tmp_path / "flint.py").write_text("raise ImportError('not this one')")
    code = f"""
from selfcorrect.errors import GraderError
from selfcorrect.grading import grade
try:
    print(grade({IDENTITY[0]!r}, {IDENTITY[1]!r}))
except GraderError as error:
    print("GraderError:", error)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    assert "GraderError: a grader worker did not start" in done.stdout, done.stdout + done.stderr
    assert "not this one" in done.stdout
    assert "selfcorrect doctor" in done.stdout


def test_no_file_of_the_working_folder_is_run_by_a_worker(tmp_path: Path) -> None:
    for name in ("mpmath", "json", "sympy", "flint", "selfcorrect"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'a').write({name!r})")
    code = f"""
import sys
from selfcorrect.grading import grade
from selfcorrect.grading.workers import pool
sys.path.insert(0, "")
assert grade({IDENTITY[0]!r}, {IDENTITY[1]!r}).correct
assert grade(r"\\boxed{{\\int_0^1 x^2 dx}}", r"\\frac13").correct
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "marker").exists()


def test_no_question_waits_for_ever_where_workers_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file descriptors left: 6 of 60 questions hung. Now each is answered by a living worker, or is an error."""
    pool = Pool(size=2)
    assert pool.ask(QUESTION) is not None
    real = subprocess.Popen

    def refuse(*arguments: object, **named: object) -> object:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("selfcorrect.grading.workers.pool.subprocess.Popen", refuse)
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(pool.ask(QUESTION))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len([one for one in answers if one and one["verdict"] is True]) == 12  # type: ignore[index]
    for worker in list(pool.free):
        os.kill(worker.process.pid, 9)
        worker.process.wait()
    with pytest.raises(GraderError, match=r"Too many open files.*ulimit -n"):
        pool.ask(QUESTION)
    monkeypatch.setattr("selfcorrect.grading.workers.pool.subprocess.Popen", real)
    assert pool.ask(QUESTION) is not None
    pool.close()
    assert pool.ask(QUESTION) is None


def test_the_first_symbolic_question_of_a_worker_has_its_limits_too() -> None:
    worker = Worker()
    monstrous = read(r"\lim_{x\to0}(x+((2^{2000})^{2000})^{400})")
    begun = time.process_time()
    reply = worker.ask({"left": to_lists(monstrous), "right": to_lists(read("5")), "positive": False})
    assert reply is None or reply["verdict"] is None
    if worker.alive:
        peak = Path(f"/proc/{worker.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]
        assert int(peak) < 300_000
        assert worker.cpu_s() < 5
    assert time.process_time() - begun < 0.2
    worker.kill()


def test_ctrl_c_ends_at_the_first_press_while_threads_grade() -> None:
    code = f"""
import threading, time
from selfcorrect.grading import grade, grade_many
hard = [({HARD!r}.replace("17", str(k)), "5") for k in range(3, 60)]
grade({IDENTITY[0]!r}, {IDENTITY[1]!r})
threading.Thread(target=lambda: [grade(*pair) for pair in hard[:1]]).start()
print("ready", flush=True)
grade_many(hard)
print("finished")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1.0)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - begun < 5
    assert "finished" not in out
    assert process.returncode != 0


def ask_for_ever(pool: Pool, question: dict[str, object]) -> None:
    while True:
        pool.ask(question)


def test_a_question_that_ctrl_c_interrupted_is_answered_to_nobody() -> None:
    """Its reply came later, and the next question took it for its own, or was left open."""
    pool = Pool(size=1)
    assert pool.ask(QUESTION) is not None
    slow = {"left": to_lists(read(HARD[7:-1])), "right": ["num", "1", []], "positive": False}
    for _ in range(2):
        threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            ask_for_ever(pool, slow)
        reply = pool.ask(QUESTION)
        assert reply is not None
        assert reply["verdict"] is True
    pool.close()


def test_a_worker_that_a_thread_never_gave_back_is_replaced() -> None:
    """Ctrl-C between two lines of the pool: with both workers gone, every later question waited for ever."""
    pool = Pool(size=1)
    left = pool._borrow()
    assert left is not None
    answers: list[object] = []
    asking = threading.Thread(target=lambda: answers.append(pool.ask(QUESTION)))  # another thread waits for its turn
    asking.start()
    asking.join(0.3)
    assert asking.is_alive()
    assert (pool.ask(QUESTION) or {})["verdict"] is True
    asking.join(30)
    assert len(answers) == 1
    assert not left.alive
    pool.close()


def test_a_fork_leaves_the_pipes_of_the_workers_to_the_parent() -> None:
    assert grade(*IDENTITY).correct
    workers = [*shared_pool().free]
    child = os.fork()
    if child == 0:
        streams = [one for worker in workers for one in (worker.process.stdin, worker.process.stdout)]
        os._exit(0 if streams and all(stream is not None and stream.closed for stream in streams) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert all(worker.alive for worker in workers)


def test_children_that_are_forked_while_threads_grade_do_not_hang() -> None:
    """They waited for ever for the lock of an import that another thread of the parent was at (the soak found it)."""
    code = """
import multiprocessing, sys, threading
import selfcorrect.grading
assert "selfcorrect.grading.workers.pool" in sys.modules
from concurrent.futures import ProcessPoolExecutor
from selfcorrect.grading import grade
def work(k):
    return grade(rf"\\boxed{{{k}\\sin x\\cos x}}", rf"\\frac{{{k}}}{{2}}\\sin 2x").correct
if __name__ == "__main__":
    going = True
    def beside(k):
        while going:
            assert work(k)
            k += 8
    threads = [threading.Thread(target=beside, args=(k,)) for k in range(2, 10)]
    [thread.start() for thread in threads]
    for start in range(3):
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            assert all(pool.map(work, range(100 * start + 100, 100 * start + 120)))
    going = False
    print("done")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=200
    )
    assert done.stdout == "done\n", done.stderr
