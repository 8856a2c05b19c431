"""Fetch the wheels of constraints-gpu.txt for another machine's Python: 14 MB in ``.whl``.

    python benchmarks/gpu/fetch.py --python 3.12
    # there:  pip install --no-index --no-deps --target site .whl/*.whl; export PYTHONPATH=site:$PWD

Their own requirements that are not listed come with PyTorch, transformers and accelerate.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")


def main() -> None:
    """Download into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="3.12", help="the other machine's version")
    parser.add_argument("--folder", type=Path, default=ROOT / ".whl")
    arguments = parser.parse_args()
    lines = (ROOT / "constraints-gpu.txt").read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    for_platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "-q", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", arguments.python, "--implementation", "cp", *for_platforms]
    subprocess.run([*command, "-d", str(arguments.folder), *names], check=True)
    size = sum(path.stat().st_size for path in arguments.folder.glob("*.whl"))
    print(f"{len(names)} wheels, {size / 1e6:.0f} MB, in {arguments.folder}")


if __name__ == "__main__":
    main()
