"""What every engine has: a name, a context, one sample, many samples, an end."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import replace

import pytest

from selfcorrect.engines import Engine, Sample, SampleRequest, sample_all

ENGINES = {
    "selfcorrect.engines.local.engine": "TransformersEngine",
    "selfcorrect.engines.vllm": "VllmEngine",
    "selfcorrect.engines.server.client": "OpenAIEngine",
    "selfcorrect.engines.ray": "RayEngine",
    "selfcorrect.engines.scripted": "ScriptedEngine",
}
REQUEST = SampleRequest((1,), max_tokens=1)


class Echo(Engine):
    """Says the seed of each request; those with a smaller seed take longer."""

    name = "echo"
    context = None

    def __init__(self) -> None:
        self.under_way = self.most = 0

    async def sample(self, request: SampleRequest) -> Sample:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.01 * (3 - request.seed))
        self.under_way -= 1
        return Sample((request.seed,), (0.0,), "length")

    async def close(self) -> None:
        """Nothing to free."""


@pytest.mark.parametrize("many", [Engine.sample_many, sample_all])
def test_an_engine_that_gives_one_sample_gives_many_at_once_and_in_order(many) -> None:
    engine = Echo()
    samples = many(engine, [replace(REQUEST, seed=seed) for seed in range(3)])
    assert [sample.token_ids for sample in samples] == [(0,), (1,), (2,)]
    assert engine.most == 3, "one after the other"


def test_an_engine_lacking_a_part_of_the_protocol_is_none() -> None:
    assert isinstance(Echo(), Engine)
    assert not isinstance(type("Old", (), {"name": "old", "sample": Echo.sample, "close": Echo.close})(), Engine)


@pytest.mark.parametrize("module", ENGINES)
def test_every_engine_inherits_the_protocol_and_answers_in_its_own_way(module: str) -> None:
    engine = getattr(importlib.import_module(module), ENGINES[module])
    assert Engine in engine.__mro__
    assert {"sample", "close"} <= vars(engine).keys()
