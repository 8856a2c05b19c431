"""A process that runs stages on request (`stages.py`), shared by the tests of this folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.runs.jsonl import read_journal

ROOT = Path(__file__).parents[2]
CLOCKED = ("seconds", "rollout_s", "waited_s", "handover_s", "grading_s", "update_s", "step_time", "eta_s", "time")
CLOCKED_TOO = ("time/", "tokens_per_s")
"""What the names of measured rates and shares begin with."""


class Stages:
    """Runs stages in forks of one process that has everything imported."""

    def __init__(self, base: Path) -> None:
        self.base = base
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.durability.stages", str(base)],
            cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self._whole: dict[str, dict[str, Any]] = {}

    def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process of the stages is gone"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(self, stage: str, run: Path, record: Path | None = None) -> int:
        """Start a stage on a run folder and return its process; `answer` waits for its end."""
        return self._ask({"stage": stage, "run": str(run), "record": record and str(record)})

    def _ask(self, request: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.answer()["pid"])

    def finish(self, stage: str, run: Path, record: Path | None = None) -> None:
        """Run a stage to its end."""
        self.start(stage, run, record)
        ended = self.answer()
        assert ended["status"] == 0, ended["said"]

    def inputs(self, stage: str, run: Path) -> Path:
        """Copy a stage's inputs to a new run folder."""
        if not (self.base / stage).exists():
            self._ask({"prepare": stage})
            prepared = self.answer()
            assert prepared["status"] == 0, prepared["said"]
        shutil.copytree(self.base / stage, run)
        return run

    def whole(self, stage: str, tmp: Path) -> dict[str, Any]:
        """Return what the stage makes when nobody disturbs it."""
        if stage not in self._whole:
            run = self.inputs(stage, tmp / "undisturbed" / "run")
            self.finish(stage, run)
            self._whole[stage] = outcome(run)
            shutil.rmtree(run.parent)
        return self._whole[stage]


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    server = Stages(tmp_path_factory.mktemp("stages"))
    yield server
    server.process.kill()


def outcome(run: Path) -> dict[str, Any]:
    """Return what a run folder holds, without what a clock or the order of arrival decides.

    Such are gen's journals: they hold what was sampled ahead, too. What is selected from them does not depend on it.
    """
    aside = (".lock", "provenance.json", "README.md")
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name not in aside]
    return {
        str(path.relative_to(run)): _content(path, run)
        for path in files
        if not (path.parent.name == "gen" and path.suffix == ".jsonl")
    }


def _content(path: Path, run: Path) -> Any:
    if path.name == "DONE":
        done = json.loads(path.read_text())
        return _timeless({name: value for name, value in done.items() if name != "files"})
    if path.name == "metrics.jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".jsonl" and path.read_bytes().startswith(b'{"key":"'):
        rows = [_rounded(row) for row in read_journal(path)]
        return sorted(rows, key=lambda row: str(row["key"]))
    return path.read_bytes().replace(bytes(run), b"RUN")  # reports show commands on their run


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = (name for name in value if name not in (*CLOCKED, "drawn") and not str(name).startswith(CLOCKED_TOO))
        return {name: _timeless(value[name]) for name in kept}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def _rounded(value: Any) -> Any:
    """Round log-probabilities: what else is in a batch changes their last bits."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value
