"""The planner's forecast against the memory that a process took, on this CPU, by models of random weights.

    python benchmarks/memory.py                                   # 30 and 135 million parameters, SFT and GRPO
    python benchmarks/memory.py --sizes 30m --programs sft --precision fp32

Each case is a process of its own: two optimizer steps on rows of random tokens, all of one length (GRPO's have a prompt
before them, which the forecast counts by the longest), so that in the second step weights, gradients, moments and
activations are there at once. Measured is the most that the process had resident beyond what it had before the model
was read; freed memory is given back at once (MALLOC_MMAP_THRESHOLD_).
Attention is SDPA, as on a GPU. The forecast is `train.common.memory.run_bytes`, with the tile of the CPU's head.
GRPO's rollouts are written by no model: the sampler's memory is not in the forecast.
The last line is JSON for machines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.problems.arithmetic import problems
from selfcorrect.runs.jsonl import write_jsonl
from selfcorrect.train import grpo, sft
from selfcorrect.train.common.lean_cpu import TILE_WORDS
from selfcorrect.train.common.memory import Batch, Models, model_size, run_bytes
from selfcorrect.train.common.stage import quiet_libraries
from selfcorrect.train.data.rows import load_sft_data
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.rollout_function import RolloutFunction, problem_order
from selfcorrect.train.rl.rollouts import prompt_lengths
from selfcorrect.train.sft import SftRecipe
from selfcorrect.types import Problem

SIZES = {
    "30m": {"vocab_size": 32_000, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8,
            "num_attention_heads": 6, "num_key_value_heads": 2},
    "135m": {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3},
}  # fmt: skip
ROWS, TOKENS = 4, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--programs", nargs="+", choices=("sft", "grpo"), default=["sft", "grpo"])
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measured(**arguments.worker)))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            model = random_model(Path(folder) / size, SIZES[size])
            for program in arguments.programs:
                for checkpointing in (False, True):
                    case = {"program": program, "checkpointing": checkpointing, "precision": arguments.precision}
                    row = in_a_process(model, arguments.rows, arguments.tokens, **case)
                    found.append({"size": size} | case | row)
                    print(json.dumps(found[-1]), flush=True)
    Console().print(table_of(found, arguments.rows, arguments.tokens))
    print(json.dumps({"rows": arguments.rows, "tokens": arguments.tokens, "cases": found}))


def random_model(folder: Path, size: dict[str, int]) -> Path:
    """Write a Qwen-shaped model of random weights with the embedded model's tokenizer; return its folder."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = ChatCodec.load("embedded").tokenizer
    torch.manual_seed(0)
    config = Qwen2Config(
        **size, max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def in_a_process(model: Path, rows: int, tokens: int, **case: Any) -> dict[str, float]:
    """Return a case's forecast and measured peak in MB, and how they compare."""
    told = json.dumps({"model": str(model), "rows": rows, "tokens": tokens, **case})
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--worker", told], check=True, env=environment, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(model: str, program: str, checkpointing: bool, precision: str, rows: int, tokens: int) -> dict[str, float]:
    """Train two steps here and return forecast and peak."""
    shared: dict[str, Any] = {
        "model": model,
        "precision": precision,
        "attention": "sdpa",
        "trainer": {"gradient_checkpointing": checkpointing, "save_strategy": "no"},
    }
    size = model_size(model, bf16=precision == "bf16")
    prompt = max(prompt_lengths(learned_from(), ChatCodec.load(model)).values()) if program == "grpo" else 0
    # The planner's sum is of a GPU's head, whose tiles are larger.
    forecast = run_bytes(
        size, Batch(rows, prompt + tokens, checkpointing), Models(), "one GPU, or DDP", 1, tile=(4096, TILE_WORDS)
    )
    with tempfile.TemporaryDirectory() as name, quiet_libraries():
        build = {"sft": sft_of, "grpo": grpo_of}[program]
        before = peak_mb(reset=True)
        trainer = build(shared, rows, tokens, Path(name))
        trainer.train()
        peak = peak_mb() - before
    assert trainer.state.global_step == 2
    return {"forecast_mb": round(forecast / 1e6), "peak_mb": round(peak), "ratio": round(peak * 1e6 / forecast, 2)}


def sft_of(shared: dict[str, Any], rows: int, tokens: int, folder: Path) -> Any:
    """Return a fine-tuning of two steps; of each row a tenth is prompt."""
    recipe = SftRecipe(**shared, epochs=1.0, batch_rows=rows, max_tokens=tokens)
    draw = torch.Generator().manual_seed(0)
    lines = []
    for row, ids in enumerate(torch.randint(10, 700, (2 * rows, tokens), generator=draw).tolist()):
        ends = [0, tokens // 10, tokens]
        spans = [
            {"role": role, "start": start, "end": end, "sampled": learn, "learn": learn}
            for role, start, end, learn in zip(("external", "attempt"), ends, ends[1:], (False, True), strict=False)
        ]
        lines.append({"id": f"{row}", "kind": "D3", "token_ids": ids, "spans": spans})
    write_jsonl(folder / "rows.jsonl", lines)
    codec = ChatCodec.load(recipe.model)
    return sft.build_trainer(recipe, codec, load_sft_data(folder / "rows.jsonl", codec, max_tokens=tokens), folder)


def grpo_of(shared: dict[str, Any], rows: int, tokens: int, folder: Path) -> Any:
    """Return a GRPO of two rollouts of two groups, in two micro-batches, each of which teaches."""
    recipe = GrpoRecipe(
        **shared, steps=2, prompts_per_step=2, generations=rows, micro_rows=rows, max_tokens=tokens,
        zero_variance="keep", max_logprob_gap=1e9,
    )  # fmt: skip
    codec = ChatCodec.load(recipe.model)
    chosen = problem_order(recipe, learned_from())
    return grpo.build_trainer(recipe, RolloutFunction(recipe, codec, chosen, RandomTokens(tokens)), folder)


def learned_from() -> list[Problem]:
    """Return the problems of the two rollouts."""
    return problems("train", 4, seed=0)


class RandomTokens:
    """Writes as many random tokens as are allowed; follows no model."""

    context = 4096

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def follow(self, model: Any) -> None:
        """Look away."""

    def close(self) -> None:
        """Nothing is held."""

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return one sample a request."""
        return [self._sample(torch.Generator().manual_seed(request.seed % 2**63)) for request in requests]

    def _sample(self, draw: torch.Generator) -> Sample:
        ids = torch.randint(10, 700, (self.tokens,), generator=draw).tolist()
        return Sample(tuple(ids), (-7.0,) * len(ids), "length")


def peak_mb(reset: bool = False) -> float:
    """Return the most memory that this process had resident since the last reset; Linux. Reset: what it has now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def table_of(found: Sequence[dict[str, Any]], rows: int, tokens: int) -> Table:
    """Return the cases as a table."""
    table = Table(title=f"MB, {rows} x {tokens} tokens, {found[0]['precision']}")
    for column in ("model", "program", "checkpointing", "forecast", "measured", "measured / forecast"):
        table.add_column(column, justify="right" if column[0] in "fm" and column != "model" else "left")
    for row in found:
        table.add_row(
            row["size"], row["program"], "yes" if row["checkpointing"] else "no", f"{row['forecast_mb']:,}",
            f"{row['peak_mb']:,}", f"{row['ratio']:.2f}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
