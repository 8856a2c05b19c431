"""Run folders: what counts as the same recipe, and what the refusal of another shows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.errors import InputError, RunFolderError
from selfcorrect.runs import stage_folder


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


def fail(path: Path, recipe: Recipe, rows: str) -> None:
    """Be a stage that writes ``rows`` and fails."""
    with stage_folder(path, recipe) as folder:
        (folder / "rows.jsonl").write_text(rows)
        raise InputError("no file")


def test_a_stage_that_fails_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        fail(tmp_path / "new", Recipe(), "")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError):
        fail(tmp_path / "new", Recipe(row="b"), "{}\n")
    assert (tmp_path / "new" / "recipe.yaml").exists()
