"""`selfcorrect doctor`: what is installed, which devices and engines work here, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import sys

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfcorrect import __version__
from selfcorrect.runs import PACKAGES, git_revision, package_version
from selfcorrect.tokens import EMBEDDED

ENGINES = {  # engine: (module, install command)
    "transformers": ("transformers", "pip install selfcorrect"),
}


def diagnose() -> RenderableType:
    """Return the report: versions, devices, engines, the embedded model, the grader's self-test."""
    table = Table("what", "state", show_header=False, box=None, padding=(0, 2))
    table.add_row("selfcorrect", f"{__version__} ({git_revision() or 'not a git checkout'})")
    table.add_row("python", f"{platform.python_version()} at {sys.executable}")
    for name in PACKAGES:
        table.add_row(name, package_version(name) or Text("not installed (optional)", style="dim"))
    table.add_row("devices", _devices())
    for name, (module, command) in ENGINES.items():
        works = package_version(module) is not None
        table.add_row(
            f"engine {name}", Text("works", style="green") if works else Text(f"missing: {command}", style="red")
        )
    table.add_row("embedded model", _embedded())
    table.add_row("grader self-test", _grader())
    return Group(table)


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return ", ".join([*names, cores])


def _embedded() -> Text:
    weights = EMBEDDED / "model.safetensors"
    if not weights.exists():
        return Text("missing: selfcorrect train pretrain", style="red")
    return Text(f"{weights.stat().st_size / 1e6:.1f} MB at {EMBEDDED}", style="green")


def _grader() -> Text:
    from selfcorrect.grading.self_test import self_test

    failures = self_test()
    if failures:
        return Text("FAILED: " + "; ".join(map(str, failures)), style="bold red")
    return Text("passed", style="green")
