"""Plans of public commands: what is done is skipped, independent steps run side by side, a failure shows its log.

A step is one `selfcorrect` command in a process of its own (one BLAS thread each: on few cores two processes
of one thread beat one process of two). Its progress events become bars here; all it prints goes to
``<run>/logs/<step>.log``. This file imports no stage.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from selfcorrect.children import selfcorrect_command
from selfcorrect.errors import SelfCorrectError
from selfcorrect.printing import note
from selfcorrect.runs.files import make_folder, open_own
from selfcorrect.runs.folder import finished, is_done
from selfcorrect.runs.jsonl import read_json, write_json
from selfcorrect.runs.progress import EVENTS, bar_columns, console
from selfcorrect.study.forecast import costs
from selfcorrect.study.graph import Plan, Step, urgent_first
from selfcorrect.study.shipped import DEMO


def demo_steps(run: Path, seed: int) -> list[Step]:
    """Return the demo: data, three fine-tunings, RL, seven evaluations."""
    plan = Plan(DEMO, run, seed)
    plan.evaluate(DEMO.rows_of(["demo"]))
    return urgent_first(list(plan.steps.values()), _seconds(plan))


def control_steps(run: Path, seed: int) -> list[Step]:
    """Return what `demo --controls` adds: IFT with GRPO's compute, GRPO with a KL, and GRPO with a random reward."""
    plan = Plan(DEMO, run, seed)
    plan.evaluate(DEMO.rows_of(["controls"]))
    known = {step.name for step in demo_steps(run, seed)}
    return [step for step in plan.steps.values() if step.name not in known]


def _seconds(plan: Plan) -> dict[str, float]:
    return {name: cost.seconds for name, cost in costs(list(plan.steps.values()), scale="laptop").items()}


def show_plan(steps: Sequence[Step]) -> RenderableType:
    """Return the plan as a table: commands, what each waits for, what is done."""
    table = Table("step", "command", "after", "state", title="plan")
    for step in steps:
        state = "done" if step.folder and is_done(step.folder) else "to do"
        table.add_row(step.name, f"selfcorrect {shlex.join(step.args)}", ", ".join(step.after), state)
    return table


def run_steps(
    steps: Sequence[Step], run: Path, at_once: int | None = None, check: Callable[[Step], object] | None = None
) -> dict[str, float]:
    """Run a plan and return the seconds that each step took, now or in an earlier call (``logs/seconds.json``).

    ``check`` is called with every step that is done already, and raises where it may not be skipped (`unchanged`).
    Raises SelfCorrectError naming the first failure, or a finished step that lost something since.
    """
    at_once = at_once or max(2, min(4, os.cpu_count() or 2))
    logs = run / "logs"
    make_folder(logs)
    done = {step.name for step in steps if step.folder and finished(step.folder) is not None}
    if check is not None:
        for step in [step for step in steps if step.name in done]:
            check(step)
    waiting = [step for step in steps if step.name not in done]
    running: dict[str, _Child] = {}
    took = logs / "seconds.json"
    seconds: dict[str, float] = read_json(took, missing_ok=True)
    ended_by = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # no step outlives its plan
    with Progress(*bar_columns(), console=console) as display:
        overall = display.add_task("all steps", total=len(steps), completed=len(done), note="")
        try:
            while waiting or running:
                for step in [s for s in waiting if set(s.after) <= done][: at_once - len(running)]:
                    waiting.remove(step)
                    running[step.name] = _Child(step, logs, display)
                if not running:
                    raise SelfCorrectError(f"steps wait for what no step makes: {[step.name for step in waiting]}")
                time.sleep(0.1)
                for name in [name for name, child in running.items() if child.finished()]:
                    child = running.pop(name)
                    seconds[name] = child.end()
                    write_json(took, seconds)
                    done.add(name)
                    display.update(overall, advance=1, note=f"{name}: {seconds[name]:.0f} s")
        finally:
            for child in running.values():
                child.stop()
            signal.signal(signal.SIGTERM, ended_by)
    return seconds


class _Child:
    """One running command: its output in a log, its progress events on the display."""

    def __init__(self, step: Step, logs: Path, display: Progress) -> None:
        self.step, self.display = step, display
        self.started_s = time.perf_counter()
        self.log = logs / f"{step.name.replace(' ', '-').replace('/', '-')}.log"
        self.tasks: dict[str, TaskID] = {}
        self.waiting = display.add_task(step.name, total=None, note="starting")
        environment = os.environ | {
            EVENTS: "json",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.output = os.fdopen(open_own(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a", encoding="utf-8")
        self.process = subprocess.Popen(
            selfcorrect_command(step.args),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",  # what a child prints may be any bytes
            env=environment,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith('{"progress"') or not self._show(line):
                self.output.write(line)
                self.output.flush()

    def _show(self, line: str) -> bool:
        """Show a progress event; False for a line that is none."""
        try:
            event = json.loads(line)
            label, said = str(event["progress"]), str(event["note"])
            done = float(event["done"])
            total = None if event["total"] is None else float(event["total"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return False
        if self.waiting in self.display.task_ids:
            self.display.remove_task(self.waiting)
        if label not in self.tasks:
            self.tasks[label] = self.display.add_task(label, total=total, note="")
        self.display.update(self.tasks[label], completed=done, total=total, note=said)
        return True

    def finished(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> float:
        self.reader.join()
        self.output.close()
        for task in [self.waiting, *self.tasks.values()]:
            if task in self.display.task_ids:
                self.display.remove_task(task)
        took_s = time.perf_counter() - self.started_s
        if self.process.returncode:
            last = self.log.read_text(encoding="utf-8").strip().splitlines()[-25:]
            raise SelfCorrectError(
                f"step {self.step.name!r} failed (exit {self.process.returncode}): "
                f"selfcorrect {shlex.join(self.step.args)}\n"
                + "\n".join(last)
                + f"\nIts log: {self.log}. What is done stays done: mend the cause and run the same command."
            )
        note(Text.assemble(("✓ ", "green"), self.step.name, (f" {took_s:.0f} s", "dim")), style=None)
        return took_s

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join(10)  # what a grandchild keeps open is not waited for
        self.output.close()
