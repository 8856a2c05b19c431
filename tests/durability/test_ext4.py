"""A real file system after a power cut: copies of a mounted ext4 image, taken while a stage writes and at its end.

pytest -m slow -s tests/durability/test_ext4.py             # as root, with loop devices; COPIES=30
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from selfcorrect.runs.folder import finished
from tests.durability.conftest import Stages, outcome

COPIES = int(os.environ.get("COPIES", "8"))
MEGABYTES = 96


def can_mount() -> bool:
    """True where this user may mount an image on a loop device."""
    return os.geteuid() == 0 and bool(shutil.which("mkfs.ext4")) and Path("/dev/loop-control").exists()


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not can_mount(), reason="needs root, mkfs.ext4 and loop devices")]


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """Mount an image; skips the test where the system does not allow it."""
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(at)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount an image here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def copied(image: Path, to: Path) -> None:
    subprocess.run(["cp", "--sparse=always", str(image), str(to)], check=True)


@pytest.mark.parametrize("stage", ["gen", "eval", "sft", "dpo", "orm", "grpo", "ppo"])
def test_what_ext4_shows_after_a_cut(stages: Stages, tmp_path: Path, stage: str) -> None:
    started = time.perf_counter()
    whole = stages.whole(stage, tmp_path)
    took_s = time.perf_counter() - started
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(MEGABYTES << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    copies: list[Path] = []
    with mounted(image, tmp_path / "at") as disk:
        run = stages.inputs(stage, disk / "run")
        subprocess.run(["sync", "-f", str(disk)], check=True)
        ended = threading.Event()
        process = stages.start(stage, run)

        def copy_while_it_runs() -> None:
            while not ended.wait(took_s / COPIES) and len(copies) < COPIES:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGSTOP)
                copies.append(tmp_path / f"copy-{len(copies)}")
                copied(image, copies[-1])
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

        copying = threading.Thread(target=copy_while_it_runs)
        copying.start()
        answer = stages.answer()
        copies.append(tmp_path / "copy-at-the-end")
        copied(image, copies[-1])
        ended.set()
        copying.join()
        assert answer["status"] == 0, answer["said"]
    done = 0
    for copy in copies:
        run = tmp_path / f"after-{copy.name}"
        with mounted(copy, tmp_path / "at") as disk:
            shutil.copytree(disk / "run", run)
        copy.unlink()
        for folder in {path.parent for path in run.rglob("DONE")}:
            assert finished(folder, by_hash=True) is not None
            done += 1
        stages.finish(stage, run)
        found = {name: content for name, content in outcome(run).items() if not name.endswith(".partial")}
        assert found == whole, copy.name
        shutil.rmtree(run)
    print(f"{stage}: {len(copies)} copies of an ext4 image, {done} DONE verified")
    assert done, "the copy at the end has DONE"
