"""The CPU's shortcuts give what the library gives: attention, norms, log-probabilities, and their gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfcorrect.train.common import lean_cpu
from selfcorrect.train.common.models import load_model


def ragged(padding_side: str) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 200, (3, 12), generator=generator)
    mask = torch.ones_like(ids)
    for row, missing in enumerate((0, 4, 7)):
        if padding_side == "left":
            mask[row, :missing] = 0
        else:
            mask[row, 12 - missing :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def packed() -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(1)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1]])
    return {"input_ids": torch.randint(5, 200, (1, 12), generator=generator), "position_ids": positions}


@pytest.mark.parametrize("case", ["left", "right", "packed"])
@pytest.mark.parametrize("heads", [2, 1])
def test_lean_models_equal_eager_ones(tiny_model: Path, tmp_path: Path, case: str, heads: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path / "grouped"
    config = AutoConfig.from_pretrained(tiny_model, num_key_value_heads=heads)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    inputs = packed() if case == "packed" else ragged(case)
    labels = inputs["input_ids"].clone()
    labels[:, :3] = -100
    if "attention_mask" in inputs:
        labels[inputs["attention_mask"] == 0] = -100
    results = []
    for attention in ("eager", "lean"):
        model = load_model(str(folder), attention)
        model.train()
        if attention == "lean":
            log_probs, _ = lean_cpu.log_probs_of(model, inputs, labels, "entropy")
        else:
            logits = model(**inputs, use_cache=False).logits[:, :-1].log_softmax(-1)
            learned = labels[:, 1:] != -100
            log_probs = logits[learned].gather(1, labels[:, 1:][learned][:, None])[:, 0]
        log_probs.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert gradient.isfinite().all()
        results.append((log_probs.detach(), gradient))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-4)


def test_padding_is_harmless_in_bf16(tiny_model: Path) -> None:
    import torch

    model = load_model(str(tiny_model), "lean")
    inputs = ragged("left")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, _ = lean_cpu.log_probs_of(model, inputs, labels, "entropy")
    log_probs.sum().backward()
    assert log_probs.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_model_with_a_scaled_head_is_left_to_the_library(tiny_model: Path) -> None:
    model = load_model(str(tiny_model), "auto")
    assert model.config._attn_implementation == "lean"
    assert lean_cpu.has_plain_head(model)
    model.config.logit_scale = 0.5
    assert not lean_cpu.has_plain_head(model)


def test_rewriting_the_file_does_not_change_the_loaded_weights(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(tiny_model, folder)
    model = load_model(str(folder), "auto")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    weights = folder / "model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(bytes(size))
    assert all((old == new).all() for old, new in zip(before, model.parameters(), strict=True))
