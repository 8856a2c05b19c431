"""The Ray engine on a local cluster of two replicas: same samples, killed replicas, what cannot start.

What happens to requests is tested with toy actors that need no model; what gen writes, with the embedded model.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from selfcorrect.data_gen.pipeline import run as gen
from selfcorrect.data_gen.recipe import GenRecipe, Quota
from selfcorrect.engines import EngineRecipe, Sample, SampleRequest, open_engine, sample_all, sample_seed
from selfcorrect.engines.ray import RayEngine, packed, unpacked
from selfcorrect.errors import EngineError, RequestRefused
from selfcorrect.problems import ProblemsRecipe

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-engines")
pytestmark = pytest.mark.slow

ASKED = [SampleRequest((1, 2, 3), 10, sample_seed("ray", i)) for i in range(300)]
WANTED = [(request.seed % 1000,) for request in ASKED]


def toy_actor() -> type:
    """Return an actor whose samples tell their seed and its process; not a global, so that Ray sends its code."""

    class Unpicklable(Exception):
        def __init__(self, said: str) -> None:
            super().__init__(said)
            self.lock = threading.Lock()

    class Toy:
        def __init__(self, recipe: EngineRecipe) -> None:
            self.recipe = recipe

        async def facts(self) -> tuple[str, int, int]:
            return f"toy:{self.recipe.kind}", 100, os.getpid()

        async def take(self, version: int, weights: Any) -> None:
            self.version = version

        async def sample(self, request: SampleRequest, version: int) -> Sample:
            if request.temperature == 9.0:
                raise EngineError("no such temperature")
            if request.temperature == 8.0:
                raise RequestRefused("beyond my cache", "prompt-too-long")
            if request.temperature == 7.0:
                raise Unpicklable("the model broke")
            if request.temperature == 6.0:
                os._exit(1)  # it takes its replica down with it, each time
            await asyncio.sleep(0.05)
            return Sample((request.seed % 1000,), (float(-os.getpid()),), "length")

        async def close(self) -> None:
            pass

    return Toy


@contextmanager
def opened(**settings: Any) -> Iterator[RayEngine]:
    recipe = EngineRecipe(**({"kind": "ray", "replicas": 2, "replica": "vllm", "max_batch": 4} | settings))
    engine = RayEngine.start(recipe, toy_actor())
    try:
        yield engine
    finally:
        asyncio.run(engine.close())


def ids(samples: list[Sample]) -> list[tuple[int, ...]]:
    return [sample.token_ids for sample in samples]


async def kill_one_midway(engine: RayEngine) -> tuple[list[Sample], int]:
    """Sample all, with SIGKILL to the first replica when a tenth is done; return the samples and its process id."""
    _, _, pid = await engine.replicas[0].facts.remote()
    tasks = [asyncio.create_task(engine.sample(request)) for request in ASKED]
    while sum(task.done() for task in tasks) < len(tasks) // 10:
        await asyncio.sleep(0.01)
    assert not all(task.done() for task in tasks)
    os.kill(pid, signal.SIGKILL)
    return list(await asyncio.gather(*tasks)), pid


def wait_until_taken_back(engine: RayEngine) -> None:
    """Return when a replica that died is asked again; Ray needs seconds to start it, a busy machine a minute."""
    deadline = time.monotonic() + 180
    while not engine.counts["taken back"]:
        assert time.monotonic() < deadline, "not taken back"
        time.sleep(0.05)


def test_work_is_shared_and_comes_back_in_order() -> None:
    with opened() as engine:
        assert (engine.name, engine.context) == ("ray:2xtoy:vllm", 100)
        samples = sample_all(engine, ASKED)
        assert ids(samples) == WANTED
        shares = Counter(sample.logprobs for sample in samples)
        assert len(shares) == 2
        assert min(shares.values()) > 100, "both work"
        with pytest.raises(EngineError, match="the context of ray:2xtoy:vllm holds 100"):
            sample_all(engine, [SampleRequest((1,), 100)])
        with pytest.raises(EngineError, match="ray:2xtoy:vllm: no such temperature"):
            sample_all(engine, [SampleRequest((1,), 1, temperature=9.0)])

        async def cancelled_and_then_all() -> list[Sample]:
            tasks = [asyncio.create_task(engine.sample(request)) for request in ASKED]
            await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            return await asyncio.gather(*(engine.sample(request) for request in ASKED[:50]))

        assert ids(asyncio.run(cancelled_and_then_all())) == WANTED[:50], "places are given back"
    assert not ray.is_initialized()
    with pytest.raises(EngineError, match="is closed"):
        sample_all(engine, ASKED[:1])


def test_what_goes_wrong_in_a_replica_comes_back_as_one_message_and_harms_nobody_else() -> None:
    with opened() as engine:

        async def main() -> list[Any]:
            odd = [SampleRequest((1,), 1, temperature=heat) for heat in (9.0, 8.0, 7.0)]
            return await asyncio.gather(*map(engine.sample, [*odd, *ASKED[:40]]), return_exceptions=True)

        wrong, refused, broken, *others = asyncio.run(main())
        assert type(wrong) is EngineError
        assert "no such temperature" in str(wrong)
        assert isinstance(refused, RequestRefused)
        assert (refused.outcome, "beyond my cache" in str(refused)) == ("prompt-too-long", True)
        assert type(broken) is EngineError
        assert "the model broke" in str(broken)
        assert ids(others) == WANTED[:40]


def test_a_request_that_ends_every_replica_ends_in_an_error_and_not_in_waiting() -> None:
    with opened(actor={"max_restarts": 1}) as engine:
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"all replicas of .* died"):
            sample_all(engine, [SampleRequest((1,), 1, temperature=6.0), *ASKED[:20]])
        assert time.monotonic() - started < 120
        assert engine.replicas == []


def test_a_replica_killed_mid_work_loses_nothing_and_comes_back() -> None:
    with opened() as engine:
        samples, killed = asyncio.run(kill_one_midway(engine))
        assert ids(samples) == WANTED
        wait_until_taken_back(engine)
        pids = {ray.get(replica.facts.remote())[2] for replica in engine.replicas}
        assert len(pids) == 2
        assert killed not in pids


def test_a_replica_that_stays_dead_leaves_its_work_to_the_other() -> None:
    with opened(actor={"max_restarts": 0}) as engine:
        samples, _ = asyncio.run(kill_one_midway(engine))
        assert ids(samples) == WANTED
        (last,) = engine.replicas
        ray.kill(last)
        with pytest.raises(EngineError, match=r"all replicas of .* died"):
            sample_all(engine, ASKED[:40])


def slow_toy(slow_s: float) -> type:
    """Return a toy of which the first replica that is asked takes ``slow_s`` for each sample."""
    toy = toy_actor()

    class Slow(toy):  # type: ignore[misc, valid-type]
        async def take(self, version: int, weights: Any) -> None:
            self.slow = bool(version)

        async def sample(self, request: SampleRequest, version: int) -> Sample:
            if getattr(self, "slow", False):
                await asyncio.sleep(slow_s)
            return await super().sample(request, version)

    return Slow


def test_a_slow_replica_is_given_little_and_holds_nobody_up() -> None:
    """40 times slower than the other, it works on what it took at first; half of all would take it minutes."""
    recipe = EngineRecipe(kind="ray", replicas=2, replica="vllm", max_batch=4)
    engine = RayEngine.start(recipe, slow_toy(2.0))
    try:
        ray.get(engine.replicas[0].take.remote(1, None))
        started = time.monotonic()
        samples = sample_all(engine, ASKED)
        took_s = time.monotonic() - started
    finally:
        asyncio.run(engine.close())
    assert ids(samples) == WANTED
    few, most = sorted(Counter(sample.logprobs for sample in samples).values())
    print(f"{few} of {few + most} at the slow replica, {took_s:.1f} s")
    assert few <= 5 * (took_s / 2 + 1)
    assert most >= 240


def test_replicas_sample_from_the_weights_that_were_published_and_again_once_they_are_started_anew() -> None:
    """Versions are told by a toy that answers with them; the real hand-over is in tests/train/rl/test_replicas.py."""
    toy = toy_actor()

    class Versioned(toy):  # type: ignore[misc, valid-type]
        version, weights = 0, None

        async def take(self, version: int, weights: Any) -> None:
            if version and weights is None:
                raise EngineError("no weights")
            self.version, self.weights = version, weights

        async def sample(self, request: SampleRequest, version: int) -> Sample | None:
            await asyncio.sleep(0.02)
            if version != self.version:
                return None
            name, dtype, shape = "none", "", ()
            if self.weights:
                (name, (_, dtype, shape)) = next(iter(self.weights.items()))
            return Sample((version, *shape), (float(-os.getpid()),), f"{name}:{dtype}")

    recipe = EngineRecipe(kind="ray", replicas=2, replica="vllm", max_batch=4)
    engine = RayEngine.start(recipe, Versioned)
    try:
        assert {(s.token_ids, s.finish) for s in sample_all(engine, ASKED[:20])} == {((0,), "none:")}
        for version in (1, 2):
            engine.publish([("w", torch.ones(version, 3, dtype=torch.bfloat16))])
            engine.follow()
            found = sample_all(engine, ASKED[:40])
            assert {(s.token_ids, s.finish) for s in found} == {((version, version, 3), "w:bfloat16")}
        samples, killed = asyncio.run(kill_one_midway(engine))
        assert {(s.token_ids, s.finish) for s in samples} == {((2, 2, 3), "w:bfloat16")}
        wait_until_taken_back(engine)
        assert engine.counts["lost"] == 1
        again = {-sample.logprobs[0] for sample in sample_all(engine, ASKED[:40])}
        assert len(again) == 2
        assert killed not in again
    finally:
        asyncio.run(engine.close())


def test_packed_weights_are_the_weights_bit_for_bit() -> None:
    weights = {
        "bf16": torch.randn(3, 5).bfloat16(),
        "strided": torch.randn(4, 6).t(),
        "one": torch.tensor(2.5),
        "ids": torch.arange(7),
    }
    found = dict(unpacked(packed(weights.items())))
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_gen_writes_the_same_data_with_replicas_as_with_one_engine(tmp_path: Path) -> None:
    rows = []
    for kind in ("transformers", "ray"):
        recipe = GenRecipe(
            engine=EngineRecipe(kind=kind, replicas=2, max_batch=16, threads=1),  # type: ignore[arg-type]
            problems=ProblemsRecipe(source="arithmetic", split="train", count=60),
            attempts=4,
            evaluations=2,
            revisions=2,
            quota=Quota(4, 2, 4),
            max_tokens=128,
            in_flight=24,
        )
        gen(recipe, tmp_path / kind)
        rows.append((tmp_path / kind / "data" / "sft" / "self-rewarding.jsonl").read_bytes())
    assert rows[0].count(b"\n") == 10
    assert rows[0] == rows[1]


def test_what_cannot_start_is_said() -> None:
    with pytest.raises(EngineError, match=r"(?is)a replica could not start: .*cuda"):
        open_engine(EngineRecipe(kind="ray", replicas=1, device="cuda:7"))
    assert not ray.is_initialized()
