"""The Ray engine on a local cluster of two replicas: same samples, killed replicas, what cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data_gen.pipeline import run as gen
from data_gen.recipe import GenRecipe, Quota
from selfcorrect.engines import EngineRecipe, Sample, SampleRequest, open_engine, sample_all, sample_seed
from selfcorrect.errors import EngineError
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.tokens import ChatCodec

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-engines")
pytestmark = pytest.mark.slow


@contextmanager
def opened(**settings: Any) -> Iterator[Any]:
    engine = open_engine(EngineRecipe(**({"kind": "ray", "replicas": 2, "max_batch": 16, "threads": 1} | settings)))
    try:
        yield engine
    finally:
        asyncio.run(engine.close())


@pytest.fixture(scope="module")
def asked() -> list[SampleRequest]:
    codec = ChatCodec.load("embedded")
    prompt = codec.opening([{"role": "user", "content": "Mia has 214 shells. They grow 7 times. How many now?"}])
    return [SampleRequest(prompt, 100, sample_seed("ray", i), stop_ids=codec.stop_ids) for i in range(300)]


@pytest.fixture(scope="module")
def wanted(asked) -> list[Sample]:
    engine = open_engine(EngineRecipe(max_batch=64, threads=1))
    samples = sample_all(engine, asked)
    asyncio.run(engine.close())
    return samples


def ids(samples: list[Sample]) -> list[tuple[int, ...]]:
    return [sample.token_ids for sample in samples]


async def kill_one_midway(engine: Any, asked: list[SampleRequest]) -> tuple[list[Sample], int]:
    """Sample all, with SIGKILL to the first replica when a tenth is done; return the samples and its process id."""
    _, _, pid = await engine.replicas[0].facts.remote()
    tasks = [asyncio.create_task(engine.sample(request)) for request in asked]
    while sum(task.done() for task in tasks) < len(tasks) // 10:
        await asyncio.sleep(0.01)
    assert not all(task.done() for task in tasks)
    os.kill(pid, signal.SIGKILL)
    return list(await asyncio.gather(*tasks)), pid


def test_a_replica_killed_mid_work_loses_nothing_and_comes_back(asked, wanted) -> None:
    with opened() as engine:
        assert engine.context == 1024
        assert ids(sample_all(engine, asked)) == ids(wanted), "the samples are those of one engine"
        samples, killed = asyncio.run(kill_one_midway(engine, asked))
        assert ids(samples) == ids(wanted)
        pids = {ray.get(replica.facts.remote())[2] for replica in engine.replicas}
        assert len(pids) == 2
        assert killed not in pids
        with pytest.raises(EngineError, match="the context of ray:2xtransformers:embedded holds 1024"):
            sample_all(engine, [SampleRequest(asked[0].prompt_ids, 2000)])
    assert not ray.is_initialized()
    with pytest.raises(EngineError, match="is closed"):
        sample_all(engine, asked[:1])


def test_a_replica_that_stays_dead_leaves_its_work_to_the_other(asked, wanted) -> None:
    with opened(actor={"max_restarts": 0}) as engine:
        samples, _ = asyncio.run(kill_one_midway(engine, asked))
        assert ids(samples) == ids(wanted)
        assert len(engine.replicas) == 1
        last = engine.replicas[0]
        ray.kill(last)
        with pytest.raises(EngineError, match=r"all replicas of .* died"):
            sample_all(engine, asked[:40])


def test_gen_writes_the_same_data_with_replicas_as_with_one_engine(tmp_path: Path) -> None:
    rows = []
    for kind in ("transformers", "ray"):
        engine = EngineRecipe(kind=kind, replicas=2, max_batch=16, threads=1)  # type: ignore[arg-type]
        recipe = GenRecipe(
            engine=engine,
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
    with pytest.raises(EngineError, match=r"a replica could not start: .*device"), opened(device="cuda:7"):
        pass
    assert not ray.is_initialized()
