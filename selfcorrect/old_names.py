"""The top-level packages of version 0.1, `train`, `eval` and `data_gen`, give `selfcorrect.train` and so on.

Each import of an old name warns, and gives the very module of the new name. A module of the user's that is called so
is found first and has nothing to do with ours. These names go with version 0.3.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

STAGES = ("train", "eval", "data_gen")
MOVED = {
    "eval.budget": "eval.analysis.error_budget",
    "eval.calibration": "eval.analysis.calibration",
    "eval.voting": "eval.analysis.voting",
    "eval.rows": "eval.results",
    "eval.layout": "table",
    "eval.tables": "eval.tables.demo_table",
    "eval.published": "eval.tables.paper",
    "eval.paper_tables": "eval.tables.paper_tables",
    "eval.figures": "eval.tables.figures",
    "eval.reports": "eval.tables.make",
    "eval.report": "eval.page.page",
    "eval.report_charts": "eval.page.charts",
    "train.advantages": "train.rl.advantages",
    "train.card": "train.common.model_card",
    "train.checkpoint": "train.common.stage",
    "train.cpu": "train.common.lean_cpu",
    "train.finite": "train.common.finite",
    "train.grpo_trainer": "train.rl.grpo_trainer",
    "train.guards": "train.rl.guards",
    "train.launch": "train.common.launch",
    "train.lora": "train.common.lora",
    "train.measures": "train.rl.rollout_metrics",
    "train.pairs": "train.data.pairs",
    "train.planner": "train.common.memory",
    "train.ppo_trainer": "train.rl.ppo_trainer",
    "train.processes": "train.common.distributed",
    "train.reports": "train.common.metrics_log",
    "train.rollout_func": "train.rl.rollout_function",
    "train.rollouts": "train.rl.rollouts",
    "train.samplers": "train.rl.samplers",
    "train.settings": "train.common.recipe",
    "train.toy_mdp": "train.rl.toy_mdp",
    "train.variants": "train.rl.variants",
    "train.watch": "train.rl.guard_callback",
    "data_gen.ahead": "data_gen.sampling.lookahead",
    "data_gen.asking": "data_gen.sampling.requests",
    "data_gen.board": "data_gen.progress.live",
    "data_gen.card": "data_gen.output.data_card",
    "data_gen.datasets": "data_gen.output.rows",
    "data_gen.draws": "data_gen.sampling.samples",
    "data_gen.exports": "data_gen.output.exports",
    "data_gen.forecast": "data_gen.progress.forecast",
    "data_gen.rejection": "data_gen.sampling.rejection",
    "data_gen.selection": "data_gen.classes",
    "data_gen.steering": "data_gen.sampling.order",
}
"""Modules that have another place in their package now."""


class _Loader:
    """Gives the module of the new name; it is already executed."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(new_name(spec.name))
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _Finder:
    """Finds old names: packages where nobody else has one, modules in them where the package is ours."""

    def __init__(self, packages: bool):
        self.packages = packages

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        stage, dot, _ = name.partition(".")
        if stage not in STAGES or bool(dot) is self.packages:
            return None
        if dot and sys.modules.get(stage) is not sys.modules.get(f"selfcorrect.{stage}"):
            return None
        warn(name)
        return spec_from_loader(name, _Loader())  # type: ignore[arg-type]


def new_name(name: str) -> str:
    """Return what a module of version 0.1 is called now."""
    return f"selfcorrect.{MOVED.get(name, name)}"


def warn(name: str) -> None:
    """Say which name is to be imported instead."""
    message = f"`{name}` is now `{new_name(name)}`; the old name goes with version 0.3"
    warnings.warn(message, FutureWarning, stacklevel=2)


def install() -> None:
    """Make the old names importable; those of the user's own modules stay theirs."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(packages=False))  # type: ignore[arg-type]
        sys.meta_path.append(_Finder(packages=True))  # type: ignore[arg-type]


def redirect(name: str) -> None:
    """Replace a package that was imported by its old name, from a checkout on the path, by the new one."""
    if name in STAGES:
        warn(name)
        sys.modules[name] = import_module(f"selfcorrect.{name}")
