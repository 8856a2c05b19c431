"""The transformers engine against `transformers.generate`, itself in other batches, and its own contract."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from selfcorrect.engines import Engine, Sample, SampleRequest, sample_all, sample_seed
from selfcorrect.engines.sampling import Settings, StopTexts, choose, uniforms
from selfcorrect.engines.transformers import TransformersEngine
from selfcorrect.errors import EngineError, ModelError

EOS = 0
VOCABULARY = 96
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
CONFIGS: dict[str, Any] = {
    "llama-sdpa": LlamaConfig(**SIZES, tie_word_embeddings=True, attn_implementation="sdpa"),
    "llama-eager": LlamaConfig(**SIZES, attn_implementation="eager"),
    "qwen2": Qwen2Config(**SIZES),
    "mistral-sliding-window": MistralConfig(**SIZES, sliding_window=12),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, eos_token_id=EOS, pad_token_id=EOS
    ),
}


def make_model(config: Any) -> Any:
    """Return a random model with peaked, varied outputs and a habit of ending (about 1 token in 40)."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with a few merges: "1 3." takes tokens that end inside and outside words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("w", "r"), ("wr", "o"), ("n", "g"), ("g", "."), ("o", "k"), (".", "Ġ")]
    words = ["<eos>", *alphabet, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence([])
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@pytest.fixture(scope="module")
def llama() -> Any:
    return make_model(CONFIGS["llama-sdpa"])


def requests_of(n: int, *, seed: int = 1, **settings: Any) -> list[SampleRequest]:
    """Return requests with prompts of 3 to 40 tokens, each with its own seed."""
    draw = np.random.default_rng(seed)
    defaults = {"max_tokens": 40, "stop_ids": (EOS,)}
    return [
        SampleRequest(
            prompt_ids=tuple(draw.integers(1, VOCABULARY, draw.integers(3, 41)).tolist()),
            seed=sample_seed("test", seed, i),
            **{**defaults, **settings},
        )
        for i in range(n)
    ]


def generate(model: Any, request: SampleRequest) -> tuple[int, ...]:
    """Return what `transformers.generate` gives greedily for one request alone."""
    ids = torch.tensor([request.prompt_ids])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=request.max_tokens, eos_token_id=EOS
    )
    completion = out[0, ids.shape[1] :].tolist()
    return tuple(completion[: completion.index(EOS)] if EOS in completion else completion)


def assert_same(one: Sample, other: Sample) -> None:
    """The same tokens and ending; log-probabilities up to rounding."""
    assert (one.token_ids, one.finish, one.stop_id) == (other.token_ids, other.finish, other.stop_id)
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-4)
    np.testing.assert_allclose(one.stop_logprob, other.stop_logprob, atol=2e-4)
    np.testing.assert_allclose(np.ravel(one.watched), np.ravel(other.watched), atol=2e-4)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_greedy_ids_equal_those_of_generate(architecture: str) -> None:
    model = make_model(CONFIGS[architecture])
    requests = requests_of(12, temperature=0.0)
    samples = TransformersEngine(model, None, max_batch=5).sample_many(requests)
    assert [sample.token_ids for sample in samples] == [generate(model, request) for request in requests]
