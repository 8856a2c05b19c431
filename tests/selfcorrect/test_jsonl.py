"""Journals: append, resume, repair a torn tail, refuse damage; whole files or none."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from selfcorrect.errors import DataError, RunFolderError
from selfcorrect.jsonl import Journal, read_jsonl, write_jsonl
from selfcorrect.runs import stage_folder


def test_append_and_resume(tmp_path: Path) -> None:
    path = tmp_path / "a" / "j.jsonl"
    with Journal(path) as journal:
        journal.append("x", {"v": 1})
    with Journal(path) as journal:
        assert "x" in journal
        journal.append("y", {"v": 2})
        with pytest.raises(ValueError, match="recorded already"):
            journal.append("x", {"v": 3})
    assert [row["v"] for row in read_jsonl(path)] == [1, 2]


@pytest.mark.parametrize("cut", range(1, 16))
def test_torn_last_line_is_repaired_wherever_it_was_cut(
    tmp_path: Path, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append("x", {"v": 1})
        journal.append("y", {"v": 2})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal(path) as journal:
        assert list(journal.rows) == ["x"]
        journal.append("y", {"v": 2})
    assert path.read_bytes() == whole
    assert "torn last line" in capsys.readouterr().err


def test_damage_elsewhere_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"key":"x"}\n{"key":\n{"key":"y"}\n')
    with pytest.raises(DataError, match=r"j\.jsonl, line 2"), Journal(path):
        pass


def test_reading_names_the_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"a":1}\n\n[1]\n')
    with pytest.raises(DataError, match="line 3: expected a JSON object"):
        list(read_jsonl(path))
    with pytest.raises(DataError, match="no file at"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_write_is_whole_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_jsonl(path, [{"a": 1}])

    def rows():  # type: ignore[no-untyped-def]
        yield {"a": 2}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert path.read_text() == '{"a":1}\n'


def test_full_disk_is_a_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path) as journal:
        journal.append("x", {"v": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # a full disk, as far as this process can tell
        try:
            with pytest.raises(RunFolderError, match="resume"):
                journal.append("y", {"v": "long" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [row["v"] for row in read_jsonl(path)] == [1], "no half-written line"
        journal.append("y", {"v": 2})
        assert [row["v"] for row in journal.rows.values()] == [1, 2]
    with Journal(path) as journal:
        assert journal.rows["x"]["v"] == 1


def test_run_folder_refuses_another_recipe_and_a_second_writer(tmp_path: Path) -> None:
    from selfcorrect.engines import EngineRecipe

    with stage_folder(tmp_path / "s", EngineRecipe()), pytest.raises(RunFolderError, match="in use"):  # noqa: SIM117
        with stage_folder(tmp_path / "s", EngineRecipe()):
            pass
    with stage_folder(tmp_path / "s", EngineRecipe()) as folder:
        (folder / "made.txt").write_text("something")
    with pytest.raises(RunFolderError, match=r"-max_batch: 256\n\+max_batch: 64"):  # noqa: SIM117
        with stage_folder(tmp_path / "s", EngineRecipe(max_batch=64)):
            pass


def test_a_key_recorded_twice_is_damage(tmp_path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"key":"a","n":1}\n{"key":"b","n":1}\n{"key":"a","n":2}\n')
    with pytest.raises(DataError, match=r"j\.jsonl, line 3: key 'a' is recorded twice"), Journal(path):
        pass
