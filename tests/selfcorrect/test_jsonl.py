"""Journals: append, resume, repair a torn tail, refuse damage; whole files or none."""

from __future__ import annotations

import json
import resource
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selfcorrect.errors import DataError, RunFolderError
from selfcorrect.runs.folder import stage_folder
from selfcorrect.runs.jsonl import Journal, read_journal, read_jsonl, write_journal, write_json, write_jsonl


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


def journal_of(path: Path, rows: int = 3) -> bytes:
    """Write a journal and return its bytes."""
    with Journal(path) as journal:
        for number in range(rows):
            journal.append(f"k{number}", {"text": 'é "x", U+2028:\u2028', "logprobs": [-0.25, 1e-9], "n": number})
    return path.read_bytes()


def test_a_line_carries_the_checksum_of_all_before_it(tmp_path: Path) -> None:
    lines = journal_of(tmp_path / "j.jsonl").splitlines(keepends=True)
    for line in lines:
        body, crc = line[: -len(b',"crc":"00000000"}\n')], json.loads(line)["crc"]
        assert list(json.loads(line)) == ["key", "text", "logprobs", "n", "crc"]
        assert f"{zlib.crc32(body):08x}" == crc
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.rows["k1"] == next(row for row in read_journal(journal.path) if row["key"] == "k1")
        assert "crc" not in journal.rows["k1"]
        with pytest.raises(ValueError, match="no field 'crc' of its own"):
            journal.append("z", {"crc": 1})
    rows = ((f"k{n}", {key: value for key, value in json.loads(line).items() if key not in ("key", "crc")})
            for n, line in enumerate(lines))  # fmt: skip
    write_journal(tmp_path / "whole.jsonl", rows)
    assert (tmp_path / "whole.jsonl").read_bytes() == b"".join(lines)


def test_no_flipped_bit_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    whole = journal_of(path, rows=2)
    rows = list(read_journal(path))
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"j\.jsonl, line [12]: damaged"):
            list(read_journal(path))
        if place // 8 == len(whole) - 1:  # the last line feed: to a resumed run, a torn line
            with Journal(path) as journal:
                assert list(journal.rows.values()) == rows[:1]
            continue
        with pytest.raises(DataError, match=r"j\.jsonl, line [12]: damaged"), Journal(path):
            pass


def test_a_journal_of_an_older_version_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    old = b'{"key":"a","n":1}\n{"n":2,"key":"b"}\n'
    path.write_bytes(old)
    with Journal(path) as journal:
        assert [row["n"] for row in journal.rows.values()] == [1, 2]
        journal.append("c", {"n": 3})
    assert path.read_bytes().startswith(old)
    assert [row["n"] for row in read_journal(path)] == [1, 2, 3]
    path.write_bytes(path.read_bytes() + b'{"key":"d","n":4}\n')
    with pytest.raises(DataError, match="line 4: damaged journal line"), Journal(path):
        pass


def test_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    path, text = tmp_path / "j.jsonl", "half \ud83d of an emoji"
    with Journal(path) as journal:
        journal.append("a", {"text": text})
        assert journal.rows["a"]["text"] == text
    write_jsonl(tmp_path / "d.jsonl", [{"text": text}])
    assert [row["text"] for row in (*read_journal(path), *read_jsonl(tmp_path / "d.jsonl"))] == [text, text]


def test_two_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    path, together = tmp_path / "out.json", threading.Barrier(8)

    def write(number: int) -> None:
        together.wait()
        for _ in range(50):
            write_json(path, [number] * 2000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set(json.loads(path.read_text()))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
