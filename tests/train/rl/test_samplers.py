"""Samplers of RL: vLLM follows the trainer's weights, and the canary finds one that does not."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import SampleRequest
from selfcorrect.engines.processes import by_itself
from selfcorrect.engines.scripted import ScriptedEngine
from selfcorrect.errors import EngineError, GuardError, RecipeError, SelfCorrectError
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.train.common.launch import config_path, launch_environment
from selfcorrect.train.common.lora import LoraRecipe
from selfcorrect.train.grpo import GrpoRecipe, run
from selfcorrect.train.rl import samplers
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.samplers import open_sampler
from tests.train.common.test_distributed import ROOT, train


def test_options_of_vllm_are_refused_where_the_live_model_samples() -> None:
    with pytest.raises(RecipeError, match="gpu_memory_utilization"):
        open_sampler("live", ChatCodec.load("embedded"), "embedded", 8, {"gpu_memory_utilization": 0.5})


def test_an_engine_beside_each_process_is_spread_in_one_way_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "process_count", lambda: 2)
    with pytest.raises(RecipeError, match="leave pipeline_parallel_size out, or use sampler=servers"):
        open_sampler("vllm", ChatCodec.load("embedded"), "embedded", 8, {"pipeline_parallel_size": 2})
    with pytest.raises(RecipeError, match="expected a whole number of at least 1, got '2'"):
        open_sampler("vllm", ChatCodec.load("embedded"), "embedded", 8, {"tensor_parallel_size": "2"})


class World:
    """Training processes as threads: what `samplers` asks of `train.common.distributed`, for machines of a size."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, machines: list[int], memory: Path) -> None:
        self.count, self._local = sum(machines), [place for size in machines for place in range(size)]
        self._mine, self._told = threading.local(), [[] for _ in range(self.count)]
        self._barrier = threading.Barrier(self.count, timeout=60)
        self._one_at_a_time = threading.Lock()  # a process has its own environment, a thread does not
        self._memory = [memory / str(machine) for machine, size in enumerate(machines) for _ in range(size)]
        for name, value in (
            ("process_count", lambda: self.count),
            ("process_rank", lambda: self._mine.rank),
            ("local_rank", lambda: self._local[self._mine.rank]),
            ("wait_for_everyone", self._barrier.wait),
            ("gathered", self.gathered),
            ("has_gpu", lambda: True),
            ("memory_folder", self.memory_folder),
            ("by_itself", self.by_itself),
        ):
            monkeypatch.setattr(samplers, name, value)
        monkeypatch.setattr("torch.cuda.current_device", lambda: self._local[self._mine.rank])
        monkeypatch.setattr(samplers, "save_policy", lambda model, folder, dtype, writes: None)

    def gathered(self, rows: list[Any]) -> list[Any]:
        self._told[self._mine.rank] = rows
        self._barrier.wait()
        found = [row for told in self._told for row in told]
        self._barrier.wait()
        return found

    @contextmanager
    def by_itself(self, gpus: list[str]) -> Iterator[None]:
        with self._one_at_a_time, by_itself(gpus):
            yield

    def memory_folder(self) -> Path:
        folder = self._memory[self._mine.rank]
        folder.mkdir(exist_ok=True)
        return folder

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """Return what each process returns, or the error that ends it."""

        def one(rank: int) -> Any:
            self._mine.rank = rank
            try:
                return work(rank)
            except SelfCorrectError as error:
                return error
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self.count) as threads:
            return list(threads.map(one, range(self.count)))


