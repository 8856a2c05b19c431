"""`Clock`, `two_steps`: a trainer's second optimizer step, split into its parts. Used by `train_step`, `gpu.step`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Clock:
    """Seconds of the last step, split; attaches to a trainer's methods. ``cpu``: processor seconds of the scoring."""

    def __init__(self, trainer: Any, *, generates: str, scores: str) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu = 0.0
        for name, method in (("generation_s", generates), ("scored_s", scores)):
            setattr(trainer, method, self._timed(name, getattr(trainer, method)))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started, started_cpu = time.perf_counter(), time.process_time()
            result = method(*args, **kwargs)
            self.seconds[name] = time.perf_counter() - started
            if name == "scored_s":
                self.cpu = time.process_time() - started_cpu
            return result

        return call


def two_steps(trainer: Any, clock: Clock, generation_s: Callable[[], float]) -> dict[str, float]:
    """Train a warm-up step and a timed one; return the second's seconds."""
    from transformers import TrainerCallback

    took: dict[str, float] = {}

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()
            self.started_cpu = time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            total = time.perf_counter() - self.started
            generated = generation_s()
            cpu = time.process_time() - self.started_cpu - clock.cpu
            took.update(
                generation_s=generated,
                scoring_s=clock.seconds["scored_s"] - generated,
                update_s=total - clock.seconds["scored_s"],
                update_cpu_s=cpu,
                step_s=total,
            )

    trainer.args.save_strategy = "no"
    trainer.add_callback(Watch())
    trainer.train()
    return took
