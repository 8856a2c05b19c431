"""A larger organism: the embedded model's corpus and recipes at thirty times its size, with its table.

A Llama of 34 M parameters is pre-trained on the spot on the corpus of `selfcorrect.train.embedded`: the skills, then
the two stretches of styles, in bf16. Then the shipped recipes, with this model in the place of the embedded one.
``--small`` takes a few steps from the first edition's weights instead.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu.results import device, options, record, short
from selfcorrect.chat import model_path
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.shipped import PACKAGE
from selfcorrect.train.embedded.pretrain import PretrainRecipe, copy_tokenizer, tokenize, write_corpus

STRETCHES = {"pretrain": 6e-4, "styles-pretrain": 3e-4, "hurried-pretrain": 3e-4}
"""The shipped recipes whose corpora are learned in turn, and the peak of the learning rate for each."""


WIDE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10, "head_dim": 64}
WIDE |= {"num_attention_heads": 8, "num_key_value_heads": 8}


def main() -> None:
    """Pre-train, then run the stages; record each stage's seconds and each row's scores."""
    out, small = options(__doc__)
    run = out / "organism"
    folder = run / "base"
    started = time.monotonic()
    parameters = pretrain(folder, small)
    record(out, "organism", parameters=parameters, pretrain_s=round(time.monotonic() - started))
    stages(out, run, folder, small)


# --- pre-training -----------------------------------------------------------------------------------------------


def pretrain(folder: Path, small: bool) -> int:
    """Write the pre-trained model into a folder and return its number of parameters."""
    copy = folder / "model"
    copy.mkdir(parents=True, exist_ok=True)
    copy_tokenizer("embedded-1", copy)
    start = model_path("embedded-1")
    wide = LlamaConfig.from_pretrained(start).to_dict() | WIDE
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM.from_pretrained(start) if small else LlamaForCausalLM(LlamaConfig.from_dict(wide))
    model.to(device())
    for name, peak in STRETCHES.items():
        stretch(model, corpus(name, folder, small), peak, name)
    model.save_pretrained(copy)
    return sum(parameter.numel() for parameter in model.parameters())


def corpus(name: str, folder: Path, small: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, loss weights and offsets of a shipped recipe's conversations."""
    recipe = load_recipe(PretrainRecipe, PACKAGE / "train" / "recipes" / f"{name}.yaml")
    if small:
        recipe = replace(recipe, phases=tuple({**phase, "conversations": 200} for phase in recipe.phases))
    conversations = write_corpus(recipe, folder / f"{name}.jsonl")
    tokenize(conversations, recipe, folder / "model", folder / f"{name}.npz")
    read = np.load(folder / f"{name}.npz")
    return read["ids"], read["weights"], read["offsets"]


def stretch(model: Any, data: tuple[np.ndarray, np.ndarray, np.ndarray], peak: float, name: str) -> None:
    """Train once through a corpus: AdamW, a short warm-up, a cosine to a tenth of the peak."""
    ids, weights, offsets = data
    batches = list(batched(np.diff(offsets), most_tokens=16_384))
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    model.train()
    for step, rows in enumerate(batches):
        rate = peak * min(1.0, (step + 1) / 50) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / len(batches))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = weighted_loss(model, *padded(ids, weights, offsets, rows))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == len(batches) - 1:
            print(f"{name} {step}/{len(batches)} loss {loss.item():.3f}", flush=True)


def batched(lengths: np.ndarray, most_tokens: int) -> Iterator[list[int]]:
    """Yield batches of conversations of like length, in random order: each at most so many tokens with its padding."""
    order = sorted(range(len(lengths)), key=lambda row: int(lengths[row]))
    batches: list[list[int]] = [[]]
    for row in order:
        if (len(batches[-1]) + 1) * int(lengths[row]) > most_tokens:
            batches.append([])
        batches[-1].append(row)
    random.Random(0).shuffle(batches)
    yield from batches


def padded(
    ids: np.ndarray, weights: np.ndarray, offsets: np.ndarray, rows: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and loss weights of some conversations, padded on the right."""
    parts = [(ids[offsets[row] : offsets[row + 1]], weights[offsets[row] : offsets[row + 1]]) for row in rows]
    width = max(len(part) for part, _ in parts)
    ids_BT = np.zeros((len(parts), width), np.int64)
    weights_BT = np.zeros((len(parts), width), np.float32)
    for place, (part, weight) in enumerate(parts):
        ids_BT[place, : len(part)], weights_BT[place, : len(part)] = part, weight
    return torch.from_numpy(ids_BT).to(device()), torch.from_numpy(weights_BT).to(device())


def weighted_loss(model: Any, ids_BT: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of the tokens' negative log-likelihoods."""
    with torch.autocast(device().type, torch.bfloat16):
        logits = model(ids_BT).logits[:, :-1].float()
    losses = F.cross_entropy(logits.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
    wanted = weights_BT[:, 1:].flatten()
    return (losses * wanted).sum() / wanted.sum()


# --- the stages -------------------------------------------------------------------------------------------------


def stages(out: Path, run: Path, folder: Path, small: bool) -> None:
    """Run gen, IFT, GRPO and the evaluations by the command line; rows that wait for nothing run side by side."""
    base = f"engine.model={folder / 'model'}"
    count = "problems.count=20" if small else "problems.count=1000"
    few = [count, "prompts=20", "quota.d1=2", "quota.d2=0", "quota.d3=2", "match=none"] if small else []
    short = ["steps=1", "prompts_per_step=2"] if small else []
    timed(out, run, "gen", "gen", "embedded", base, *few)
    with ThreadPoolExecutor() as side_by_side:
        waiting = [
            side_by_side.submit(evaluate, out, run, "asked", "asked", base, count),
            side_by_side.submit(evaluate, out, run, "intrinsic", "intrinsic", base, count),
        ]
        timed(out, run, "sft", "train", "sft", "embedded-sft", f"model={folder / 'model'}")
        ift = run / "checkpoints" / "ift"
        waiting.append(side_by_side.submit(evaluate, out, run, "ift", "self-rewarding", f"engine.model={ift}", count))
        timed(out, run, "grpo", "train", "grpo", "embedded-grpo", f"model={ift}", *short)
        grpo = run / "checkpoints" / "grpo"
        waiting.append(side_by_side.submit(evaluate, out, run, "grpo", "self-rewarding", f"engine.model={grpo}", count))
        for row in waiting:
            row.result()


def evaluate(out: Path, run: Path, row: str, method: str, *settings: str) -> None:
    """Evaluate one row and record its scores."""
    timed(out, run, f"eval {row}", "eval", "embedded", f"row={row}", f"method={method}", *settings)
    scores = json.loads((run / "eval" / row / "scores.json").read_text(encoding="utf-8"))
    record(out, run.name, row=row, scores=short(scores))


def timed(out: Path, run: Path, name: str, *command: str) -> None:
    """Run one public command; record its seconds. Raises CalledProcessError where it fails."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "selfcorrect", *command, "--run", str(run)], check=True)
    record(out, run.name, stage=name, seconds=round(time.monotonic() - started, 1))


if __name__ == "__main__":
    main()
