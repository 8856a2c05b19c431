# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["selfcorrect[vllm,report]"]
#
# [tool.uv.sources]
# selfcorrect = { path = "..", editable = true }
# ///
"""Table 3 of the paper as one list of commands: print it, or run it on a rented machine. docs/reproduce.md explains it.

    uv run examples/paper_plan.py                        # print the commands
    uv run examples/paper_plan.py --smoke --go           # the same way on the embedded model, in a minute or two: first
    uv run examples/paper_plan.py --go                   # run them; the same line again resumes where it stopped
    uv run examples/paper_plan.py --gpus 1 --stage2 grpo # with LoRA on one GPU
    uv run examples/paper_plan.py --stage2 ppo

Without uv: `python examples/paper_plan.py` in an environment that has selfcorrect. The paper's plan has not been run.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time

BENCHMARKS = ("math500", "olympiadbench", "minerva_math")
LABELS = {
    "ppo": "Self-rewarding IFT + PPO w correctness",
    "dpo": "Self-rewarding IFT + DPO w correctness",
    "grpo": "Self-rewarding IFT + GRPO w correctness",  # not in the paper's table
}
LORA = ["lora.rank=32", "lora.alpha=64", "lora.targets=all-linear"]


def paper(run: str, gpus: int, stage2: str) -> list[list[str]]:
    """Return the commands of Qwen2.5-Math-7B: data, IFT, stage 2, three benchmarks for each model, the table."""
    into, ift = ["--run", run], f"{run}/checkpoints/ift"
    many = gpus > 1
    engine = ["--engine", "ray", f"engine.replicas={gpus}", "engine.replica=vllm", "engine.actor.num_gpus=1"]
    sampler = engine if many else ["--engine", "vllm"]
    extra = {
        "ppo": ["beta=0", "critic=head", "micro_rows=1"],
        "grpo": ["beta=0", "micro_rows=1"],
        "dpo": ["iterations=5"],
    }
    lora, alone = ([], []) if many else (LORA, ["micro_rows=1"])
    sharded = ["--launch", "fsdp"] if many else []  # by the planner nothing less fits on 8 GPUs of 80 GB
    steps = [
        ["gen", "qwen2.5-math-7b", *sampler, "schedule=adaptive", "prompts=100000", *into],
        ["train", "sft", "qwen2.5-math-7b-sft", *lora, *alone, *sharded, *into],
        ["train", stage2, f"qwen2.5-math-7b-{stage2}", f"model={ift}", *extra[stage2], *lora, *sharded, *into],
    ]
    for name, label in (("ift", "Self-rewarding IFT"), (stage2, LABELS[stage2])):
        for benchmark in BENCHMARKS:
            model = [f"engine.model={run}/checkpoints/{name}", f"row={benchmark}-{name}", f"label={label}"]
            steps.append(["eval", benchmark, *sampler, *model, *into])
    return [*steps, ["report", "table3", run]]


def smoke(run: str, stage2: str) -> list[list[str]]:
    """Return the same way on the model that comes with the package: does everything that the plan needs work here?"""
    into = ["--run", run]
    small = {
        "grpo": ["steps=2", "prompts_per_step=4", "generations=4", "guard.max_turn1_drop=null"],
        "ppo": ["steps=2", "prompts_per_step=4", "guard.max_turn1_drop=null"],
        "dpo": ["iterations=1", "prompts=data/prompts.jsonl"],
    }
    model, quota = f"model={run}/checkpoints/ift", "quota={d1: 12, d2: 6, d3: 12}"
    return [
        ["gen", "embedded", "problems.count=48", "prompts=16", quota, "baselines=false", *into],
        ["train", "sft", "embedded-sft", "epochs=1", *into],
        ["train", stage2, f"embedded-{stage2}", model, *small[stage2], *into],
        *(["eval", "embedded", f"engine.{model[:-3]}{name}", f"row={name}", "problems.count=24", *into]
          for name in ("ift", stage2)),
        ["report", "html", run],
    ]  # fmt: skip


def main() -> int:
    """Print the plan or run it; the exit code is that of the step that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="the run folder (default: runs/paper, runs/smoke)")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of this machine (default: 8)")
    parser.add_argument("--stage2", choices=tuple(LABELS), default="grpo", help="after IFT (default: grpo)")
    parser.add_argument("--smoke", action="store_true", help="the same way on the embedded model")
    parser.add_argument("--go", action="store_true", help="run the commands")
    options = parser.parse_args()
    run = options.run or ("runs/smoke" if options.smoke else "runs/paper")
    steps = smoke(run, options.stage2) if options.smoke else paper(run, options.gpus, options.stage2)
    for number, words in enumerate(steps, 1):
        shown = shlex.join(["selfcorrect", *words])
        if not options.go:
            print(shown)
            continue
        print(f"== {number} of {len(steps)}: {shown}", file=sys.stderr, flush=True)
        begun = time.monotonic()
        ended = subprocess.run([sys.executable, "-m", "selfcorrect", *words])
        print(f"== exit code {ended.returncode} after {time.monotonic() - begun:,.0f} s", file=sys.stderr, flush=True)
        if ended.returncode:
            print("== the same line again goes on from here: what is done is not done again", file=sys.stderr)
            return ended.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
