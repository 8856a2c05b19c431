"""The guarded worker pool: long-lived processes that may be killed at any time without harm.

Plain subprocesses with JSON over pipes: no fork of this process, no signals, no pickling of what a worker says.
A request has a hard wall clock; a worker that misses it, or dies, is replaced by the next question. Requests may come
from any thread. Workers start with the first open question and end with this process (their input closes). They find
this package by its absolute location and start in the root folder with Python's safe path, so no file of the working
folder is ever run. A worker that cannot be started is a `GraderError`, not an undecided grade.

A process may fork while its threads grade. Its child must find no lock that one of them held: no question waits in a
buffer of this process, `selfcorrect.grading` imports this module at once, and a fork waits while pint is imported.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from selfcorrect.errors import GraderError
from selfcorrect.grading.maths.tree import Node, to_lists

WORKERS = 2
SOFT_S = 0.3
"""A worker gives up a question by itself after these CPU seconds (SymPy has as many again)…"""
HARD_CPU_S = 0.55
"""…is killed after these, counted from outside…"""
HARD_S = 12.0
"""…and at the latest after these seconds on the wall, which a starved machine may need."""
STARTUP_S = 120.0
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PACKAGE = str(Path(__file__).resolve().parents[2])
_BOOT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location(
    "selfcorrect", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]]
)
sys.modules["selfcorrect"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["selfcorrect"])
from selfcorrect.grading.workers.worker import main
main()
"""


class Decision(NamedTuple):
    """What a worker says of two trees: equal, different or open (None), what showed it, and whose fault it is if open.

    ``blame`` is ``reference`` where the reference alone could not be evaluated, ``response`` where it could, and empty
    where nobody knows (the worker had to be killed).
    """

    verdict: bool | None
    how: str = ""
    blame: str = ""


