"""Imports of version 0.1's top-level packages warn and give the modules of the new names; a user's own stay theirs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from selfcorrect.old_names import MOVED, new_name

ROOT = Path(__file__).parents[2]


def run(code: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    path = f"import sys; sys.path.append({str(ROOT)!r}); "
    command = [sys.executable, "-W", "always", *flags, "-c", path + code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("folder", ["elsewhere", "checkout"])
@pytest.mark.parametrize(("stage", "module"), [("train", "sft"), ("eval", "lm_eval"), ("data_gen", "classes")])
def test_an_old_name_is_the_new_module_with_a_warning(folder: str, stage: str, module: str, tmp_path: Path) -> None:
    code = (
        f"import selfcorrect, {stage}.{module} as old, selfcorrect.{stage}.{module} as new; "
        f"from {stage} import {module}; print(old is new is {module}, new.__spec__.name)"
    )
    done = run(code, ROOT if folder == "checkout" else tmp_path)
    assert done.stdout.split() == ["True", f"selfcorrect.{stage}.{module}"], done.stderr
    assert f"`{stage}` is now `selfcorrect.{stage}`" in done.stderr


@pytest.mark.parametrize("old", sorted(MOVED))
def test_a_module_that_moved_is_found_by_its_old_name(old: str) -> None:
    """That the names lead somewhere; one of them is imported in the next test."""
    assert new_name(old) == f"selfcorrect.{MOVED[old]}"
    assert importlib.util.find_spec(new_name(old)) is not None


def test_a_module_that_moved_is_imported_with_a_warning(tmp_path: Path) -> None:
    done = run(
        "import selfcorrect, eval.rows as old; from eval import rows; print(old.__name__, old is rows)", tmp_path
    )
    assert done.stdout.split() == ["selfcorrect.eval.results", "True"], done.stderr
    assert "`eval.rows` is now `selfcorrect.eval.results`" in done.stderr


def test_an_old_name_in_a_checkout_works_without_importing_selfcorrect_first() -> None:
    done = run("import train.sft as old, selfcorrect.train.sft as new; print(old is new)", ROOT)
    assert done.stdout == "True\n", done.stderr


def test_a_module_of_the_users_stays_theirs(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("mine = True\n")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "__init__.py").write_text("")
    (tmp_path / "eval" / "run.py").write_text("mine = True\n")
    done = run(
        "import selfcorrect, selfcorrect.train; import train, eval.run; print(train.mine, eval.run.mine)", tmp_path
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_a_missing_module_of_an_old_name_is_an_import_error(tmp_path: Path) -> None:
    done = run("import selfcorrect, train.nothing", tmp_path)
    assert "ModuleNotFoundError" in done.stderr
