"""math_verify as a second opinion, in a process of its own that is killed when it hangs. Used by audits only."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from selfcorrect.errors import MissingExtraError

_CHILD = """
import json, sys, time, warnings, logging
warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
out = sys.stdout
sys.stdout = sys.stderr
from math_verify import parse, verify
sys.set_int_max_str_digits(0)
out.write("ready\\n"); out.flush()
for line in sys.stdin:
    response, gold = json.loads(line)
    clock, cpu = time.perf_counter(), time.process_time()
    try:
        wanted = parse("$" + gold.strip().strip("$") + "$") or parse(gold)
        verdict = bool(verify(wanted, parse(response)))
    except Exception as failure:
        verdict = None
    out.write(json.dumps([verdict, time.perf_counter() - clock, time.process_time() - cpu]) + "\\n"); out.flush()
"""


class MathVerify:
    """Asks math_verify (gold in ``$``, its own timeouts on); a context manager."""

    def __init__(self, timeout_s: float = 20.0) -> None:
        self.timeout_s = timeout_s
        self.process: subprocess.Popen[bytes] | None = None
        self.buffer = b""

    def __enter__(self) -> MathVerify:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def judge(self, response: str, gold: str) -> tuple[bool | None, float, float]:
        """Return (verdict, seconds, CPU seconds); None where it failed or had to be killed."""
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        begun = time.perf_counter()
        try:
            self.process.stdin.write(json.dumps([response, gold]).encode() + b"\n")
            self.process.stdin.flush()
            line = self._line(self.timeout_s)
        except OSError:
            line = None
        if line is None:
            self._stop()
            return None, time.perf_counter() - begun, time.perf_counter() - begun
        verdict, seconds, cpu = json.loads(line)
        return verdict, seconds, cpu

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parents[3])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self.buffer = b""
        if self._line(120.0) is None:
            self._stop()
            raise MissingExtraError("math_verify is not installed: pip install 'math-verify[antlr4_13_2]'")

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
            process.wait()

    def _line(self, seconds: float) -> bytes | None:
        assert self.process is not None
        assert self.process.stdout is not None
        until = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            data = os.read(self.process.stdout.fileno(), 65_536)
            if not data:
                return None
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line
