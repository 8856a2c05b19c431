"""A real LLM learns to judge and correct itself: SmolLM2-135M-Instruct on worded sums, gen, IFT, GRPO and controls.

The model solves next to none of these problems as it comes, so it first learns from worked solutions of other
problems: of three sizes, the one whose model solves nearest to half of the validation problems (``solver``). None of
these rows holds a verdict or a revision: what it knows of those when `gen` begins are the worked chats that are shown
while sampling (``examples: worded``). Then the method: its own attempts, self-evaluations and revisions, kept where
verdict and grade agree; IFT; GRPO with the correctness of the last answer. Everything is chosen on validation
problems; the test problems are looked at once, by the rows recorded last.

``--small`` runs the same lines on the embedded model. Needs ``.models/smollm2`` (benchmarks/fetch_smollm2.py), or its
GGUF file in pieces (`assemble`).
"""

from __future__ import annotations

import json
import lzma
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu import worded
from benchmarks.gpu.organism import timed
from benchmarks.gpu.results import options, record, short
from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.problems.arithmetic import problems
from selfcorrect.prompts import solve_messages
from selfcorrect.training_row import LearnedSpan
from selfcorrect.types import Role

MODEL = Path(".models/smollm2")
PIECES = ".gguf*/piece-*"
"""Of the GGUF file, compressed by xz, where it has to be brought along in parts."""


