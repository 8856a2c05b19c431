"""``--launch``: run a training command on the processes of an accelerate configuration.

    selfcorrect train sft qwen2.5-math-7b-sft --run runs/qwen --launch zero3      # a shipped one: train/accelerate
    selfcorrect train grpo my-recipe.yaml --run runs/mine --launch my-cluster.yaml

GPU configurations go to ``accelerate launch``. CPU configurations go to ``torchrun``, because ``accelerate launch
--cpu`` starts a single process without a word (accelerate 1.15). Either way each process then checks that there are as
many as the configuration says (`distributed.process_count`).

What the processes write comes out here. What the launcher itself writes goes to a log: where a process fails, its
message is shown, once (`selfcorrect.launched`), in the place of the launcher's report.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from selfcorrect.children import PYTHON, SAFE, selfcorrect_command
from selfcorrect.errors import RecipeError, SelfCorrectError, nearest
from selfcorrect.launched import ERRORS, TERMINAL
from selfcorrect.runs.recipes import read_yaml

SHIPPED = Path(__file__).parents[1] / "accelerate"
EXPECTED = "SELFCORRECT_PROCESSES"
"""Environment variable that tells each process how many there should be."""

_RENAMED = {
    "zero3_init_flag": "zero3_init",
    "deepspeed_config_file": "config_file",
    "deepspeed_moe_layer_cls_names": "moe_layer_cls_names",
}
"""Settings of DeepSpeed that accelerate hands to its processes under another name."""


def relaunch(config: str, arguments: Sequence[str]) -> NoReturn:
    """Run the same command, without ``--launch``, on the processes of a configuration, and leave with its exit code.

    Raises SelfCorrectError with the message of the process that failed first.
    """
    path = config_path(config)
    command = launch_command(path, without_launch(arguments))
    folder = Path(tempfile.mkdtemp(prefix="selfcorrect-launch-"))
    sys.stdout.flush()
    with (folder / "launcher.log").open("w") as log, _way_out(folder) as out:
        environment = os.environ | SAFE | {ERRORS: str(folder), TERMINAL: out} | launch_environment(path)
        code = _wait(subprocess.Popen(command, env=environment, stderr=log))
    message = _message(folder, code) if code else ""
    if not code or "launcher.log" not in message:
        shutil.rmtree(folder, ignore_errors=True)
    if code:
        raise SelfCorrectError(message)
    sys.exit(0)


@contextmanager
def _way_out(folder: Path) -> Iterator[str]:
    """Yield what the processes open to write to our standard error: the terminal, or a pipe that is passed on."""
    if os.isatty(2):
        yield os.ttyname(2)
        return
    pipe, over = folder / "stderr", threading.Event()
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)

    def pass_on() -> None:
        while True:
            if select.select([end], [], [], 0.1)[0]:
                os.write(2, os.read(end, 1 << 16))
            elif over.is_set():
                return

    passing = threading.Thread(target=pass_on, daemon=True)
    passing.start()
    try:
        yield str(pipe)
    finally:
        over.set()
        passing.join()
        os.close(end)


def _wait(launcher: subprocess.Popen[bytes]) -> int:
    """Return the launcher's exit code; a request to end goes on to it, and it ends its processes."""

    def end(number: int, frame: FrameType | None) -> None:
        launcher.send_signal(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return launcher.wait()
    except KeyboardInterrupt:  # the terminal has told the launcher, too
        try:
            launcher.wait(timeout=60)
        except subprocess.TimeoutExpired:
            launcher.kill()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _message(folder: Path, code: int) -> str:
    """Return what the process that failed first said, or what the launcher knows of one that could say nothing.

    Of one that was killed the launcher knows; what the others then say, that it left them, is no cause.
    """
    said = sorted(folder.glob("*.txt"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    log = (folder / "launcher.log").read_text(encoding="utf-8", errors="replace")
    signals = re.findall(r"exitcode\s*:\s*-(\d+)", log)
    killed = str(int(signal.SIGKILL)) in signals
    if said and not killed:
        return said[0].read_text(encoding="utf-8")
    ended = str(int(signal.SIGKILL)) if killed else signals[0] if signals else None
    how = f"a process was ended by signal {ended}" if ended else f"the launcher ended with exit code {code}"
    hint = "; signal 9 is often the system's, for want of memory: fewer rows a batch" if killed else ""
    return f"{how} before it could say why{hint}.\nThe launcher's log: {folder / 'launcher.log'}"


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
    if _on_cpu(settings):
        torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(settings["num_processes"])]
        torchrun += ["--master_addr", "127.0.0.1", "--master_port", str(_free_port()), "--no-python"]
        return [*PYTHON, *torchrun, "--", *selfcorrect_command(arguments)]  # it would read our --run as its own
    return [
        *PYTHON,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(path),
        *selfcorrect_command(arguments)[2:],
    ]


def _on_cpu(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("use_cpu")) or settings["distributed_type"] == "MULTI_CPU"


def launch_environment(path: Path) -> dict[str, str]:
    """Return what the processes of a configuration are told beside the command line.

    ``accelerate launch`` tells them of FSDP by itself; torchrun, which starts those of a CPU, does not.
    """
    settings = _read(path)
    told = {EXPECTED: str(settings["num_processes"])}
    kind = settings["distributed_type"]
    if _on_cpu(settings) and kind in ("FSDP", "DEEPSPEED"):
        prefix = "" if kind == "FSDP" else "ACCELERATE_DEEPSPEED_"
        options = settings.get(f"{kind.lower()}_config", {}).items()
        told |= {f"ACCELERATE_USE_{kind}": "true"} | {
            prefix + _RENAMED.get(name, name).upper(): str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in options
        }
    return told


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
    settings = read_yaml(path, "configuration of --launch,")
    if not {"num_processes", "distributed_type"} <= settings.keys():
        raise RecipeError(
            f"--launch: {path} names no num_processes and distributed_type; `accelerate config` writes both"
        )
    return settings
