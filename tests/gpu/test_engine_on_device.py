"""The transformers engine on the GPU against `transformers.generate` on the CPU, and itself in other batches."""

from __future__ import annotations

import copy
import gc
from typing import Any

import numpy as np
import pytest
import torch

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.engines import Sample, SampleRequest, sample_seed
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.problems.arithmetic import problems
from tests.selfcorrect.engines.test_transformers import CONFIGS, assert_same, generate, make_model, requests_of

N = 64


@pytest.fixture(scope="module")
def codec() -> ChatCodec:
    return ChatCodec.load("embedded")


@pytest.fixture(scope="module")
def embedded() -> Any:
    """The embedded model on the CPU, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_path("embedded"), dtype=torch.float32).eval()


def attempts(codec: ChatCodec, temperature: float) -> list[SampleRequest]:
    """Return requests for an attempt at each of some test problems."""
    return [
        SampleRequest(
            codec.opening(prompts.solve_messages(problem.question)),
            max_tokens=96,
            seed=sample_seed("device", problem.id),
            temperature=temperature,
            stop_ids=codec.stop_ids,
            watch_ids=codec.verdict_ids,
        )
        for problem in problems("test", N, seed=0)
    ]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_greedy_ids_in_fp32_equal_those_of_generate_on_the_cpu(architecture: str, device: torch.device) -> None:
    model = make_model(CONFIGS[architecture])
    requests = requests_of(12, temperature=0.0)
    expected = [generate(model, request) for request in requests]
    samples = TransformersEngine(copy.deepcopy(model).to(device), None, max_batch=5).sample_many(requests)
    assert [sample.token_ids for sample in samples] == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_fp32_samples_are_those_of_the_cpu(temperature: float, codec: ChatCodec, embedded: Any, device: Any) -> None:
    requests = attempts(codec, temperature)
    here = TransformersEngine(embedded, codec.tokenizer).sample_many(requests)
    there = TransformersEngine(copy.deepcopy(embedded).to(device), codec.tokenizer).sample_many(requests)
    same = [one.token_ids == other.token_ids for one, other in zip(here, there, strict=True)]
    assert sum(same) >= N - 1  # a draw that falls between two roundings
    for one, other in zip(here, there, strict=True):
        if one.token_ids == other.token_ids:
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-4)


def test_a_sample_on_the_device_does_not_depend_on_its_batch(codec: ChatCodec, embedded: Any, device: Any) -> None:
    model, requests = copy.deepcopy(embedded).to(device), attempts(codec, 1.0)[:24]
    alone = TransformersEngine(model, codec.tokenizer, max_batch=1).sample_many(requests)
    together = TransformersEngine(model, codec.tokenizer, max_batch=24).sample_many(requests)
    queued = TransformersEngine(model, codec.tokenizer, max_batch=5).sample_many(requests)
    for one, other, third in zip(alone, together, queued, strict=True):
        assert_same(one, other)
        assert_same(one, third)


def log_probs(model: Any, request: SampleRequest, sample: Sample) -> torch.Tensor:
    """Return the log-probabilities of the sampled tokens in one plain forward pass."""
    ids = torch.tensor([request.prompt_ids + sample.token_ids])
    with torch.no_grad():
        logits = model(ids).logits[0, len(request.prompt_ids) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]


def test_bf16_log_probabilities_are_near_those_of_fp32(codec: ChatCodec, embedded: Any, device: Any) -> None:
    requests = attempts(codec, 1.0)
    half = copy.deepcopy(embedded).to(device, torch.bfloat16)
    samples = TransformersEngine(half, codec.tokenizer).sample_many(requests)
    gaps = [
        (torch.tensor(sample.logprobs) - log_probs(embedded, request, sample)).abs().mean().item()
        for request, sample in zip(requests, samples, strict=True)
    ]
    assert np.mean(gaps) < 0.05
    assert {sample.finish for sample in samples} <= {"stop", "length"}


def test_training_gets_back_the_memory_of_a_rollout(codec: ChatCodec, embedded: Any, device: Any) -> None:
    """Without Python's collector of rings, which comes when it likes."""
    if device.type != "cuda":
        pytest.skip("the CPU keeps its cache between rollouts: freeing it costs page faults")
    engine = TransformersEngine(copy.deepcopy(embedded).to(device), codec.tokenizer)
    engine.sample_many(attempts(codec, 1.0))  # what libraries keep is taken now
    gc.collect()
    gc.disable()
    try:
        before = torch.cuda.memory_allocated()
        engine.sample_many(attempts(codec, 1.0))
        assert torch.cuda.memory_allocated() - before < 2**20
    finally:
        gc.enable()