def main() -> None:
    """Make the problems and the solver, run the stages, record the rows."""
    out, small = options(__doc__)
    run = out / "smollm"
    if not small:
        assemble()
    sizes = {"solutions": 64, "train": 40, "validation": 16, "test": 16} if small else {
        "solutions": 3200, "train": 3000, "validation": 200, "test": 1000,
    }  # fmt: skip
    worded.write(run / "problems", sizes, worded.Drawn(0, worded.LEVELS))
    if small:  # of the kind that the embedded model knows
        for name in ("train", "test"):
            rows = [{"question": p.question, "answer": p.gold} for p in problems(name, sizes[name], seed=0)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (run / "problems" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    solver = make_solver(out, run, Path(model_path("embedded")) if small else MODEL, small)
    stages(out, run, solver, small)


def assemble() -> None:
    """Make the model folder from the pieces of its GGUF file, where there is none."""
    if (MODEL / "model.safetensors").exists():
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    MODEL.mkdir(parents=True, exist_ok=True)
    file = MODEL / "model.gguf"
    file.write_bytes(lzma.decompress(b"".join(piece.read_bytes() for piece in sorted(Path().glob(PIECES)))))
    tokenizer = AutoTokenizer.from_pretrained(MODEL, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        MODEL, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    file.unlink()
    tokenizer.save_pretrained(MODEL)
    model.save_pretrained(MODEL)


# --- the solver -------------------------------------------------------------------------------------------------


def make_solver(out: Path, run: Path, start: Path, small: bool) -> Path:
    """Teach a model to solve, on few and on many rows; return the folder of the one nearest to half right."""

    def learn(rows: int) -> tuple[float, Path]:
        data, name = write_solutions(run, ChatCodec.load(str(start)), rows), f"solver-{rows}"
        timed(
            out, run, name, "train", "sft", "smollm2-sft", f"model={start}", f"name={name}", f"data={data}",
            "epochs=2", "batch_rows=16", "micro_rows=16", "learning_rate=5e-5",
        )  # fmt: skip
        model = run / "checkpoints" / name
        return accuracy(out, run, name, model)["turn1"], model

    with ThreadPoolExecutor() as side_by_side:
        tried = list(side_by_side.map(learn, (8, 16) if small else (400, 1200, 3200)))
    return min(tried, key=lambda found: abs(found[0] - 50))[1]


def accuracy(out: Path, run: Path, name: str, model: Path) -> dict[str, Any]:
    """Return the scores of first attempts at the validation problems, sampled as `gen` samples them."""
    problems = run / "problems" / "validation.jsonl"
    return evaluate(out, run, f"val-{name}", "single-turn", model, problems, "temperature=1.0", "seeds=[0]")


def write_solutions(run: Path, codec: ChatCodec, count: int) -> Path:
    """Write the first worked solutions as training rows; return the file, relative to the run folder."""
    lines = []
    for place, line in enumerate(
        (run / "problems" / "solutions.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    ):
        row = json.loads(line)
        opening = codec.opening(solve_messages(row["question"]))
        answer = (*codec.encode(row["worked"]), codec.turn_end)
        end = len(opening) + len(answer)
        spans = [
            LearnedSpan(Role.EXTERNAL, 0, len(opening), sampled=False, learn=False),
            LearnedSpan(Role.ATTEMPT, len(opening), end, sampled=False, learn=True),
        ]
        written = [
            {"role": span.role, "start": span.start, "end": span.end, "sampled": span.sampled, "learn": span.learn}
            for span in spans
        ]
        lines.append(json.dumps({"id": f"s{place}", "kind": "D3", "token_ids": [*opening, *answer], "spans": written}))
    path = Path("data") / f"solutions-{count}.jsonl"
    (run / "data").mkdir(exist_ok=True)
    (run / path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# --- the method -------------------------------------------------------------------------------------------------


def stages(out: Path, run: Path, solver: Path, small: bool) -> None:
    """Run gen, IFT, GRPO and the evaluations; what waits for nothing runs side by side."""
    train, test = run / "problems" / "train.jsonl", run / "problems" / "test.jsonl"
    count = ["problems.count=30", "prompts=8", "quota.d1=2", "quota.d2=0", "quota.d3=2"] if small else [
        "problems.count=1500", "prompts=720", "quota.d1=200", "quota.d2=50", "quota.d3=200",
    ]  # fmt: skip
    timed(
        out, run, "gen", "gen", "smollm2-gsm8k", f"engine.model={solver}", "engine.max_batch=768",
        "engine.dtype=bfloat16", "engine.threads=null", f"problems.source={train}", *count,
        f"examples={'' if small else 'worded'}", "attempts=3", "evaluations=3",
        "revisions=3", "cap_per_problem=2", "temperature=1.0", "max_tokens=48", "pilot=0", "match=difficulty",
    )  # fmt: skip
    with ThreadPoolExecutor() as side_by_side:
        rows = [
            side_by_side.submit(evaluate, out, run, "solver-asked", "asked", solver, test),
            side_by_side.submit(evaluate, out, run, "solver-intrinsic", "intrinsic", solver, test),
            side_by_side.submit(evaluate, out, run, "solver-gold", "gold", solver, test),
        ]
        timed(
            out, run, "ift", "train", "sft", "smollm2-sft", f"model={solver}", "epochs=3", "batch_rows=16",
            "micro_rows=16", "learning_rate=5e-5",
        )  # fmt: skip
        ift = run / "checkpoints" / "ift"
        rows.append(side_by_side.submit(evaluate, out, run, "ift", "self-rewarding", ift, test))
        for row in rows:  # before the long stage, which may be cut
            row.result()
        steps = ["steps=1", "prompts_per_step=2"] if small else ["steps=30", "prompts_per_step=24"]
        timed(
            out, run, "grpo", "train", "grpo", "embedded-grpo", f"model={ift}", *steps, "max_tokens=160",
            "learning_rate=2e-5", "micro_rows=64", "max_batch=512", "save_every=20", "guard.action=warn",
        )  # fmt: skip
    evaluate(out, run, "grpo", "self-rewarding", run / "checkpoints" / "grpo", test)


def evaluate(out: Path, run: Path, row: str, method: str, model: Path, file: Path, *settings: str) -> dict[str, Any]:
    """Evaluate a model on a file of problems; record and return its scores."""
    timed(
        out, run, f"eval {row}", "eval", "gsm8k", f"row={row}", f"label={row}", f"method={method}",
        f"engine.model={model}", "engine.dtype=bfloat16", "engine.max_batch=512", f"problems.source={file}",
        f"problems.name={file.stem}", "max_tokens=160", *settings,
    )  # fmt: skip
    scores: dict[str, Any] = json.loads((run / "eval" / row / "scores.json").read_text(encoding="utf-8"))
    record(out, "smollm", row=row, scores=short(scores))
    return scores


if __name__ == "__main__":
    main()
