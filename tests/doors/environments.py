"""`make test-doors`: each door tested by its tool's own client, in an environment of the tool's pinned versions.

    python tests/doors/environments.py [DOOR ...]

A door is one entry of DOORS, the pins `tests/doors/pins/DOOR.txt` (none: the base installation alone) and the tests
`tests/doors/test_DOOR.py`. Its environment is `.venv-doors/DOOR`; it is made again when the pins, the project of
pyproject.toml or the Python change. A tool that another target installs is tested there (``shared``). The last line is
`{"doors": {"DOOR": "passed" | "interface only" | "failed"}, "passed": n}`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTEST = "pytest==9.2.0"


@dataclass(frozen=True)
class Door:
    """How the environment of a door differs from its pins and the base installation of this checkout."""

    extras: str = ""  # of selfcorrect, as "train,report"
    packages: tuple[str, ...] = ()  # folders of this checkout that are installed, too
    shared: str = ""  # the Makefile's target that makes an environment of SHARED, in place of one of its own
    interface_only: str = ""  # why the tool cannot be installed here; its tests then hold its published interface
    not_run: str = ""  # what of the tool is not run by the tests; said above them


SHARED = {"install": ".venv", "engines": ".venv-engines"}
"""Targets of the Makefile, and the folders of the environments that they make."""

DOORS: dict[str, Door] = {
    "verifiers": Door(packages=("environments/selfcorrect_math",)),
    "inspect_ai": Door(),
    "lm_eval": Door(),
    "vllm": Door(shared="engines"),  # 3.5 GB
    "trl": Door(shared="install"),
    "verl": Door(not_run="its trainer, which needs GPUs; its registry, advantages, rewards, data and config are"),
    "hub": Door(shared="install", not_run="the hub itself: a stand-in on loopback takes and gives the files"),
    "compare": Door(extras="logs,report"),
    "logs": Door(
        extras="logs",
        interface_only="lighteval is not installed, it needs torch; logs that the tools wrote are read",
    ),
    "serve": Door(extras="serve"),
}


def main(names: list[str]) -> int:
    """Test the named doors, or all; the exit code is 1 where one failed."""
    if unknown := set(names) - set(DOORS):
        print(f"no door {', '.join(sorted(unknown))}; the doors are {', '.join(DOORS)}", file=sys.stderr)
        return 2
    outcomes = {name: outcome(name, DOORS[name]) for name in names or DOORS}
    print(json.dumps({"doors": outcomes, "passed": list(outcomes.values()).count("passed")}))
    return int("failed" in outcomes.values())


def outcome(name: str, door: Door) -> str:
    """Make the environment of a door and run its tests there; a test that is skipped is no test passed."""
    said = [f"interface only: {door.interface_only}"] * bool(door.interface_only)
    said += [f"not run: {door.not_run}"] * bool(door.not_run)
    print(f"== {name}" + (f" ({'; '.join(said)})" if said else ""), flush=True)
    folder = ROOT / SHARED[door.shared] if door.shared else ROOT / ".venv-doors" / name
    try:
        if door.shared:
            subprocess.run(["make", "-C", ROOT, door.shared], check=True)
        else:
            install(folder, name, door)
    except subprocess.CalledProcessError as error:
        print(f"{name}: its environment was not made: {error}", flush=True)
        return "failed"
    report = folder / f"tests-{name}.xml"
    report.unlink(missing_ok=True)
    # Without tests/conftest.py, which serves the tests of the whole installation.
    words = [
        "-m",
        "pytest",
        "-m",
        "",
        f"--confcutdir={HERE}",
        f"--junitxml={report}",
        "-rs",
        str(HERE / f"test_{name}.py"),
    ]
    path = f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        [folder / "bin" / "python", *words], cwd=ROOT, env=kept | {"PATH": path, "OMP_NUM_THREADS": "1"}
    )
    if ended.returncode != 0 or not report.is_file() or not all_ran(report):
        return "failed"
    return "interface only" if door.interface_only else "passed"


def all_ran(report: Path) -> bool:
    """Return whether pytest's report holds tests, and none that was skipped."""
    suites = list(ElementTree.parse(report).iter("testsuite"))
    return sum(int(suite.get("tests", 0)) for suite in suites) > 0 and not any(
        int(suite.get("skipped", 0)) for suite in suites
    )


def install(folder: Path, name: str, door: Door) -> None:
    """Make the environment unless its stamp says that it is there, as it would be made now."""
    pins = HERE / "pins" / f"{name}.txt"
    wanted = stamp(pins, door)
    stamped = folder / "stamp"
    if stamped.is_file() and stamped.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off", "-q"]
    ours = ["-e", f"{ROOT}[{door.extras}]" if door.extras else str(ROOT)]
    ours += [word for package in door.packages for word in ("-e", str(ROOT / package))]
    subprocess.run([*pip, *(["-r", pins] if pins.is_file() else []), PYTEST, *ours], check=True)
    stamped.write_text(wanted)


def stamp(pins: Path, door: Door) -> str:
    """Return what an environment is made of, as one hash."""
    project = repr(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])
    files = [pins, *(ROOT / package / "pyproject.toml" for package in door.packages)]
    contents = [project.encode(), *(file.read_bytes() if file.is_file() else b"" for file in files)]
    return hashlib.sha256(
        b"\0".join([sys.version.encode(), repr(door).encode(), PYTEST.encode(), *contents])
    ).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
