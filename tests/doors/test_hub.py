"""`selfcorrect push` to a hub on loopback and to a folder: what was pushed loads back, and its card says what it is."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="comes with the extra train")

import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from selfcorrect.adapters.hub import publication
from selfcorrect.errors import InputError, RunFolderError
from selfcorrect.eval.results import read_row
from selfcorrect.problems.arithmetic import problems
from selfcorrect.train.common.model_card import base_on_hub
from tests.doors.page import ROOT, lines_of
from tests.loopback_hub import loopback_hub

pytestmark = pytest.mark.slow  # three minutes: a checkpoint is trained; make test-doors runs it
OFFLINE = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
OFFLINE |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
QUESTION = problems("test", 1, seed=0)[0].question


def said(*words: str, cwd: Path, env: dict[str, str], code: int = 0) -> str:
    ended = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert ended.returncode == code, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout + ended.stderr


def selfcorrect(*words: str, cwd: Path, env: dict[str, str] = OFFLINE, code: int = 0) -> str:
    return said(sys.executable, "-m", "selfcorrect", *words, cwd=cwd, env=env, code=code)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with runs/mine: a short IFT of the embedded model, two evaluations, a calibrated stop rule."""
    here = tmp_path_factory.mktemp("hub")
    (here / "sets").mkdir()
    rows = ({"question": p.question, "answer": f"so\n#### {p.gold}"} for p in problems("test", 6, seed=0))
    (here / "sets" / "gsm8k.test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = OFFLINE | {"SELFCORRECT_DATA": str(here / "sets")}
    stored, model = ["--run", "runs/mine"], "engine.model=runs/mine/checkpoints/ift"
    gen = ["gen", "embedded", "problems.count=250", "quota={d1: 48, d2: 12, d3: 48}", "baselines=false", "prompts=5"]
    selfcorrect(*gen, *stored, cwd=here, env=env)
    selfcorrect("train", "sft", "embedded-sft", "epochs=5", *stored, cwd=here, env=env)
    selfcorrect(
        "eval", "embedded", model, "row=ift", "label=ours | <b>", "problems.count=60", *stored, cwd=here, env=env
    )
    known = ["problems.source=gsm8k", "problems.split=test", "problems.count=6", "row=ift-gsm8k"]
    selfcorrect("eval", "embedded", model, *known, *stored, cwd=here, env=env)
    selfcorrect("eval", "calibrate", "calibration", model, "problems.count=150", *stored, cwd=here, env=env)
    return here


@pytest.fixture(scope="module")
def pushed(folder: Path) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """What the page's command sent: the environment in which the loopback hub is the hub, and what the hub holds."""
    with loopback_hub() as (endpoint, seen):
        env = OFFLINE | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
        env |= {"HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        said("bash", "-ec", lines_of("Hugging Face hub", "bash"), cwd=folder, env=env | {"OWNER": "me"})
        yield env, seen


def sent(seen: dict[str, Any], repo: str) -> dict[str, bytes]:
    return {name: base64.b64decode(content) for name, content in seen["repos"][repo].items()}


def test_a_checkpoint_goes_with_its_card_and_without_what_only_its_run_needs(folder: Path, pushed: Any) -> None:
    files, checkpoint = sent(pushed[1], "me/self-correcting"), folder / "runs/mine/checkpoints/ift"
    same = {name for name, content in files.items() if (checkpoint / name).is_file()} - {"README.md"}
    assert same >= {"model.safetensors", "config.json", "tokenizer.json", "recipe.yaml", "calibration.json"}
    assert all(files[name] == (checkpoint / name).read_bytes() for name in same)
    assert not {"DONE", "inputs.json", ".lock"} & files.keys()
    card = ModelCard(files["README.md"].decode())
    assert card.data.tags == ["self-correction", "sft", "selfcorrect"]
    assert card.data.base_model is None, "the embedded model is not on the hub"
    heads = [line for line in card.text.splitlines() if line.startswith("## ")]
    assert heads[:4] == ["## Use", "## Evaluation", "## Calibration", "## Data"]
    final = read_row(folder / "runs/mine/eval/ift").result.scores.final
    assert final.value is not None
    assert f"| {final.value:.1f} [{final.interval[0]:.1f} {final.interval[1]:.1f}] |" in card.text  # type: ignore[index]
    assert "ours \\| &lt;b>" in card.text
    assert 'stop="threshold"' in card.text
    assert ", cross-fitted |" in card.text


def test_turn_1_and_final_are_two_results_with_notes(folder: Path, pushed: Any) -> None:
    files = {name: text for name, text in sent(pushed[1], "me/self-correcting").items() if name.startswith(".eval")}
    assert set(files) == {".eval_results/ift-gsm8k.turn1.yaml", ".eval_results/ift-gsm8k.final.yaml"}
    scores = read_row(folder / "runs/mine/eval/ift-gsm8k").result.scores
    for part, measure, note in (
        ("turn1", scores.turn1, "first attempt, before self-correction"),
        ("final", scores.final, "after self-correction"),
    ):
        (entry,) = parse_eval_result_entries(yaml.safe_load(files[f".eval_results/ift-gsm8k.{part}.yaml"]))
        assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "main", measure.value)
        assert entry.notes
        assert entry.notes.startswith(f"{note}; method self-rewarding, at most 2 attempts, 6 of 1,319 problems")
        assert entry.date
        assert entry.date.startswith("20")


def test_it_loads_back_from_the_hub_and_answers_as_the_checkpoint_does(folder: Path, pushed: Any) -> None:
    env, _ = pushed
    ours = lines_of("Hugging Face hub", "python")
    from_hub = said(sys.executable, "-c", ours, cwd=folder, env=env)
    from_folder = said(
        sys.executable, "-c", ours.replace("me/self-correcting", "runs/mine/checkpoints/ift"), cwd=folder, env=OFFLINE
    )
    assert from_hub.splitlines()[0] == from_folder.splitlines()[0]
    plain = f"""
from selfcorrect.prompts import solve_messages
from transformers import pipeline
said = [pipeline("text-generation", name)(solve_messages({QUESTION!r}), max_new_tokens=200, do_sample=False)
        for name in ("me/self-correcting", "runs/mine/checkpoints/ift")]
assert said[0] == said[1], said
assert "boxed" in said[0][0]["generated_text"][-1]["content"], said
"""
    said(sys.executable, "-c", plain, cwd=folder, env=env)


def test_the_calibrated_stop_loads_with_a_hubs_model(folder: Path, pushed: Any) -> None:
    code = (
        "from selfcorrect import SelfCorrectModel\n"
        "from selfcorrect.correction import load_rule\n"
        "with SelfCorrectModel.load('me/self-correcting', stop='threshold') as model:\n"
        "    assert model.settings.rule == load_rule('runs/mine/checkpoints/ift')\n"
        f"    assert model.solve({QUESTION!r}).final.answer\n"
    )
    said(sys.executable, "-c", code, cwd=folder, env=pushed[0])


def test_the_data_set_loads_back(folder: Path, pushed: Any) -> None:
    code = (
        "from datasets import load_dataset\n"
        "rows = load_dataset('me/self-correction-data', 'self-rewarding', split='train')\n"
        "print('rows', len(rows), sorted(rows.column_names)[0])\n"
    )
    lines = (folder / "runs/mine/data/sft/self-rewarding.jsonl").read_text().splitlines()
    assert f"rows {len(lines)} " in said(sys.executable, "-c", code, cwd=folder, env=pushed[0])
    files = sent(pushed[1], "me/self-correction-data")
    data = folder / "runs/mine/data"
    assert files == {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}


def test_a_folder_takes_the_same_files_once(folder: Path, pushed: Any) -> None:
    checkpoint, out = "runs/mine/checkpoints/ift", folder / "out"
    selfcorrect("push", checkpoint, "--folder", "out", cwd=folder)
    hubs = sent(pushed[1], "me/self-correcting")
    written = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {name: text for name, text in written.items() if name != "README.md"} == {
        name: text for name, text in hubs.items() if name != "README.md"
    }
    assert written["README.md"].decode() == hubs["README.md"].decode().replace("me/self-correcting", "out")
    again = selfcorrect("push", checkpoint, "--folder", "out", cwd=folder, code=1)
    assert "out is there already" in again
    assert not list(folder.glob(".out*"))


def test_what_the_user_wrote_into_the_card_stays_and_pushing_twice_says_nothing_twice(folder: Path) -> None:
    copy = folder / "runs/mine/checkpoints/copy"
    shutil.copytree(folder / "runs/mine/checkpoints/ift", copy)
    readme = copy / "README.md"
    mine = readme.read_text().replace(
        "---\n\n# ift", "license: mit\n---\n\n# Mine\n\n## Use\n\nold words\n\n## Why\n\nBecause.\n"
    )
    readme.write_text(mine + "\n```md\n## Evaluation\nin a block\n```\n")
    once = publication(copy, "me/x").card
    assert "license: mit" in once
    assert "# Mine\n\n## Use\n\nThe model writes" in once
    assert "old words" not in once
    assert "## Why\n\nBecause." in once
    assert once.endswith("```md\n## Evaluation\nin a block\n```\n")
    readme.write_text(once)
    assert publication(copy, "me/x").card == once
    shutil.rmtree(copy)


def test_what_cannot_be_pushed_is_refused_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither a checkpoint .*; of this run, one of: .*data, .*checkpoints/ift"):
        publication(folder / "runs/mine", "me/x")
    unfinished = tmp_path / "checkpoints" / "cut"
    shutil.copytree(folder / "runs/mine/checkpoints/ift", unfinished)
    (unfinished / "model.safetensors").write_bytes(b"short")
    with pytest.raises(RunFolderError, match=r"model\.safetensors has 5 bytes"):
        publication(unfinished, "me/x")
    (unfinished / "DONE").unlink()
    with pytest.raises(RunFolderError, match="not come to its end"):
        publication(unfinished, "me/x")
    with pytest.raises(InputError, match="--row goes with a checkpoint"):
        publication(folder / "runs/mine/data", "me/x", [folder / "runs/mine/eval/ift"])
    checkpoint = "runs/mine/checkpoints/ift"
    assert "give one place" in selfcorrect("push", checkpoint, cwd=folder, code=1)
    refused = selfcorrect("push", checkpoint, "not a name", cwd=folder, code=1)
    assert "cannot push to the hub as 'not a name'" in refused
    assert "hf auth login" in refused


def test_the_base_model_of_a_card_is_a_name_of_the_hub_or_nothing(tmp_path: Path) -> None:
    for name, model in (("ift", "Qwen/Qwen2.5-1.5B"), ("grpo", "runs/mine/checkpoints/ift"), ("self", "self")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(f"model: {model}\n")
    for model, base in (
        ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B"),
        ("elsewhere/checkpoints/grpo", "Qwen/Qwen2.5-1.5B"),
        ("embedded", None),
        ("runs/gone", None),
        ("./here/there", None),
        ("self", None),
    ):
        assert base_on_hub({"model": model}, tmp_path / "new") == base, model
