"""Run folders: what counts as the same recipe, and what the refusal of another shows."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import selfcorrect
from selfcorrect.errors import DataError, InputError, RecipeError, RunFolderError
from selfcorrect.runs.folder import (
    finished,
    is_done,
    is_reopened,
    locked,
    mark_done,
    plain_name,
    reopen,
    same_inputs,
    stage_folder,
)
from selfcorrect.runs.inspection import inspect
from selfcorrect.runs.jsonl import Journal, write_json, write_whole


@dataclass(frozen=True, slots=True)
class Inner:
    size: int = 4
    added: str | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    row: str = "a"
    rate: float = 1e-4
    seeds: tuple[int, ...] = (0,)
    inner: Inner = field(default_factory=Inner)
    options: dict[str, Any] = field(default_factory=dict)
    added: bool = True

    def __post_init__(self) -> None:
        if not self.seeds:
            raise InputError("seeds: give at least one")


OLDER = "options:\n  b: [1, 2]\n  a: 1\nrow: a\nrate: 1e-4\nseeds: [0]\ninner:\n  size: 4\n"
SAME = Recipe(options={"a": 1, "b": (1, 2)})


def folder_of(tmp_path: Path, recipe: str) -> Path:
    (tmp_path / "recipe.yaml").write_text(recipe)
    return tmp_path


def test_a_folder_made_before_a_setting_existed_is_resumed(tmp_path: Path) -> None:
    with stage_folder(folder_of(tmp_path, OLDER), SAME):
        pass
    assert (tmp_path / "recipe.yaml").read_text() == OLDER, "what made the folder stays as it was written"


@pytest.mark.parametrize(
    ("recipe", "shown"),
    [
        (Recipe(options=SAME.options, added=False), "-added: true\n+added: false"),
        (Recipe(options=SAME.options, inner=Inner(5)), "-  size: 4\n+  size: 5"),
        (Recipe(options={"a": 1}), "-  b:"),
    ],
)
def test_a_setting_that_differs_is_shown(tmp_path: Path, recipe: Recipe, shown: str) -> None:
    with pytest.raises(RunFolderError) as error, stage_folder(folder_of(tmp_path, OLDER), recipe):
        pass
    assert shown in str(error.value)
    assert "row: a" not in str(error.value), "what is equal is not shown"


def test_two_paths_of_one_file_are_the_same_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("models/a", "models/b"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    stage = tmp_path / "stage"
    with stage_folder(stage, Recipe(row="models/a", options={"from": ["models/b"]})):
        write_json(stage / "made.json", {})
    with stage_folder(stage, Recipe(row=str(tmp_path / "models/a"), options={"from": ["./models/../models/b"]})):
        pass
    for other in (str(tmp_path / "models/b"), "models/a/", "models/absent", "\0", "x" * 5000):
        is_same = Path(other).name == "a"
        refused = nullcontext() if is_same else pytest.raises(RunFolderError, match="another recipe")
        with refused, stage_folder(stage, Recipe(row=other, options={"from": ["models/b"]})):
            pass


@pytest.mark.parametrize("relative", [True, False])
def test_a_run_that_was_moved_or_copied_knows_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    """A row, data in a run within the run, and a checkpoint: their recipes keep the old paths, and are the same."""
    monkeypatch.chdir(tmp_path)
    runs = Path("runs") if relative else tmp_path / "runs"
    stages = ("s0/eval/ift", "s0/pairs/gen", "s0/checkpoints/grpo")

    def begin(stage: Path, model: Path) -> None:
        with stage_folder(stage, Recipe(row=str(model))) as folder:
            same_inputs(folder, {"model": {"weights": (model / "weights").read_text()}})
            if not is_done(folder):
                mark_done(folder, {})

    for name, weights in (("ift", "1"), ("dpo", "2")):
        write_whole(runs / "study/s0/checkpoints" / name / "weights", [weights])
    for stage in stages:
        begin(runs / "study" / stage, runs / "study/s0/checkpoints/ift")
    shutil.copytree(runs / "study", tmp_path / "copied/x")
    (runs / "study").rename(runs / "moved")
    for run in (runs / "moved", tmp_path / "copied/x"):
        for stage in stages:
            begin(run / stage, run / "s0/checkpoints/ift")
            with pytest.raises(RunFolderError, match="another recipe"):
                begin(run / stage, run / "s0/checkpoints/dpo")
    write_whole(runs / "moved/s0/checkpoints/ift/weights", ["3"])
    with pytest.raises(RunFolderError, match="other inputs than these:\\n  model: "):
        begin(runs / "moved/s0/eval/ift", runs / "moved/s0/checkpoints/ift")
    (tmp_path / "copied/x/s0/eval/ift/inputs.json").unlink()
    with pytest.raises(RunFolderError, match="another recipe"):
        begin(tmp_path / "copied/x/s0/eval/ift", tmp_path / "copied/x/s0/checkpoints/ift")


@pytest.mark.parametrize(
    ("older", "shown"),
    [
        (OLDER + "gone: 3\n", ["unknown key 'gone'", "-gone: 3"]),
        (OLDER.replace("rate: 1e-4", "rate: fast"), ["rate: expected a number, got 'fast'", "-rate: fast"]),
        (OLDER.replace("[0]", "[]"), ["seeds: give at least one"]),
        ("row: [", ["is not YAML"]),
    ],
)
def test_a_setting_that_is_gone_or_broken_is_shown(tmp_path: Path, older: str, shown: list[str]) -> None:
    with pytest.raises(RunFolderError) as error, stage_folder(folder_of(tmp_path, older), SAME):
        pass
    for text in shown:
        assert text in str(error.value)


def fail(path: Path, recipe: Recipe, rows: str, error: type[BaseException] = InputError) -> None:
    """Be a stage that writes ``rows`` and fails."""
    with stage_folder(path, recipe) as folder:
        (folder / "rows.jsonl").write_text(rows)
        (folder / "part").mkdir()
        raise error("no file")


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt, SystemExit])
def test_a_stage_that_fails_before_it_writes_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail(tmp_path / "runs" / "new" / "eval" / "row", Recipe(), "", error)
    assert not list(tmp_path.iterdir()), "not even empty parents"
    with pytest.raises(error):
        fail(tmp_path / "new", Recipe(row="b"), "{}\n", error)
    assert (tmp_path / "new" / "recipe.yaml").exists()
    assert (tmp_path / "new" / "rows.jsonl").exists()


@pytest.mark.parametrize("names", [["__init__.py", "py.typed", ".gitkeep", "empty/.gitkeep"], ["notes.txt"], []])
def test_what_was_there_before_a_failed_start_stays(tmp_path: Path, names: list[str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in names:
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).write_text("mine" if name == "notes.txt" else "")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError):
        fail(mine, Recipe(), "")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_start_through_a_link_says_what_failed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "row").symlink_to(tmp_path / "disk")
    with pytest.raises(InputError, match="no file"):
        fail(tmp_path / "row", Recipe(), "")
    assert (tmp_path / "row").is_symlink()
    assert not list((tmp_path / "disk").iterdir())


def test_a_folder_in_which_nothing_was_made_takes_the_corrected_recipe(tmp_path: Path) -> None:
    with stage_folder(tmp_path / "s", Recipe()) as folder:  # killed here, or its start was never committed
        (folder / "rows.jsonl").touch()
        same_inputs(folder, {"problems": "a"})
    with stage_folder(tmp_path / "s", Recipe(rate=1.0)) as folder:
        assert "rate: 1.0" in (folder / "recipe.yaml").read_text()
        same_inputs(folder, {"problems": "b"})
        (folder / "rows.jsonl").write_text("{}\n")
    with pytest.raises(RunFolderError, match="another recipe"), stage_folder(tmp_path / "s", Recipe()):
        pass


def made(path: Path, recipe: Recipe = SAME) -> Path:
    """Return the folder of a stage that ran to its end."""
    with stage_folder(path, recipe) as folder:
        with Journal(folder / "rows.jsonl") as journal:
            journal.append("x", {"v": 1})
        (folder / "part").mkdir()
        (folder / "part" / "weights.bin").write_bytes(bytes(1000))
        (folder / "README.md").write_text("a card")
        (folder / "resume").mkdir()
        (folder / "resume" / "state").write_text("gone later")
        mark_done(folder, {"n": 1})
    return path


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_recipe_that_is_gone_is_not_replaced_by_another(tmp_path: Path, is_finished: bool) -> None:
    folder = made(tmp_path / "s")
    if not is_finished:
        (folder / "DONE").unlink()
    (folder / "recipe.yaml").unlink()
    with pytest.raises(RunFolderError, match=r"recipe\.yaml is gone"), stage_folder(folder, Recipe(rate=1.0)):
        pass
    assert not (folder / "recipe.yaml").exists()


def test_what_done_stands_for_is_verified(tmp_path: Path) -> None:
    folder = made(tmp_path / "s")
    assert finished(folder, by_hash=True) == {"n": 1}
    files = json.loads((folder / "DONE").read_text())["files"]
    assert set(files) == {"rows.jsonl", "part/weights.bin", "provenance.json", "recipe.yaml"}
    (folder / "README.md").write_text("a card that its owner has edited")
    shutil.rmtree(folder / "resume")
    (folder / "calibration.json").write_text("{}")
    assert finished(folder) == {"n": 1}, "cards are edited, calibrations added, resume/ removed"
    assert inspect(tmp_path).is_whole

    (folder / "part" / "weights.bin").write_bytes(bytes(999) + b"1")
    assert finished(folder) == {"n": 1}, "a quick look compares sizes"
    with pytest.raises(RunFolderError, match=r"part/weights\.bin has other content"):
        finished(folder, by_hash=True)
    assert not inspect(tmp_path).is_whole
    (folder / "part" / "weights.bin").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"part/weights\.bin has 0 bytes instead of 1,000"):
        finished(folder)
    (folder / "part" / "weights.bin").unlink()
    with pytest.raises(RunFolderError, match=r"part/weights\.bin is missing.\nPut that back; or remove .*DONE"):
        finished(folder)


@pytest.mark.parametrize("text", ['{"n": 1, "files": 3}', '{"files": {"x": {}}}', "", "[]", "{"])
def test_a_done_that_cannot_be_read_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "DONE").write_text(text)
    with pytest.raises(RunFolderError, match=r"DONE[\s\S]*(remove|run)"):
        finished(tmp_path)


def test_a_folder_of_an_older_version_still_reads(tmp_path: Path) -> None:
    write_json(folder_of(tmp_path, OLDER) / "DONE", {"n": 3})
    (tmp_path / "rows.jsonl").write_text('{"key":"a"}\n')
    with stage_folder(tmp_path, SAME) as folder:
        assert finished(folder) == {"n": 3}
        same_inputs(folder, {"problems": "a"})
        assert not (folder / "inputs.json").exists(), "nobody knows what it read"
    assert inspect(tmp_path).is_whole
    assert "kept no hashes" in inspect(tmp_path).found[0].state
    (tmp_path / "blind.jsonl").touch()
    assert inspect(tmp_path).is_whole, "no part of that kind was sampled"
    (tmp_path / "rows.jsonl").write_text("")
    assert "empty: rows.jsonl" in inspect(tmp_path).found[0].state


def test_inspection_finds_a_damaged_journal_line_of_an_unfinished_stage(tmp_path: Path) -> None:
    folder = made(tmp_path / "eval" / "row")
    (folder / "DONE").unlink()
    assert "unfinished" in inspect(tmp_path).found[0].state
    text = (folder / "rows.jsonl").read_text()
    (folder / "rows.jsonl").write_text(text.replace('"v":1', '"v":2'))
    assert "rows.jsonl, line 1: damaged journal line" in inspect(tmp_path).found[0].state
    with pytest.raises(InputError, match="holds no stage"):
        inspect(tmp_path / "nowhere")


def test_inputs_are_held_to_by_content(tmp_path: Path) -> None:
    with stage_folder(tmp_path / "s", Recipe()) as folder:
        same_inputs(folder, {"problems": "sha256:a", "model": "sha256:m"})
        same_inputs(folder, {"problems": "sha256:a", "model": "sha256:m", "template": "t"})
        for _ in range(2):
            with pytest.raises(RunFolderError, match="problems: sha256:a before, sha256:b now") as error:
                same_inputs(folder, {"problems": "sha256:b", "model": "sha256:m"})
            assert "model" not in str(error.value), "what is equal is not shown"
            mark_done(folder, {})
    with pytest.raises(RunFolderError, match="template: t before, u now"):
        same_inputs(tmp_path / "s", {"template": "u"})


def test_a_reopened_stage_is_unfinished_until_it_is_done_again(tmp_path: Path) -> None:
    folder = made(tmp_path / "s")
    assert reopen(folder) == {"n": 1}
    assert not is_done(folder)
    assert is_reopened(folder)
    assert reopen(folder) == {"n": 1}, "one that was cut off is taken up again"
    (folder / "rows.jsonl").write_text("{}\n")
    mark_done(folder, {"n": 1})
    assert finished(folder, by_hash=True) == {"n": 1}
    assert not is_reopened(folder)
    (folder / "DONE").unlink()
    with pytest.raises(RunFolderError, match="cannot read"):
        reopen(folder)


LINKED = (".lock", ".DONE.partial", ".recipe.yaml.partial", ".provenance.json.partial", "rows.jsonl")


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_links_in_a_foreign_folder_are_not_written_through(tmp_path: Path, name: str, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine, without a line feed")
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / name).symlink_to(victim) if kind == "symbolic" else (folder / name).hardlink_to(victim)
    with pytest.raises(RunFolderError, match=r"symbolic link|another name"):
        made(folder)
    assert victim.read_text() == "mine, without a line feed"
    with pytest.raises((RunFolderError, DataError)), Journal(folder / name):
        pass
    assert victim.read_text() == "mine, without a line feed"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc", "a/b", "../../x", "a\\b", "a\nb", "\x1b[2J", "x" * 201, "é" * 101]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="row: "):
        plain_name(name, "row")


@pytest.mark.parametrize("name", ["ift", "long-cot 2", "σ", "..a", "a.b", "x" * 200])
def test_plain_names_pass(name: str) -> None:
    assert plain_name(name, "row") == name


def test_what_resumes_a_stage_with_other_versions_is_recorded(tmp_path: Path) -> None:
    with stage_folder(tmp_path / "s", Recipe()) as folder:
        (folder / "rows.jsonl").write_text("{}\n")
        first = json.loads((folder / "provenance.json").read_text())
    with stage_folder(tmp_path / "s", Recipe()) as folder:
        assert json.loads((folder / "provenance.json").read_text()) == first, "the same versions are not repeated"
        write_json(folder / "provenance.json", first | {"packages": {"torch": "1.0"}, "started": "2020"})
    for _ in range(2):
        with stage_folder(tmp_path / "s", Recipe()) as folder:
            record = json.loads((folder / "provenance.json").read_text())
    assert record["started"] == "2020"
    assert [entry["packages"] for entry in record["resumed"]] == [first["packages"]]


def test_the_revision_recorded_is_never_that_of_the_users_repository(tmp_path: Path) -> None:
    site = tmp_path / "project" / ".venv" / "site-packages"
    shutil.copytree(Path(selfcorrect.__file__).parent, site / "selfcorrect", ignore=shutil.ignore_patterns("assets"))
    git = ["git", "-C", str(tmp_path / "project"), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    for tracked in (False, True):
        (tmp_path / "project" / ".gitignore").write_text("" if tracked else ".venv\n")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", "mine"], check=True)
        code = "from selfcorrect.runs.folder import git_revision; print(git_revision())"
        environment = os.environ | {"PYTHONPATH": str(site)}
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert found.stdout == "None\n", found.stderr


def test_the_revision_of_our_own_checkout_is_recorded_with_a_plus_where_it_has_changes(tmp_path: Path) -> None:
    shutil.copytree(
        Path(selfcorrect.__file__).parent, tmp_path / "selfcorrect", ignore=shutil.ignore_patterns("assets")
    )
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "selfcorrect"], ["commit", "-qm", "ours"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True).stdout
    code = "from selfcorrect.runs.folder import git_revision; print(git_revision())"
    for change, mark in (("", ""), ("# changed\n", "+")):
        with (tmp_path / "selfcorrect" / "errors.py").open("a") as file:
            file.write(change)
        found = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout == f"{head.strip()}{mark}\n", found.stderr


def test_a_finished_folder_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    folder = made(tmp_path / "s")
    (folder / ".lock").unlink()
    for path in (folder, tmp_path):
        path.chmod(0o500)
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); from test_runs import SAME, Recipe\n"
        "from selfcorrect.runs.folder import finished, stage_folder\n"
        "with stage_folder(Path(sys.argv[1]), SAME) as folder: print(finished(folder))\n"
        "with stage_folder(Path(sys.argv[1]) / 'new', SAME) as folder: print('written')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        preexec_fn=_obeys_permissions,
    )
    for path in (tmp_path, folder):
        path.chmod(0o700)
    assert done.stdout == "{'n': 1}\n", done.stderr
    assert "cannot use the run folder" in done.stderr


def _obeys_permissions() -> None:
    """Take root's right to write everywhere from a child (prctl PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def test_a_folder_is_changed_by_one_command_at_a_time(tmp_path: Path) -> None:
    folder = made(tmp_path / "s")
    with locked(folder), pytest.raises(RunFolderError, match="in use"), locked(folder):
        pass
    with pytest.raises(RunFolderError, match="there is no folder"), locked(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
