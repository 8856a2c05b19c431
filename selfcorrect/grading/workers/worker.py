"""The worker process: reads one JSON request a line, answers one JSON verdict a line. Started by `pool` only.

It lowers its own limits before anything else, keeps its hands off files and processes, and gives up a request
softly after ``soft_s`` CPU seconds; the pool kills it where that does not help.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from selfcorrect.grading.maths.limits import MAX_WORKER_STEPS, TooLarge, Unreadable, budget
from selfcorrect.grading.maths.numeric import letters
from selfcorrect.grading.maths.tree import Node, contains, from_lists, sym

MEMORY_BYTES = 1 << 30
"""Address space of a worker; its resident memory stays far below."""
SYMPY_S = 0.3
"""CPU seconds of one SymPy decision."""
WALL_S = 10.0
"""Seconds of the clock on the wall for one decision; the pool kills a little later."""
_BIG = frozenset(["big"])
_INFINITE_BOUNDS = (sym("oo"), Node("neg", "", (sym("oo"),)), sym("NONE"))


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


def decide(response: Node, gold: Node, deadline: Deadline, state: dict[str, str], *, positive: bool) -> bool | None:
    """Return whether two scalar trees are equal: many digits first, SymPy for what has no value at a point.

    ``state`` says afterwards what showed it (``how``), or, where nothing did, whose fault that is (``blame``): the
    reference's where it cannot be evaluated alone, else the response's.
    """
    from selfcorrect.grading.workers import highprecision

    verdict, state["how"] = highprecision.equal(response, gold, positive=positive)
    if verdict is not None:
        return verdict
    state["blame"] = "response" if highprecision.has_value(gold) else "reference"
    if not (contains(response, _BIG) or contains(gold, _BIG)):
        return None
    if not _parts_exist(response):
        state["how"], state["blame"] = "a part of it has no finite value that could be found", "response"
        return None
    return _load_symbolic(deadline).equal(response, gold, positive=positive, state=state)


def has_value(tree: Node, deadline: Deadline, *, positive: bool) -> bool:
    """Return whether a scalar tree alone can be evaluated to something finite."""
    from selfcorrect.grading.workers import highprecision

    if highprecision.has_value(tree):
        return True
    return contains(tree, _BIG) and _parts_exist(tree) and _load_symbolic(deadline).has_value(tree, positive=positive)


def _parts_exist(tree: Node) -> bool:
    """True where every part outside and inside sums, integrals and limits that depends on no bound letter has a value.

    SymPy drops ``1^{\\ln 0}`` and a bound such as ``k = \\cot 0``: to it they are numbers that it need not look at.
    """
    from selfcorrect.grading.workers import highprecision

    return all(highprecision.has_value(part) for part in free_parts(tree, frozenset()))


def free_parts(tree: Node, bound: frozenset[str]) -> Iterator[Node]:
    """Yield the largest parts of a tree without sums, integrals, limits and bound letters; infinite bounds aside."""
    if tree.kind in ("num", "sym", "apply", "base"):
        return
    if tree.kind == "big":
        variable, lower, upper, body = tree.args
        for end in (lower, upper):
            if end not in _INFINITE_BOUNDS:
                yield from free_parts(end, bound)
        yield from free_parts(body, bound | {variable.value})
    elif contains(tree, _BIG) or not bound.isdisjoint(letters(tree)):
        for arg in tree.args:
            yield from free_parts(arg, bound)
    elif not (tree.kind == "call" and tree.value in ("side+", "side-")):
        yield tree


def read_again(texts: list[str], deadline: Deadline, state: dict[str, str]) -> bool | None:
    """Return whether two texts have the same value by latex2sympy; of one text, whether it has one."""
    if "latex2sympy2_extended" not in sys.modules:
        deadline.stop()
        say({"loading": True})
        try:
            from selfcorrect.grading.workers import latex

            latex.warm_up()
        finally:
            say({"loading": False})
    from selfcorrect.grading.workers import latex

    deadline.start(SYMPY_S)
    if len(texts) == 1:
        return latex.has_value(texts[0])
    equal = latex.equal(texts[0], texts[1])
    state["how"] = "equal values" if equal else "different numbers"
    return equal


def _load_symbolic(deadline: Deadline) -> ModuleType:
    """Return the module over SymPy; loading it is not charged to the question, which then has SYMPY_S."""
    if "sympy" not in sys.modules:
        deadline.stop()
        say({"loading": True})
        from selfcorrect.grading.workers import symbolic

        symbolic.warm_up()
        say({"loading": False})
    from selfcorrect.grading.workers import symbolic

    deadline.start(SYMPY_S)
    return symbolic


def answer(request: dict[str, Any], deadline: Deadline) -> dict[str, object]:
    """Return the reply to one request; every failure is a reply, never an exception."""
    verdict: bool | None = None
    state: dict[str, str] = {"how": "", "blame": ""}
    try:
        deadline.start(float(request["soft_s"]))
        positive = bool(request["positive"])
        with budget(MAX_WORKER_STEPS):
            if "latex" in request:
                verdict = read_again([str(text) for text in request["latex"]], deadline, state)
            elif "tree" in request:
                verdict = has_value(from_lists(request["tree"]), deadline, positive=positive)
            else:
                left, right = from_lists(request["left"]), from_lists(request["right"])
                verdict = decide(left, right, deadline, state, positive=positive)
        deadline.stop()
    except OutOfTime:
        state["how"] = "out of time"
    except MemoryError:
        state["how"] = "out of memory"
    except RecursionError:
        state["how"] = "nested too deeply"
    except (Unreadable, TooLarge) as stop:
        state["how"] = str(stop)
    except Exception as failure:  # noqa: BLE001 (SymPy raises anything; the reply says what)
        state["how"] = f"{type(failure).__name__}: {failure!s:.80}"
    deadline.stop()
    return {"id": request.get("id"), "verdict": verdict, **state}


def main() -> None:
    """Serve requests until the pool closes our input."""
    lower_limits()
    sys.setrecursionlimit(3_000)
    deadline = Deadline()
    from selfcorrect.grading.workers import highprecision  # noqa: F401

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # until here our errors say why we did not start
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
