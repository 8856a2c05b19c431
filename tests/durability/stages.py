"""Small runs of every stage, each in a forked process: started on request, recorded, or killed.

    python -m tests.durability.stages FOLDER          # then one JSON request a line; answers are JSON lines

Requests: ``{"prepare": name}`` writes the inputs of a stage to ``FOLDER/<stage>/``, ``{"stage": name, "run": folder,
"record": store or null}`` runs it. The answer is ``{"pid": n}`` at once and, at the end, ``{"status": exit status or
-signal, "said": output}``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import trl  # noqa: F401 - imported once, for all forks

from selfcorrect.chat import ChatCodec
from selfcorrect.data_gen.output.exports import WRITERS, export, push_to_hub
from selfcorrect.data_gen.pipeline import GenRecipe, PairQuota, Quota
from selfcorrect.data_gen.pipeline import run as run_gen
from selfcorrect.engines import EngineRecipe
from selfcorrect.engines.scripted import ScriptedEngine
from selfcorrect.eval.page.page import write_report
from selfcorrect.eval.run import EvalRecipe, regrade
from selfcorrect.eval.run import run as run_eval
from selfcorrect.eval.tables.make import make
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs import jsonl
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.train import dpo, grpo, orm, ppo, sft
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.recipe import RlRecipe
from tests.conftest import make_tokenizer
from tests.data_gen.worlds import World, grade, write_problems
from tests.durability.disk import Recorder
from tests.train.conftest import make_guesser, make_recipe, make_tiny_model, write_prompts

BASE = Path(sys.argv[1]) if __name__ == "__main__" else Path()
GEN, EVAL = "gen", "eval"


def codec() -> ChatCodec:
    return ChatCodec(make_tokenizer())


def gen(run: Path) -> None:
    recipe = GenRecipe(
        problems=ProblemsRecipe(source=str(BASE / "toy.jsonl"), count=30), prompts=10, attempts=6, false_verdicts=4,
        quota=Quota(6, 4, 6), preferences=PairQuota(3, 2, 2), baselines=True, max_tokens=120,
    )  # fmt: skip
    run_gen(recipe, run, engine=ScriptedEngine(World(judges=0.7), codec()), codec=codec(), grade=grade)


def evaluate(run: Path) -> None:
    engine = EngineRecipe(model=str(BASE / "guesser" / "checkpoints" / "ift"))
    problems = ProblemsRecipe(source=str(BASE / "prompts.jsonl"))
    recipe = EvalRecipe(row="row", temperature=1.0, seeds=(0, 1, 2), engine=engine, problems=problems, max_tokens=48)
    run_eval(recipe, run)


def train_sft(run: Path) -> None:
    recipe = sft.SftRecipe(
        model=str(BASE / "tiny"),
        epochs=3,
        batch_rows=4,
        save_every=2,
        log_every=1,
        precision="fp32",
        learning_rate=1e-2,
    )
    sft.run(recipe, run)


def train_dpo(run: Path) -> None:
    recipe = dpo.DpoRecipe(
        model=str(BASE / "guesser" / "checkpoints" / "ift"), pairs=None, iterations=2, problems_per_iteration=4,
        generations=4, validation=2, max_tokens=48, epochs=2, batch_pairs=2, precision="fp32", learning_rate=1e-3,
        save_every=1,
    )  # fmt: skip
    dpo.run(recipe, run)


def train_orm(run: Path) -> None:
    recipe = orm.OrmRecipe(
        model=str(BASE / "tiny"), epochs=3, batch_rows=8, learning_rate=1e-2, precision="fp32", validation=0.2
    )
    orm.run(recipe, run)


def train_grpo(run: Path) -> None:
    shared = {field.name: getattr(make_recipe(BASE / "guesser"), field.name) for field in fields(GrpoRecipe)}
    grpo.run(GrpoRecipe(**shared | {"steps": 4, "save_every": 1}), run)


def train_ppo(run: Path) -> None:
    shared = {field.name: getattr(make_recipe(BASE / "guesser"), field.name) for field in fields(RlRecipe)}
    own = {"name": "ppo", "updates": 2, "beta": 0.05, "generations": 4, "lam": 0.95}
    ppo.run(ppo.PpoRecipe(**shared | own | {"steps": 3, "save_every": 1}, value_learning_rate=3e-3), run)


def export_all(run: Path) -> None:
    export(run, list(WRITERS), codec())


def report(run: Path) -> None:
    write_report(run)
    for name in ("budget", "calibration", "table4", "figure2"):
        make(name, [run])


def regrade_row(run: Path) -> None:
    regrade(run / "eval" / "row")


def push(run: Path) -> None:
    os.environ["HF_TOKEN"] = "hf_test"
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_OFFLINE = False
    push_to_hub(run, "me/mine", endpoint=(run / "endpoint").read_text())


STAGES: dict[str, Callable[[Path], None]] = {
    GEN: gen, EVAL: evaluate, "sft": train_sft, "dpo": train_dpo, "orm": train_orm, "grpo": train_grpo,
    "ppo": train_ppo, "export": export_all, "report": report, "regrade": regrade_row, "push": push,
}  # fmt: skip
BEHIND = {"export": GEN, "push": GEN, "report": EVAL, "regrade": EVAL}
"""Stages that read what another one has finished."""


def prepare(stage: str) -> None:
    """Write the inputs of a stage to ``BASE/<stage>``, with the models that it needs, unless they are there."""
    if (BASE / stage).exists():
        return
    write_problems(BASE / "toy.jsonl")
    write_prompts(BASE / "prompts.jsonl")
    if stage in BEHIND:
        prepare(BEHIND[stage])
        shutil.copytree(BASE / BEHIND[stage], BASE / stage)
        STAGES[BEHIND[stage]](BASE / stage)
        return
    if stage != GEN:
        _models()
        rows = list(read_jsonl(BASE / "guesser" / "data" / "sft" / "self-rewarding.jsonl"))
        for place, row in enumerate(rows):
            row |= {"problem_id": row["id"][:2], "first": "wrong" if place % 2 else "right"}
        (BASE / stage / "data" / "sft").mkdir(parents=True)
        (BASE / stage / "data" / "sft" / "self-rewarding.jsonl").write_text("".join(map(_line, rows)))
    write_prompts(BASE / stage / "data" / "prompts.jsonl")


def _models() -> None:
    if not (BASE / "guesser").exists():
        make_guesser(BASE / "guesser", make_tiny_model(BASE / "tiny", make_tokenizer()), codec())


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def forked(work: Callable[[], None]) -> tuple[int, Path]:
    """Do work in a forked process; return its id and the file of what it says."""
    handle, said = tempfile.mkstemp()
    if pid := os.fork():
        os.close(handle)
        return pid, Path(said)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - the parent reads what it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def awaited(pid: int, said: Path) -> dict[str, Any]:
    """Return how a forked process ended, and what it said."""
    _, status = os.waitpid(pid, 0)
    text = said.read_text(errors="replace")
    said.unlink()
    return {"status": os.waitstatus_to_exitcode(status), "said": text[-4000:]}


def work_of(request: dict[str, Any]) -> Callable[[], None]:
    def work() -> None:
        torch.set_num_threads(1)
        if "prepare" in request:
            prepare(request["prepare"])
            return
        run = Path(request["run"])
        recorder = Recorder(run, Path(request["record"])) if request.get("record") else None
        if recorder:
            jsonl.SYNC_EVERY_S = 0.0  # a disk for every line
        STAGES[request["stage"]](run)
        if recorder:
            recorder.save()

    return work


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not stand among the answers

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    for line in sys.stdin:
        request = json.loads(line)
        pid, said = forked(work_of(request))
        answer({"pid": pid})
        answer(awaited(pid, said))


if __name__ == "__main__":
    main()
