"""What engines start beside a training process is told nothing of the training, and sees the GPUs it is given."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any

import pytest

from selfcorrect.engines.background import BackgroundLoop
from selfcorrect.engines.processes import by_itself, gpu_name
from selfcorrect.engines.vllm import VllmEngine
from selfcorrect.errors import EngineError


def test_a_child_is_told_of_no_launcher_and_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with by_itself():
        assert not ours.keys() & os.environ.keys()
        os.environ["SET_INSIDE"] = "stays"
    monkeypatch.delenv("SET_INSIDE")
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("seen", "numbers", "wanted"),
    [(None, [3], "3"), ("4,5,6", [1], "5"), ("GPU-a,GPU-b", [0], "GPU-a"), ("4,5,6", [1, 2], "5,6"), ("4", [], "4")],
)
def test_a_child_sees_the_gpus_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, seen: str | None, numbers: list[int], wanted: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    with by_itself([gpu_name(number) for number in numbers]):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == wanted
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen


class Asked:
    """Stands in for vLLM's `AsyncLLM`: remembers what it is asked for, in order."""

    def __init__(self, refuses: str = "") -> None:
        self.model_config, self.calls, self.refuses = SimpleNamespace(max_model_len=64), list[Any](), refuses

    async def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    async def wake_up(self, tags: list[str]) -> None:
        self.calls.append(("wake_up", tags))

    async def collective_rpc(self, name: str, args: tuple[str]) -> None:
        self.calls.append((name, args))
        if name == self.refuses:
            raise ValueError("no such folder\nat all")

    async def reset_prefix_cache(self) -> bool:
        self.calls.append("reset_prefix_cache")
        return True


def engine_on(llm: Asked, **arguments: Any) -> VllmEngine:
    return VllmEngine(llm, BackgroundLoop("asked"), lambda ids: "", "asked", arguments)


def test_an_engine_that_slept_has_its_weights_back_before_its_cache() -> None:
    """The order of vLLM's documentation: waking the cache first would need the memory of both at their largest."""
    engine = engine_on(llm := Asked(), enable_sleep_mode=True)
    engine.sleep()
    for _ in range(2):
        engine.load_weights("new")
    load = [("load_new_weights", ("new",))]
    woken = [("sleep", 2), ("wake_up", ["weights"]), *load, ("wake_up", ["kv_cache"]), "reset_prefix_cache"]
    assert llm.calls == [*woken, *load, "reset_prefix_cache"]


def test_an_engine_without_sleep_mode_is_left_as_it_is() -> None:
    engine_on(llm := Asked()).sleep()
    assert llm.calls == []


def test_weights_that_are_refused_are_an_error_of_one_line() -> None:
    engine = engine_on(Asked(refuses="load_new_weights"))
    with pytest.raises(EngineError, match=r"^the engine asked could not load new: ValueError: no such folder$"):
        engine.load_weights("new")


def test_a_closed_engine_that_is_given_weights_says_that_it_is_closed() -> None:
    engine = engine_on(llm := Asked())
    asyncio.run(engine._loop.close())
    with pytest.raises(EngineError, match=r"^the engine asked is closed$"):
        engine.load_weights("new")
    assert llm.calls == []