class Worker:
    """One worker process; used by one thread at a time. Raises OSError where the process cannot be started."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, _PACKAGE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # nothing of a question is in this process's memory, where a fork would double it
            env={**environment, "SYMPY_GROUND_TYPES": "python"},
            cwd=os.sep,
            start_new_session=True,
        )
        self.buffer = b""
        self.ready = False
        self.count = 0
        self.late = False

    def ask(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """Return the worker's reply, None where it was late or died (it is then dead for good).

        Raises GraderError where it never came up.
        """
        if not self.ready:
            if self._line(STARTUP_S) is None:
                raise GraderError(self._why_not())
            self.ready = True
        self.count += 1
        question = {**question, "id": self.count, "soft_s": SOFT_S}
        stdin = self.process.stdin
        assert stdin is not None
        unsent = memoryview(json.dumps(question).encode() + b"\n")
        try:
            while unsent:
                unsent = unsent[stdin.write(unsent) :]
        except OSError:
            self.kill()
            return None
        reply = self._line(HARD_S)
        if reply is not None and reply.get("loading"):  # SymPy, once; the question goes on after it
            reply = self._line(STARTUP_S) and self._line(HARD_S)
        if reply is None or reply.get("id") not in (self.count, None):
            self.kill()
            return None
        return reply

    def _why_not(self) -> str:
        """Return why the process did not come up, after ending it."""
        self.process.kill()
        stderr = self.process.stderr
        assert stderr is not None
        lines = stderr.read().decode(errors="replace").strip().splitlines()
        self.kill()
        last = f": {lines[-1]:.300}" if lines else ""
        return (
            f"a grader worker did not start (exit status {self.process.returncode}){last}; it runs {sys.executable} "
            "and needs sympy and python-flint there: see `selfcorrect doctor`"
        )

    def _line(self, seconds: float) -> dict[str, Any] | None:
        stdout = self.process.stdout
        assert stdout is not None
        until, spent = time.monotonic() + seconds, self.cpu_s()
        while b"\n" not in self.buffer:
            left = until - time.monotonic()
            if left <= 0 or (seconds <= HARD_S and self.cpu_s() - spent > HARD_CPU_S):
                self.late = True
                return None
            if not select.select([stdout], [], [], min(left, 0.1))[0]:
                continue
            data = os.read(stdout.fileno(), 65_536)
            if not data or len(self.buffer) > 1_000_000:
                return None
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            reply = json.loads(line)
        except ValueError:
            return None
        return reply if isinstance(reply, dict) else None

    def cpu_s(self) -> float:
        """Return the CPU seconds the process has used; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End the process and reap it."""
        self.process.kill()
        self.hang_up()
        self.process.wait()

    def hang_up(self) -> None:
        """Close this process's ends of the pipes; a worker to which nobody holds an end ends by itself."""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Pool:
    """At most ``size`` workers, started when they are needed, lent out one at a time, dropped when they die."""

    def __init__(self, size: int = WORKERS) -> None:
        self.size = size
        self.free: list[Worker] = []
        self.lent: dict[Worker, int] = {}  # and to which thread
        self.changed = threading.Condition()
        self.closed = False
        self.killed = 0

    def ask(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """Lend a worker to the question; None where the worker was late or the pool is closed.

        A question whose worker died is asked once more. Raises GraderError where no worker can be started.
        """
        for last in (False, True):
            worker = self._borrow()
            if worker is None:
                return None
            try:
                reply = worker.ask(question)
            except GraderError:
                if last and not self.closed:
                    raise
                continue
            except BaseException:  # Ctrl-C: the reply to this question, which may still come, must answer no other
                worker.kill()
                raise
            finally:
                self._give_back(worker)
            if reply is not None or worker.late:
                return reply
        return None

    def _borrow(self) -> Worker | None:
        """Return a free worker or a new one; waits for one of another thread where none can be started."""
        thread = threading.get_ident()
        with self.changed:
            for left in [worker for worker, holder in self.lent.items() if holder == thread]:
                del self.lent[left]  # a thread asks one question at a time: Ctrl-C came before it gave this one back
                left.kill()
            while not self.closed:
                self.free = [one for one in self.free if one.alive]
                if not self.free and len(self.lent) < self.size:
                    try:
                        self.free.append(Worker())
                    except OSError as failure:
                        if not self.lent:
                            raise GraderError(
                                f"no grader worker can be started ({failure}): {sys.executable} needs free memory, "
                                "process numbers (ulimit -u) and file descriptors (ulimit -n)"
                            ) from failure
                if self.free:
                    worker = self.free.pop()
                    self.lent[worker] = thread
                    return worker
                self.changed.wait(1.0)
            return None

    def _give_back(self, worker: Worker) -> None:
        with self.changed:
            self.lent.pop(worker, None)
            if worker.alive and not self.closed:
                self.free.append(worker)
            else:
                self.killed += 1
            self.changed.notify_all()
        if self.closed:
            worker.kill()

    def close(self) -> None:
        """End all workers; threads that wait for one get None."""
        with self.changed:
            self.closed = True
            free, lent = list(self.free), list(self.lent)
            self.free.clear()
            self.changed.notify_all()
        for worker in lent:
            worker.process.kill()  # the thread that has it sees the end of its output, and reaps it
        for worker in free:
            worker.kill()


_pool: Pool | None = None
_pool_lock = threading.Lock()


def shared_pool() -> Pool:
    """Return this process's pool, made on first use."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = Pool()
        return _pool


def close_pool() -> None:
    """End this process's workers; the next question starts new ones."""
    global _pool
    with _pool_lock:
        pool, _pool = _pool, None
    if pool is not None:
        pool.close()


def _forget() -> None:
    """After a fork the child must not talk over its parent's pipes, nor keep them open when the parent has gone."""
    global _pool, _pool_lock
    pool, _pool, _pool_lock = _pool, None, threading.Lock()
    for worker in [*pool.free, *pool.lent] if pool is not None else []:
        worker.hang_up()


def _await_import() -> None:
    """Before a fork wait until pint, which a grading may import, is there whole: half a module hangs the child."""
    until = time.monotonic() + STARTUP_S
    while time.monotonic() < until:
        spec = getattr(sys.modules.get("pint"), "__spec__", None)
        if not getattr(spec, "_initializing", False):
            return
        time.sleep(0.01)


atexit.register(close_pool)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_await_import, after_in_child=_forget)


def compare(response: Node, gold: Node, *, positive: bool) -> Decision:
    """Return what a worker finds out about two scalar trees within the limits."""
    reply = shared_pool().ask({"left": to_lists(response), "right": to_lists(gold), "positive": positive})
    if reply is None:
        return Decision(None, "the worker was stopped")
    verdict = reply.get("verdict")
    how, blame = str(reply.get("how", "")), str(reply.get("blame", ""))
    return Decision(verdict if isinstance(verdict, bool) else None, how, blame)


def decide(response: Node, gold: Node, *, positive: bool) -> bool | None:
    """Return whether two scalar trees are equal; None where it could not be decided within the limits."""
    return compare(response, gold, positive=positive).verdict


def second_reading(texts: list[str]) -> Decision:
    """Return whether latex2sympy reads the same value in two texts; of one text, whether it reads a finite value."""
    reply = shared_pool().ask({"latex": texts, "positive": False})
    verdict = reply.get("verdict") if reply else None
    return Decision(verdict if isinstance(verdict, bool) else None, str(reply.get("how", "")) if reply else "")


def has_value(tree: Node, *, positive: bool) -> Decision:
    """Return whether a worker finds that a scalar tree alone has a finite value; None where it found out neither."""
    reply = shared_pool().ask({"tree": to_lists(tree), "positive": positive})
    verdict = reply.get("verdict") if reply else None
    return Decision(verdict if isinstance(verdict, bool) else None)
