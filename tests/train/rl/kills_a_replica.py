"""The command line, but for a replica that is killed in the middle of the third rollout; for test_replicas.py.

Process 0 kills the second one once two of its own eight samples of that rollout are there.
"""

from __future__ import annotations

import os
import signal

from selfcorrect.cli import main
from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.engines.ray import RayEngine

ROLLOUT, SAMPLES = 3, 2


def kill_in_a_rollout() -> None:
    sample, done = RayEngine._sample, [0]

    async def sample_and_kill(engine: RayEngine, request: SampleRequest) -> Sample:
        found = await sample(engine, request)
        done[0] += engine._version == ROLLOUT
        if engine._version == ROLLOUT and done[0] == SAMPLES:
            _, _, pid = await engine.replicas[1].facts.remote()
            os.kill(pid, signal.SIGKILL)
        return found

    RayEngine._sample = sample_and_kill  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ["RANK"] == "0":
        kill_in_a_rollout()
    main()
