"""Identity is content: what a fingerprint sees, and what a run folder is held to."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from selfcorrect import fingerprints
from selfcorrect.chat import EMBEDDED
from selfcorrect.errors import RunFolderError
from selfcorrect.fingerprints import differences, fingerprint_problems, model_parts
from selfcorrect.inputs import hold
from selfcorrect.problems import ProblemsRecipe, load_problems
from selfcorrect.runs.folder import mark_done, stage_folder
from selfcorrect.types import Problem

PROBLEMS = [Problem(f"p-{n}", f"What is {n} + 1?", str(n + 1), "math", {"level": n}) for n in range(5)]


# --- problems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"question": "other"},
        {"gold": "7"},
        {"source": "gsm8k"},
        {"id": "other"},
        {"meta": {"level": 0, "tolerance": "0.1"}},
    ],
)
def test_whatever_is_asked_or_graded_changes_the_hash(change) -> None:
    changed = [replace(PROBLEMS[0], **change), *PROBLEMS[1:]]
    assert fingerprint_problems(changed) != fingerprint_problems(PROBLEMS)


def test_order_counts_and_levels_do_not() -> None:
    assert fingerprint_problems(reversed(PROBLEMS)) != fingerprint_problems(PROBLEMS)
    assert fingerprint_problems([replace(problem, meta={}) for problem in PROBLEMS]) == fingerprint_problems(PROBLEMS)


# --- models -------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_model_is_its_files_and_not_its_place(tmp_path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(EMBEDDED, copy)
    assert model_parts(str(copy)) == model_parts("embedded")
    (copy / "README.md").write_text("a card")
    (copy / "calibration.json").write_text("{}")
    assert model_parts(str(copy)) == model_parts("embedded")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_one_bit_of_any_file_is_seen(tmp_path, name) -> None:
    copy = tmp_path / "model"
    shutil.copytree(EMBEDDED, copy)
    before = model_parts(str(copy))
    flip(copy / name, (copy / name).stat().st_size // 2)
    assert differences(before, model_parts(str(copy))) == f"1 changed ({name})"


def test_a_large_file_is_seen_by_every_tensor_and_its_length(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fingerprints, "WHOLE_BYTES", 1000)
    header = json.dumps(
        {f"t{n}": {"dtype": "U8", "shape": [50_000], "data_offsets": [n * 50_000, (n + 1) * 50_000]} for n in range(3)}
    )
    path = tmp_path / "model.safetensors"
    begins = 8 + len(header)
    whole = struct.pack("<Q", len(header)) + header.encode() + bytes(150_000)
    path.write_bytes(whole)
    before = model_parts(str(tmp_path))
    for place in (begins - 5, begins, begins + 4095, begins + 49_999, begins + 50_000, begins + 149_999):
        flip(path, place)
        assert model_parts(str(tmp_path)) != before, place
        flip(path, place)
    assert model_parts(str(tmp_path)) == before
    flip(path, begins + 25_000)  # the middle of a tensor is not read: what the module says of itself
    assert model_parts(str(tmp_path)) == before
    for damaged in (whole[:-1], whole[:100], b"\xff" * 2000, whole[:8] + b"[" * 5000):
        path.write_bytes(damaged)
        assert model_parts(str(tmp_path)) != before


def test_what_is_not_on_this_machine_has_no_fingerprint(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert model_parts("nobody/nothing") == model_parts("a server's name") == {}


# --- what a folder is held to ---------------------------------------------------------------------------------------


def write(path: Path, count: int = 3, plus: int = 1) -> ProblemsRecipe:
    rows = ({"question": f"What is {n} + {plus}?", "answer": str(n + plus)} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ProblemsRecipe(source=str(path), count=3)


def begin(folder: Path, source: ProblemsRecipe, models: dict[str, str], *, done: bool = False) -> None:
    with stage_folder(folder, source):
        hold(folder, models, source, lambda: load_problems(source).problems)
        (folder / "journal.jsonl").write_text("{}\n")
        if done:
            mark_done(folder, {})


@pytest.mark.parametrize("done", [False, True])
def test_other_problems_under_the_same_path_are_refused_by_their_ids(tmp_path, done) -> None:
    source = write(tmp_path / "x.jsonl")
    begin(tmp_path / "run", source, {}, done=done)
    write(tmp_path / "x.jsonl", plus=2)
    said = r"(?s)run was made from other inputs.*problems: 3 changed \(x-0, x-1, x-2\).*begin anew: use another --run"
    with pytest.raises(RunFolderError, match=said):
        begin(tmp_path / "run", source, {})
    write(tmp_path / "x.jsonl")
    begin(tmp_path / "run", source, {})


@pytest.mark.parametrize("done", [False, True])
def test_a_file_that_grew_behind_the_problems_used_is_the_same_set(tmp_path, done) -> None:
    source = write(tmp_path / "x.jsonl")
    begin(tmp_path / "run", source, {}, done=done)
    write(tmp_path / "x.jsonl", count=9)
    begin(tmp_path / "run", source, {})
    write(tmp_path / "x.jsonl", count=2)
    with pytest.raises(RunFolderError, match=r"problems: 1 gone \(x-2\)"):
        begin(tmp_path / "run", source, {})


def test_a_finished_folder_outlives_its_problem_file_and_its_model(tmp_path) -> None:
    source = write(tmp_path / "x.jsonl")
    shutil.copytree(EMBEDDED, tmp_path / "model")
    begin(tmp_path / "run", source, {"model": str(tmp_path / "model")}, done=True)
    (tmp_path / "x.jsonl").unlink()
    shutil.rmtree(tmp_path / "model")
    with stage_folder(tmp_path / "run", source):
        hold(tmp_path / "run", {"model": str(tmp_path / "model")}, source, lambda: load_problems(source).problems)


def test_a_finished_folder_whose_problems_cannot_be_read_any_more_says_so(tmp_path) -> None:
    source = write(tmp_path / "x.jsonl")
    begin(tmp_path / "run", source, {}, done=True)
    (tmp_path / "x.jsonl").write_text("broken")
    with pytest.raises(RunFolderError, match=r"problems: .*other|problems: .*gone"):
        begin(tmp_path / "run", source, {})


@pytest.mark.parametrize("done", [False, True])
def test_new_weights_in_the_same_folder_are_refused_by_their_file(tmp_path, done) -> None:
    source, model = write(tmp_path / "x.jsonl"), tmp_path / "model"
    shutil.copytree(EMBEDDED, model)
    begin(tmp_path / "run", source, {"model": str(model)}, done=done)
    flip(model / "model.safetensors", 2_000_000)
    with pytest.raises(RunFolderError, match=r"model: 1 changed \(model\.safetensors\)"):
        begin(tmp_path / "run", source, {"model": str(model)})
    flip(model / "model.safetensors", 2_000_000)
    (model / "chat_template.jinja").write_text("other")
    with pytest.raises(RunFolderError, match=r"model: 1 changed \(chat_template\.jinja\)"):
        begin(tmp_path / "run", source, {"model": str(model)})


def test_a_finished_folder_of_an_older_version_stays_as_it_is(tmp_path) -> None:
    source = write(tmp_path / "x.jsonl")
    with stage_folder(tmp_path / "run", source):
        (tmp_path / "run" / "scores.json").write_text("{}")
        mark_done(tmp_path / "run", {})
    write(tmp_path / "x.jsonl", plus=2)
    with stage_folder(tmp_path / "run", source):
        hold(tmp_path / "run", {}, source, lambda: load_problems(source).problems)
    assert not (tmp_path / "run" / "inputs.json").exists()
