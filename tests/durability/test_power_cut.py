"""After a power cut at any moment: no DONE, or everything that it stands for; and a re-run ends with the same bytes.

pytest -m "slow or not slow" tests/durability/test_power_cut.py             # POINTS=30: as many cuts a stage
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from selfcorrect.runs.folder import finished
from selfcorrect.runs.jsonl import Journal
from tests.durability.conftest import Stages, outcome
from tests.durability.disk import Recorder, distinct, restore

POINTS = int(os.environ.get("POINTS", "8"))
WITHOUT_DONE = ("export", "report")
SLOW = ("eval", "regrade", "sft", "dpo", "orm", "grpo", "ppo", *WITHOUT_DONE)


def overwrite_then_mark(run: Path, sync: bool) -> None:
    """Be a stage that replaces its result and says that it is done."""
    with (run / "result").open("w") as file:
        file.write("new")
        if sync:
            file.flush()
            os.fsync(file.fileno())
    with (run / "DONE").open("w") as file:
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(run, os.O_RDONLY)
    os.fsync(folder)


def disks(run: Path, work: Callable[[], object], kind: str) -> list[Path]:
    """Do work and return, as folders, the disks that cuts could leave of a run folder."""
    store = run.parent / f"store-{run.name}"
    if not (pid := os.fork()):  # the hook of the recorder stays for as long as a process lives
        try:
            recorder = Recorder(run, store)
            work()
            recorder.save()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    cuts = [cut for cut in json.loads((store / "cuts.json").read_text()) if cut["kind"] == kind]
    found = [(cut, run.parent / f"{run.name}-{place}") for place, cut in enumerate(distinct(cuts))]
    for cut, folder in found:
        folder.mkdir()
        restore(cut["tree"], store, folder)
    return [folder for _, folder in found]


@pytest.mark.parametrize(("sync", "shown"), [(True, {"new"}), (False, {""})])
def test_the_recorder_shows_what_was_not_synced(tmp_path: Path, sync: bool, shown: set[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "result").write_text("old")
    found = disks(run, lambda: overwrite_then_mark(run, sync), "names")
    assert {(disk / "result").read_text() for disk in found if (disk / "DONE").exists()} == shown


def test_a_journals_synced_lines_are_there_after_any_cut(tmp_path: Path) -> None:
    def append() -> None:
        with Journal(tmp_path / "run" / "new" / "j.jsonl") as journal:
            for number in range(3):
                journal.append(f"k{number}", {})
                journal.sync()

    (tmp_path / "run").mkdir()
    counts = [
        len((disk / "new" / "j.jsonl").read_bytes().splitlines())
        for disk in disks(tmp_path / "run", append, "strict")
        if (disk / "new" / "j.jsonl").exists()
    ]
    assert counts == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["strict", "names"])
@pytest.mark.parametrize(
    "stage",
    ["gen", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)],
)
def test_a_cut_at_any_write_loses_no_result_and_leaves_no_lie(
    stages: Stages, tmp_path: Path, stage: str, kind: str
) -> None:
    whole = stages.whole(stage, tmp_path)
    run, store = stages.inputs(stage, tmp_path / "run"), tmp_path / "store"
    stages.finish(stage, run, record=store)
    assert outcome(run) == whole
    before = outcome(stages.base / stage)
    cuts = distinct([cut for cut in json.loads((store / "cuts.json").read_text()) if cut["kind"] == kind])
    chosen = cuts if len(cuts) <= POINTS else [cuts[round(i * (len(cuts) - 1) / (POINTS - 1))] for i in range(POINTS)]
    done = 0
    for cut in chosen:
        shutil.rmtree(run)
        run.mkdir()
        restore(cut["tree"], store, run)
        for folder in sorted({path.parent for path in run.rglob("DONE")}):
            assert finished(folder, by_hash=True) is not None, cut["at"]
            done += 1
        if stage in WITHOUT_DONE:  # under its own name a file is whole, or is not there
            for name, content in outcome(run).items():
                assert name in before or name.endswith(".partial") or content == whole[name], f"{name}, {cut['at']}"
        stages.finish(stage, run)
        after = outcome(run)
        after = {name: content for name, content in after.items() if not name.endswith(".partial")}
        assert after.keys() == whole.keys(), cut["at"]
        for name, content in after.items():
            assert content == whole[name], f"{name}, cut {cut['at']}"
    print(f"{stage}, {kind}: {len(chosen)} of {len(cuts)} cuts, {done} DONE verified")
    assert len(chosen) > 3, "too few to mean something"
    assert stage in WITHOUT_DONE or 0 < done < 3 * len(chosen)
