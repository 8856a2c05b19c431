"""The worker process: reads one JSON request a line, answers one JSON verdict a line. Started by `pool` only.

It lowers its own limits before anything else, keeps its hands off files and processes, and gives up a request
softly after ``soft_s`` CPU seconds; the pool kills it where that does not help.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
import threading
import time

from selfcorrect.grading.limits import TooLarge, Unreadable
from selfcorrect.grading.nodes import Node, contains, from_lists

MEMORY_BYTES = 1 << 30
"""Address space of a worker; its resident memory stays far below."""
SYMPY_S = 0.5
"""CPU seconds of one SymPy decision."""
WALL_S = 10.0
"""Seconds of the clock on the wall for one decision; the pool kills a little later."""
_BIG = frozenset(["big"])


class OutOfTime(BaseException):
    """Raised in the main thread by the deadline thread."""


class Deadline:
    """Raises `OutOfTime` in the main thread when the current request has used its CPU seconds or WALL_S."""

    def __init__(self) -> None:
        self.main = threading.get_ident()
        self.until: float | None = None
        self.wall_until = 0.0
        self.lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self, seconds: float) -> None:
        with self.lock:
            self.until = time.process_time() + seconds
            self.wall_until = time.monotonic() + WALL_S

    def stop(self) -> None:
        with self.lock:
            self.until = None

    def _watch(self) -> None:
        while True:
            time.sleep(0.02)
            with self.lock:
                late = self.until is not None and (
                    time.process_time() > self.until or time.monotonic() > self.wall_until
                )
                if late:
                    self.until = None
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.main), ctypes.py_object(OutOfTime))


def say(reply: dict[str, object]) -> None:
    """Write one line to the pool."""
    print(json.dumps(reply), flush=True)


def lower_limits() -> None:
    """Bound memory, and forbid writing to files and dumping core, for the rest of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 26, resource.getrlimit(resource.RLIMIT_STACK)[1]))


def decide(left: Node, right: Node, deadline: Deadline, *, positive: bool) -> bool | None:
    """Return whether two scalar trees are equal: many digits first, SymPy for what has no value at a point."""
    from selfcorrect.grading import highprecision

    verdict = highprecision.equal(left, right, positive=positive)
    if verdict is not None:
        return verdict
    if not (contains(left, _BIG) or contains(right, _BIG)):
        return None
    if "sympy" not in sys.modules:
        deadline.stop()
        say({"loading": True})
    from selfcorrect.grading import symbolic

    symbolic.warm_up()
    deadline.start(SYMPY_S)
    return symbolic.equal(left, right, positive=positive)


def answer(request: dict[str, object], deadline: Deadline) -> dict[str, object]:
    """Return the reply to one request; every failure is a reply, never an exception."""
    verdict: bool | None = None
    reason = ""
    try:
        deadline.start(float(str(request["soft_s"])))
        left, right = from_lists(request["left"]), from_lists(request["right"])  # type: ignore[arg-type]
        verdict = decide(left, right, deadline, positive=bool(request["positive"]))
        deadline.stop()
    except OutOfTime:
        reason = "out of time"
    except MemoryError:
        reason = "out of memory"
    except RecursionError:
        reason = "nested too deeply"
    except (Unreadable, TooLarge) as stop:
        reason = str(stop)
    except Exception as failure:  # noqa: BLE001 (SymPy raises anything; the reply says what)
        reason = f"{type(failure).__name__}: {failure!s:.80}"
    deadline.stop()
    return {"id": request.get("id"), "verdict": verdict, "reason": reason}


def main() -> None:
    """Serve requests until the pool closes our input."""
    lower_limits()
    sys.setrecursionlimit(3_000)
    deadline = Deadline()
    import mpmath  # noqa: F401

    say({"ready": True})
    while True:
        try:
            line = sys.stdin.readline()
            if not line:
                return
            say(answer(json.loads(line), deadline))
        except OutOfTime:
            say({"id": None, "verdict": None, "reason": "out of time"})


if __name__ == "__main__":
    main()
