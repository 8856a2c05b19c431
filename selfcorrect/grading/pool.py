"""The guarded worker pool: long-lived processes that may be killed at any time without harm.

Plain subprocesses with JSON over pipes: no fork of this process, no signals, no pickling of what a worker says.
A request has a hard wall clock; a worker that misses it, or dies, is replaced. Requests may come from any thread.
Workers start with the first open question and end with this process (their input closes).
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
from typing import Any

from selfcorrect.grading.nodes import Node, to_lists

WORKERS = 2
SOFT_S = 0.5
"""A worker gives up a question by itself after these CPU seconds…"""
HARD_CPU_S = 0.8
"""…is killed after these, counted from outside…"""
HARD_S = 12.0
"""…and at the latest after these seconds on the wall, which a starved machine may need."""
STARTUP_S = 120.0
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_ROOT = str(Path(__file__).resolve().parents[2])


class Worker:
    """One worker process; used by one thread at a time."""

    def __init__(self) -> None:
        path = os.pathsep.join([_ROOT, *(entry for entry in sys.path if entry)])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from selfcorrect.grading.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self.buffer = b""
        self.ready = False
        self.count = 0
        self.sympy_loads = True
        self.late = False

    def ask(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """Return the worker's reply, None where it was late or died (it is then dead for good)."""
        if not self.ready:
            if self._line(STARTUP_S) is None:
                self.kill()
                return None
            self.ready = True
        self.count += 1
        question = {**question, "id": self.count, "soft_s": SOFT_S}
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(question).encode() + b"\n")
            stdin.flush()
        except OSError:
            self.kill()
            return None
        reply = self._line(HARD_S)
        if reply is not None and reply.get("loading"):
            reply = self._line(STARTUP_S if self.sympy_loads else HARD_S)
            self.sympy_loads = False
        if reply is None or reply.get("id") not in (self.count, None):
            self.kill()
            return None
        return reply

    def _line(self, seconds: float) -> dict[str, Any] | None:
        stdout = self.process.stdout
        assert stdout is not None
        until, spent = time.monotonic() + seconds, self._cpu_s()
        while b"\n" not in self.buffer:
            left = until - time.monotonic()
            if left <= 0 or (seconds <= HARD_S and self._cpu_s() - spent > HARD_CPU_S):
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

    def _cpu_s(self) -> float:
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
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.process.wait()


class Pool:
    """A fixed number of workers, lent out one at a time and replaced when they die."""

    def __init__(self, size: int = WORKERS) -> None:
        self.size = size
        self.free: list[Worker] = []
        self.lent: set[Worker] = set()
        self.changed = threading.Condition()
        self.closed = False
        self.killed = 0

    def ask(self, question: dict[str, Any], *, retried: bool = False) -> dict[str, Any] | None:
        """Lend a worker to the question; None where the worker had to be killed. One that died is asked again once."""
        with self.changed:
            while not self.free and len(self.lent) >= self.size:
                self.changed.wait()
            self.free = [one for one in self.free if one.alive]
            while len(self.free) + len(self.lent) < self.size:
                self.free.append(Worker())
            worker = next((one for one in self.free if one.ready), self.free[0])
            self.free.remove(worker)
            self.lent.add(worker)
        died = False
        try:
            reply = worker.ask(question)
            died = reply is None and not worker.late
            if not died or retried:
                return reply
        finally:
            with self.changed:
                self.lent.discard(worker)
                if worker.alive and not self.closed:
                    self.free.append(worker)
                else:
                    self.killed += 1
                    if not self.closed:
                        self.free.append(Worker())
                self.changed.notify()
        return self.ask(question, retried=True)

    def close(self) -> None:
        """End all workers."""
        with self.changed:
            self.closed = True
            workers = [*self.free, *self.lent]
            self.free.clear()
        for worker in workers:
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
    """After a fork the child must not talk over its parent's pipes."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


atexit.register(close_pool)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def decide(response: Node, gold: Node, *, positive: bool) -> bool | None:
    """Return whether two scalar trees are equal; None where it could not be decided within the limits."""
    question = {"left": to_lists(response), "right": to_lists(gold), "positive": positive}
    reply = shared_pool().ask(question)
    verdict = reply.get("verdict") if reply else None
    return verdict if isinstance(verdict, bool) else None
