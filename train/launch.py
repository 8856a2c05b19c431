"""``--launch``: run a training command on the processes of an accelerate configuration.

    selfcorrect train sft qwen2.5-math-7b-sft --run runs/qwen --launch zero3      # a shipped one: train/accelerate
    selfcorrect train grpo my-recipe.yaml --run runs/mine --launch my-cluster.yaml

GPU configurations go to ``accelerate launch``. CPU configurations go to ``torchrun``, because ``accelerate launch
--cpu`` starts a single process without a word (accelerate 1.15). Either way each process then checks that there are as
many as the configuration says (`processes.process_count`).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from selfcorrect.errors import RecipeError, nearest

SHIPPED = Path(__file__).parent / "accelerate"
EXPECTED = "SELFCORRECT_PROCESSES"
"""Environment variable that tells each process how many there should be."""


def relaunch(config: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by the launcher, on the same command without ``--launch``."""
    path = config_path(config)
    command = launch_command(path, without_launch(arguments))
    os.environ[EXPECTED] = str(_read(path)["num_processes"])
    sys.stdout.flush()
    os.execv(command[0], command)


def config_path(config: str) -> Path:
    """Return the file of a configuration: a path, or the name of a shipped one."""
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    if config in shipped:
        return shipped[config]
    if not Path(config).is_file():
        raise RecipeError(
            f"--launch: no accelerate configuration {config!r}{nearest(config, shipped)}; "
            f"shipped: {', '.join(shipped)}; or give the path of a file that `accelerate config` wrote"
        )
    return Path(config)


def launch_command(path: Path, arguments: Sequence[str]) -> list[str]:
    """Return the launcher's command line for a configuration file."""
    settings = _read(path)
    program = ["-m", "selfcorrect.cli", *arguments]
    if settings.get("use_cpu") or settings["distributed_type"] == "MULTI_CPU":
        torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(settings["num_processes"])]
        torchrun += ["--master_addr", "127.0.0.1", "--master_port", str(_free_port()), "--no-python"]
        return [sys.executable, *torchrun, "--", sys.executable, *program]  # it would read our --run as its own
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path), *program]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def without_launch(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without ``--launch FILE`` or ``--launch=FILE``."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--launch":
            next(words, None)
        elif not word.startswith("--launch="):
            kept.append(word)
    return kept


def _read(path: Path) -> Mapping[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"--launch: {path} is not YAML: {error}") from error
    if not isinstance(settings, dict) or not {"num_processes", "distributed_type"} <= settings.keys():
        raise RecipeError(
            f"--launch: {path} names no num_processes and distributed_type; `accelerate config` writes both"
        )
    return settings
