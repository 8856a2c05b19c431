"""The memory planner against known models and the figures of the ZeRO paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory import in_a_process, random_model
from selfcorrect.train.common.memory import (
    LAYOUTS,
    Batch,
    Kept,
    Models,
    ModelSize,
    activation_bytes,
    fitting_table,
    memory_table,
    model_size,
    run_bytes,
    state_bytes,
)

NOTHING = Kept(0.0, 0.0)

LLAMA3_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
QWEN25_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
QWEN25_HALF_B = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("family", "settings", "parameters"),
    [
        ("LlamaConfig", LLAMA3_8B, 8_030_261_248),
        ("LlamaConfig", SMOLLM2_135M, 134_515_008),
        ("Qwen2Config", QWEN25_7B, 7_615_616_512),
        ("Qwen2Config", QWEN25_HALF_B, 494_032_768),
    ],
    ids=["Llama-3-8B", "SmolLM2-135M", "Qwen2.5-7B", "Qwen2.5-0.5B"],
)
def test_parameters_are_the_published_ones(
    tmp_path: Path, family: str, settings: dict[str, Any], parameters: int
) -> None:
    import transformers

    getattr(transformers, family)(**settings).save_pretrained(tmp_path)
    size = model_size(str(tmp_path))
    layers, width = settings["num_hidden_layers"], settings["hidden_size"]
    assert replace(size, kept=NOTHING) == ModelSize(
        parameters, layers, width, settings["vocab_size"], parameters, NOTHING
    )
    linear = parameters - settings["vocab_size"] * width * (1 if settings["tie_word_embeddings"] else 2)
    assert size.kept.copies == pytest.approx(2 * linear, rel=0.01)


@pytest.mark.parametrize(("layout", "gigabytes"), [("one GPU, or DDP", 120.0), ("zero2", 16.6), ("zero3, fsdp", 1.88)])
def test_sharding_is_that_of_the_zero_paper(layout: str, gigabytes: float) -> None:
    """Its figure 1: 7.5 B parameters on 64 GPUs, fp16 weights and gradients (2 + 2 bytes), 12 of optimizer states."""
    found = state_bytes(7_500_000_000, 64, layout, bytes_each=(2.0, 2.0, 12.0)) / 1e9
    assert found == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize(("bf16", "layer"), [(False, 110.0), (True, 70.0)])
def test_what_a_layer_keeps_is_what_autograd_keeps(tmp_path: Path, bf16: bool, layer: float) -> None:
    """Bytes a token and unit of width, against a pass that is run; counted by hand for fp32.

    Its MLP is four times as wide as it is: 64 of the 109 are the gate, its SiLU, the other half and their product.
    """
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=1000, hidden_size=384, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=2,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    size = model_size(str(tmp_path), bf16=bf16)
    assert size.kept.layer / size.width == pytest.approx(layer, rel=0.06)  # the last norm is counted to two layers
    assert size.kept.input == 4 * 384
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}
    graph = []

    def keep(tensor: Any) -> Any:
        graph.append(tensor)
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        mask = torch.ones(2, 64, dtype=torch.long)
        mask[1, :3] = 0  # with padding keys and values are repeated for grouped heads
        model.base_model(input_ids=torch.zeros_like(mask), attention_mask=mask, use_cache=False)
    expected = activation_bytes(size, Batch(2, 64, checkpointing=False)) + size.kept.copies
    assert sum(held.values()) == pytest.approx(expected, rel=0.06)


def test_activations_grow_with_tokens_and_shrink_with_checkpointing() -> None:
    size = ModelSize(8_030_261_248, 32, 4096, 128256, 8_030_261_248, Kept(layer=300_000.0, input=16_384.0))
    kept, recomputed = (activation_bytes(size, Batch(1, 4096, checkpointing)) for checkpointing in (False, True))
    assert kept == 32 * 4096 * 300_000
    assert recomputed == 4096 * (32 * 16_384 + 300_000)
    assert activation_bytes(size, Batch(2, 4096, True)) == 2 * recomputed


def test_copies_of_weights_are_kept_where_weights_are_whole() -> None:
    size = ModelSize(1_000_000_000, 10, 1, 1, 1_000_000_000, Kept(0.0, 0.0, copies=2e9))
    held = {name: run_bytes(size, Batch(1, 1, False), Models(), name, 1) for name in LAYOUTS}
    assert held["one GPU, or DDP"] == held["zero2"] == pytest.approx(18e9)
    assert held["zero3, fsdp"] == pytest.approx(16e9 + 4 * 2e8)  # two of ten layers whole
    with_values = run_bytes(size, Batch(1, 1, False), Models(value_model=True), "zero2", 1)
    assert with_values == pytest.approx(36e9)
    recomputed = run_bytes(size, Batch(1, 1, True), Models(value_model=True), "zero2", 1)
    assert recomputed == pytest.approx(34e9)


def test_the_table_adds_reference_and_value_model() -> None:
    size = ModelSize(1_000_000_000, 1, 1, 1, 1_000_000_000, NOTHING)
    plain = memory_table(size, Batch(1, 1, True))
    assert next(iter(plain.columns[1].cells)) == "16.0"
    both = memory_table(size, Batch(1, 1, True), Models(references=1, value_model=True, replica=True))
    assert next(iter(both.columns[1].cells)) == "38.0"  # 2 x 16, 4 of the reference, 2 of the copy
    assert list(plain.columns[4].cells) == ["16.0", "5.5", "10.0"]  # 2 of an eighth, 8 of the one layer, as two
    assert list(both.columns[4].cells) == ["38.0", "17.0", "14.5"]


def test_the_fewest_gpus_leave_a_tenth_free() -> None:
    size = ModelSize(1_125_000_000, 1000, 1, 1, 1_125_000_000, NOTHING)  # 18 GB of states
    table = fitting_table(size, Batch(1, 1, True))
    assert [list(column.cells) for column in table.columns[1:]] == [
        ["1 GPU", "1 GPU", "1 GPU"] for _ in (24, 40, 80, 141)
    ]
    table = fitting_table(replace(size, parameters=2_000_000_000, trained=2_000_000_000), Batch(1, 1, True))
    assert [list(column.cells) for column in table.columns[1:]] == [
        ["no", "2 GPUs", "2 GPUs"],  # 32 GB; zero2: 8 + 24 / 2; fsdp: 16
        *(["1 GPU"] * 3 for _ in (40, 80, 141)),
    ]


def test_the_shipped_7b_recipes_fit_eight_gpus_of_80_gb() -> None:
    size = model_size("Qwen/Qwen2.5-Math-7B")
    runs = {
        "grpo": (Batch(4, 4096, True), Models(references=1, replica=True)),
        "ppo": (Batch(2, 4096, True), Models(references=1, value_model=True, replica=True)),
        "dpo": (Batch(2, 6144, True), Models(references=1)),
        "sft": (Batch(1, 8192, True), Models()),
    }
    for name, (batch, models) in runs.items():
        held = run_bytes(size, batch, models, "zero3, fsdp", 8) / 1e9
        assert held < 72, (name, held)


@pytest.mark.slow
@pytest.mark.parametrize(("program", "most"), [("sft", 1.25), ("grpo", 1.35)])
def test_the_forecast_is_what_a_process_takes(tmp_path: Path, program: str, most: float) -> None:
    """By the resident set of two steps of a model of 14 million parameters (benchmarks/memory.py).

    GRPO's was 1.27 before its prompts were counted in the forecast.
    """
    size = {"vocab_size": 20_000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8}
    model = random_model(tmp_path / "model", size | {"num_attention_heads": 4, "num_key_value_heads": 2})
    for checkpointing in (False, True):
        found = in_a_process(model, 4, 512, program=program, checkpointing=checkpointing, precision="bf16")
        assert 0.75 < found["ratio"] < most, found
