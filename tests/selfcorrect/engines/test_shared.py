"""One engine for several processes: each gets the samples of its own requests, in order, and the engine's errors."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.engines import SampleRequest
from selfcorrect.engines.scripted import ScriptedEngine
from selfcorrect.engines.shared import EngineElsewhere, SharedEngine
from selfcorrect.errors import EngineError, RequestRefused

OTHER = """
import json, sys
from selfcorrect.engines import SampleRequest
from selfcorrect.engines.shared import EngineElsewhere
address, number = sys.argv[1:]
asked = [SampleRequest((int(number), n), 8) for n in range(int(number))]
print(json.dumps([sample.token_ids for sample in EngineElsewhere(address, "scripted", 64).sample_many(asked)]))
"""


@pytest.fixture
def engine(codec: Any) -> ScriptedEngine:
    """Writes the numbers of its prompt; one that came later is answered sooner."""

    def script(request: SampleRequest, prompt: str) -> str:
        if request.prompt_ids[0] == 99:
            raise EngineError("vLLM fell over")
        if request.prompt_ids[0] == 98:
            raise OSError("no space left")
        return " ".join(map(str, request.prompt_ids))

    return ScriptedEngine(script, codec, delay_s=lambda request: 0.01 / (1 + request.prompt_ids[1]), context=64)


def test_each_process_gets_the_samples_of_its_own_requests_in_order(engine: ScriptedEngine) -> None:
    shared = SharedEngine(engine)
    address, name, context = shared.facts
    assert (name, context) == ("scripted", 64)
    started = [
        subprocess.Popen([sys.executable, "-c", OTHER, address, str(number)], stdout=subprocess.PIPE, text=True)
        for number in (3, 0, 5)
    ]
    told = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    shared.close()
    for found, number in zip(told, (3, 0, 5), strict=True):
        assert [engine.codec.decode(tuple(ids)) for ids in found] == [f"{number} {n}" for n in range(number)]


def test_many_ask_at_once(engine: ScriptedEngine) -> None:
    shared = SharedEngine(engine)
    other = EngineElsewhere(*shared.facts)
    with ThreadPoolExecutor(16) as threads:
        asked = [[SampleRequest((who, n), 8) for n in range(4)] for who in range(40)]
        found = list(threads.map(other.sample_many, asked))
    assert [[engine.codec.decode(sample.token_ids) for sample in one] for one in found] == [
        [f"{who} {n}" for n in range(4)] for who in range(40)
    ]
    assert engine.codec.decode(asyncio.run(other.sample(SampleRequest((7, 7), 8))).token_ids) == "7 7"
    shared.close()


def test_an_error_of_the_engine_comes_to_who_asked_and_to_nobody_else(engine: ScriptedEngine) -> None:
    shared = SharedEngine(engine)
    other = EngineElsewhere(*shared.facts)
    with pytest.raises(EngineError, match=r"^vLLM fell over$"):
        other.sample_many([SampleRequest((1, 0), 8), SampleRequest((99, 0), 8)])
    with pytest.raises(EngineError, match="the engine scripted failed: OSError: no space left"):
        other.sample_many([SampleRequest((98, 0), 8)])
    with pytest.raises(RequestRefused) as refused:
        other.sample_many([SampleRequest((1,) * 60, 8)])
    assert refused.value.outcome == "prompt-too-long"
    assert engine.codec.decode(other.sample_many([SampleRequest((1, 2), 8)])[0].token_ids) == "1 2"
    shared.close()


def test_one_that_was_closed_is_an_error(engine: ScriptedEngine) -> None:
    shared = SharedEngine(engine)
    other = EngineElsewhere(*shared.facts)
    socket = Path(shared.facts[0])
    assert socket.parent.stat().st_mode & 0o777 == 0o700  # nobody else may send pickles
    asyncio.run(other.close())  # which changes nothing
    assert other.sample_many([]) == []
    asyncio.run(engine.close())
    with pytest.raises(EngineError, match="the scripted engine is closed"):
        other.sample_many([SampleRequest((1, 2), 8)])
    shared.close()
    assert not socket.exists()
    with pytest.raises(EngineError, match="the process that holds the engine scripted has ended, or closed it"):
        other.sample_many([SampleRequest((1, 2), 8)])
