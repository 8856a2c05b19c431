"""Nothing is lost: real runs of the embedded model through the command line, killed, starved and refused.

pytest -m slow -s tests/data_gen/test_kill.py       # -s shows the log of the kills
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfcorrect.chat import EMBEDDED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (EMBEDDED / "model.safetensors").exists(), reason="no embedded weights"),
]
KILLS = 20
SETTINGS = ("problems.count=150", "prompts=20", "quota={d1: 50, d2: 15, d3: 50}", "steer=true", "in_flight=40")
SETTINGS += ("baselines=false", "preferences={p1: 10, p2: 5, p3: 0}", "engine.max_batch=32")


def start(run: Path, **options: object) -> subprocess.Popen[str]:
    """Start ``selfcorrect gen`` in a process of its own."""
    command = [sys.executable, "-m", "selfcorrect.cli", "gen", "embedded", *SETTINGS, "--run", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, **options
    )


def data_of(run: Path) -> dict[str, bytes]:
    """Return every file of the data set."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted((run / "data").rglob("*.*"))}


def whole_lines(run: Path) -> dict[str, list[bytes]]:
    """Return the whole lines of every journal."""
    lines = {path.name: path.read_bytes().split(b"\n")[:-1] for path in sorted((run / "gen").glob("*.jsonl"))}
    return {name: found for name, found in lines.items() if found}


def await_samples(run: Path, process: subprocess.Popen[str], more_than: int) -> None:
    """Wait until a run has recorded more bytes than before, or has ended."""
    while process.poll() is None and recorded(run) <= more_than:
        time.sleep(0.02)


def recorded(run: Path) -> int:
    """Return the bytes in the journals."""
    return sum(path.stat().st_size for path in (run / "gen").glob("*.jsonl"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    process = start(run)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    return run


def test_killed_twenty_times_gives_the_same_bytes(reference, tmp_path) -> None:
    rng, run = random.Random(20), tmp_path / "killed"
    before: dict[str, list[bytes]] = {}
    torn = kills = 0
    while kills < KILLS:
        process = start(run)
        if rng.random() < 0.8:  # while sampling; else anywhere, start-up included
            await_samples(run, process, recorded(run))
            time.sleep(rng.random() * 1.2)
        else:
            time.sleep(rng.random() * 8)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate()
        kills += 1
        repaired = "removed a torn last line" in out
        torn += repaired
        now = whole_lines(run)
        for name, lines in before.items():
            assert now[name][: len(lines)] == lines, "what was recorded stays as it was"
        keys = [json.loads(line)["key"] for lines in now.values() for line in lines]
        assert len(keys) == len(set(keys)), "no sample is drawn twice"
        print(f"kill {kills:2}: {len(keys):5,} samples recorded{', a torn line was mended' * repaired}", flush=True)
        before = now
    process = start(run)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    final = whole_lines(run)
    keys = [json.loads(line)["key"] for lines in final.values() for line in lines]
    assert len(keys) == len(set(keys))
    assert kills >= KILLS // 2, "the run was over too soon for the test to mean something"
    whole = sum(len(lines) for lines in whole_lines(reference).values())
    print(f"{kills} kills, {torn} torn lines; {len(keys):,} samples in all, {whole:,} in the undisturbed run")
    assert data_of(run) == data_of(reference)


def test_a_second_process_is_refused(tmp_path) -> None:
    first = start(tmp_path / "run")
    try:
        await_samples(tmp_path / "run", first, 0)
        second = start(tmp_path / "run")
        out, _ = second.communicate(timeout=120)
        assert second.returncode == 1
        assert "in use by another process" in out
        assert "Traceback" not in out
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


def small_files() -> None:
    """Limit the size of a child's files: what a full disk looks like from inside."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def test_a_full_disk_ends_cleanly_and_resumes(reference, tmp_path) -> None:
    run = tmp_path / "full"
    process = start(run, preexec_fn=small_files)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 1
    assert "File too large" in out
    assert "run the same command to resume" in " ".join(out.replace("│", " ").split())
    assert "Traceback" not in out
    assert not (run / "gen" / "DONE").exists()
    for path in (run / "gen").glob("*.jsonl"):
        assert path.read_bytes().endswith(b"\n") or not path.stat().st_size, "no torn line is left behind"
    process = start(run)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert data_of(run) == data_of(reference)


def obeys_permissions() -> None:
    """Take root's right to write everywhere from a child (prctl PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


@pytest.mark.parametrize("forbidden", ["run", "run/gen"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, forbidden) -> None:
    (tmp_path / "run" / "gen").mkdir(parents=True)
    (tmp_path / forbidden).chmod(0o500)
    process = start(tmp_path / "run", preexec_fn=obeys_permissions)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "Permission denied" in out
    assert "Traceback" not in out


def test_damage_inside_a_journal_names_file_and_line(reference, tmp_path) -> None:
    run = tmp_path / "damaged"
    process = start(run)
    await_samples(run, process, 50_000)
    process.kill()
    process.communicate()
    journal = run / "gen" / "attempts.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[2] = lines[2][:30]
    journal.write_bytes(b"\n".join(lines))
    process = start(run)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "attempts.jsonl, line 3: damaged journal line" in " ".join(out.replace("│", " ").split())
    assert "Traceback" not in out
