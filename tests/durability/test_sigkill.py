"""SIGKILL at random moments: every stage, killed again and again, ends as one that nobody disturbed.

pytest -m slow -s tests/durability/test_sigkill.py          # KILLS=30: as many kills a stage; SEED=n: other moments
"""

from __future__ import annotations

import base64
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.runs.folder import finished
from tests.data_gen.output.test_exports import hub  # noqa: F401 - a fixture
from tests.durability.conftest import Stages, outcome

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", "8"))
SEED = os.environ.get("SEED", "0")
IN_A_ROW = 5  # kills before a run is left to end


@pytest.mark.parametrize(
    "stage", ["gen", "eval", "regrade", "sft", "dpo", "orm", "grpo", "ppo", "export", "report", "push"]
)
def test_killed_at_random_equals_left_alone(
    stages: Stages,
    tmp_path: Path,
    stage: str,
    hub: tuple[str, dict[str, Any]],  # noqa: F811
) -> None:
    moments, run = random.Random(f"{stage}-{SEED}"), tmp_path / "run"
    endpoint, pushed = hub
    whole, took_s = undisturbed(stages, stage, tmp_path, endpoint)
    kills = ended = since = 0
    while kills < KILLS or since:
        if not since:
            shutil.rmtree(run, ignore_errors=True)
            prepared(stages, stage, run, endpoint)
        process = stages.start(stage, run)
        if since < IN_A_ROW and kills < KILLS:
            time.sleep(moments.uniform(0, 1.1) * took_s)
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        answer = stages.answer()
        for folder in {path.parent for path in run.rglob("DONE")}:
            assert finished(folder, by_hash=True) is not None
        if answer["status"] == -signal.SIGKILL:
            kills, since = kills + 1, since + 1
            continue
        assert answer["status"] == 0, answer["said"]
        found = {name: content for name, content in outcome(run).items() if not name.endswith(".partial")}
        assert found.keys() == whole.keys()
        for name, content in found.items():
            assert content == whole[name], name
        ended, since = ended + 1, 0
    if stage == "push":
        for name, content in pushed["files"].items():
            assert base64.b64decode(content) == (run / "data" / name).read_bytes()
    print(f"{stage}: {kills} kills, {ended} runs ended, each as one left alone ({took_s:.1f} s)")
    assert ended


def prepared(stages: Stages, stage: str, run: Path, endpoint: str) -> None:
    """Write a stage's inputs, and where the hub is."""
    stages.inputs(stage, run)
    (run / "endpoint").write_text(endpoint)


def undisturbed(stages: Stages, stage: str, tmp: Path, endpoint: str) -> tuple[dict[str, Any], float]:
    """Return what a stage makes that nobody disturbs, and the seconds it takes."""
    run = tmp / "undisturbed" / "run"
    prepared(stages, stage, run, endpoint)
    started = time.perf_counter()
    stages.finish(stage, run)
    took_s = time.perf_counter() - started
    return outcome(run), took_s