class Told(ScriptedEngine):
    """Stands in for vLLM: says who it is and which GPUs it saw, and notes what it is asked to do."""

    opened: ClassVar[list[Told]] = []

    @classmethod
    def load(cls, model: str, max_batch: int, **options: Any) -> Told:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        engine = cls(lambda request, prompt: f"{gpus}: {request.prompt_ids[0]}", ChatCodec.load(model))
        engine.arguments, engine.asleep, engine.loaded = {"dtype": "bfloat16", "max": max_batch} | options, 0, 0
        engine.opened.append(engine)
        return engine

    def sleep(self) -> None:
        self.asleep += 1

    def load_weights(self, folder: Path) -> None:
        self.loaded += 1


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[Told]:
    monkeypatch.setattr("selfcorrect.engines.vllm.VllmEngine", Told)
    monkeypatch.setattr(Told, "opened", [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Told


@pytest.mark.parametrize(
    ("machines", "size", "gpus"),
    [
        ([2], 2, ["0,1"] * 2),
        ([4], 2, ["0,1"] * 2 + ["2,3"] * 2),
        ([2, 4], 2, ["0,1"] * 4 + ["2,3"] * 2),
        ([2], 1, "01"),
    ],
)
def test_processes_that_share_an_engine_get_the_samples_of_their_own_requests(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    told: type[Told],
    machines: list[int],
    size: int,
    gpus: list[str],
) -> None:
    """Each asks for another number of samples, in another number of rounds, also for none."""
    world, codec = World(monkeypatch, machines, tmp_path), ChatCodec.load("embedded")

    def process(rank: int) -> list[list[str]]:
        sampler = open_sampler("vllm", codec, "embedded", 8, {"tensor_parallel_size": size})
        sampler.follow(None)
        rounds = []
        for asked in range(rank, 0, -1):
            found = sampler.sample_many([SampleRequest((rank * 10 + n,), 16) for n in range(asked)])
            rounds.append([codec.decode(sample.token_ids) for sample in found])
        sampler.rest()
        sampler.close()
        return rounds

    found = world.run(process)
    assert found == [
        [[f"{gpus[rank]}: {rank * 10 + n}" for n in range(asked)] for asked in range(rank, 0, -1)]
        for rank in range(world.count)
    ]
    assert len(told.opened) == world.count // size
    for engine in told.opened:
        assert engine.arguments == {
            "dtype": "bfloat16", "max": 8 * size, "enable_sleep_mode": True, "tensor_parallel_size": size
        }  # fmt: skip
        assert (engine.loaded, engine.asleep) == (1, 2)


@pytest.mark.parametrize(("machines", "size"), [([2], 3), ([4], 3), ([2, 3], 2), ([1, 1], 2)])
def test_a_size_that_does_not_divide_the_processes_of_a_machine_is_refused_in_all_of_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: type[Told], machines: list[int], size: int
) -> None:
    world, codec = World(monkeypatch, machines, tmp_path), ChatCodec.load("embedded")
    for said in world.run(lambda rank: open_sampler("vllm", codec, "embedded", 8, {"tensor_parallel_size": size})):
        assert isinstance(said, RecipeError)
        assert f"tensor_parallel_size={size}: so many training processes of a machine share an engine" in str(said)
    assert told.opened == []


def test_an_engine_that_fails_ends_all_that_share_it_with_its_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: type[Told]
) -> None:
    world, codec = World(monkeypatch, [4], tmp_path), ChatCodec.load("embedded")

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise EngineError("vLLM could not start")

    def sample(rank: int) -> Any:
        sampler = open_sampler("vllm", codec, "embedded", 8, {"tensor_parallel_size": 2})
        if rank == 0:
            asyncio.run(told.opened[0].close())
        samplers.wait_for_everyone()
        return sampler.sample_many([SampleRequest((1,), 16)])

    found = world.run(sample)
    assert sum(isinstance(one, EngineError) for one in found) == 2
    assert {str(one) for one in found if isinstance(one, EngineError)} == {"the scripted engine is closed"}
    monkeypatch.setattr(told, "load", refuse)
    for said in world.run(sample):
        assert isinstance(said, EngineError)
        assert str(said) == "process 0: vLLM could not start; process 2: vLLM could not start"


def recipe(**changes: Any) -> GrpoRecipe:
    settings = {
        "prompts": None,
        "problems": ProblemsRecipe("arithmetic", count=24),
        "steps": 3,
        "prompts_per_step": 8,
        "generations": 4,
        "max_tokens": 120,
        "learning_rate": 2e-3,
        "guard": GuardRecipe(action="ignore"),
        "precision": "fp32",
        "sampler": "vllm",
        "sampler_options": {"dtype": "float32", "threads": 1, "kv_cache_memory_bytes": 1 << 26},
    }
    return GrpoRecipe(**(settings | changes))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"lora": LoraRecipe(rank=4, alpha=64), "learning_rate": 3e-3}])
def test_vllm_samples_from_the_weights_of_every_step(tmp_path: Path, changes: dict[str, Any]) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-engines")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    run(recipe(**changes), tmp_path)
    rows = list(read_jsonl(tmp_path / "checkpoints" / "grpo" / "metrics.jsonl"))
    assert len(rows) == 3
    assert all(row["used_rows"] > 0 and row["logprob_gap"] < 2e-3 for row in rows), rows


@pytest.mark.slow
def test_the_canary_finds_a_vllm_that_was_not_given_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-engines")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from selfcorrect.engines.vllm import VllmEngine

    opened: list[VllmEngine] = []
    load = VllmEngine.load
    monkeypatch.setattr(VllmEngine, "load", lambda *args, **kwargs: opened.append(load(*args, **kwargs)) or opened[-1])
    monkeypatch.setattr(VllmEngine, "load_weights", lambda self, folder: None)
    with pytest.raises(GuardError, match="samples from other weights"):
        run(recipe(learning_rate=1e-2, max_logprob_gap=0.01), tmp_path)
    asyncio.run(opened[0].close())


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["cpu", "fsdp-cpu"])
def test_two_processes_sample_from_an_engine_each(tmp_path: Path, launch: str) -> None:
    """Of every rollout each process samples half; all of it is graded, and both samplers have the weights."""
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-engines")
    rows = train("grpo", recipe(max_logprob_gap=2e-3), tmp_path, "--launch", launch)  # held by each process
    assert len(rows) == 3
    for row in rows:
        assert (row["problems"], row["sampled_tokens"] / row["mean_length"]) == (8, pytest.approx(32))
    print("gaps of process 0:", [row["logprob_gap"] for row in rows])
    assert sum(row["trained_tokens"] > 0 for row in rows) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("size", "lost"), [(1, "process 1: the engine "), (2, "process 0: the engine ")])
def test_engines_with_unequal_shares_wait_for_nobody_and_fail_together(tmp_path: Path, size: int, lost: str) -> None:
    """Two FSDP processes, 9 and 2 requests, an engine each or one of both on two workers (tensor parallel).

    Greedy ids are our engine's on the gathered weights, twice.
    """
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-engines")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "--no-python"]
    report = tmp_path / "found.json"
    command = [*launcher, "--", sys.executable, "-m", "tests.train.rl.vllm_shares", str(report), str(size)]
    environment = os.environ | launch_environment(config_path("fsdp-cpu")) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(report.read_text())
    assert [(one["asked"], one["equal"]) for one in found] == [(18, 18), (4, 4)]
    assert max(one["apart"] for one in found) < 2e-3
    assert all(one["said"].startswith(lost) for one in found), found
