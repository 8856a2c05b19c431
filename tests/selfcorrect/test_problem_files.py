"""The forms of problem files: every one that people have is read alike, and what is broken is named by file:line."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfcorrect.errors import DataError
from selfcorrect.problems import ProblemsRecipe, load_problems
from selfcorrect.problems.files import read_rows

ROWS = [{"question": "What is 1 + 1?", "answer": "2"}, {"question": "Was ist 2·3, “schnell”?\nNun?", "answer": "6"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}
TABLE = 'question,answer\nWhat is 1 + 1?,2\n"Was ist 2·3, “schnell”?\nNun?",6\n'

FORMS = {
    "lines.jsonl": LINES,
    "UPPER.JSONL": LINES,
    "lines.ndjson": LINES,
    "blank-lines.jsonl": "\n" + LINES.replace("\n", "\n\n"),
    "crlf.jsonl": LINES.replace("\n", "\r\n"),
    "old-mac.jsonl": LINES.replace("\n", "\r"),
    "no-last-newline.jsonl": LINES.rstrip("\n"),
    "array.json": json.dumps(ROWS),
    "array-in-a.jsonl": json.dumps(ROWS, indent=1),
    "indented.json": json.dumps(ROWS, indent=2),
    "lines.json": LINES,
    "data.json": json.dumps({"version": "1.0", "data": ROWS}),
    "two-lists.json": json.dumps({"features": [{"name": "question"}], "rows": ROWS}),
    "viewer.json": json.dumps({"features": [{}], "rows": [{"row_idx": i, "row": row} for i, row in enumerate(ROWS)]}),
    "columns.json": json.dumps(COLUMNS),
    "pandas-columns.json": json.dumps({key: {str(i): v for i, v in enumerate(vs)} for key, vs in COLUMNS.items()}),
    "pandas-index.json": json.dumps({str(i): row for i, row in enumerate(ROWS)}),
    "pandas-split.json": json.dumps(
        {"columns": ["question", "answer"], "index": [0, 1], "data": [list(row.values()) for row in ROWS]}
    ),
    "pandas-table.json": json.dumps({"schema": {"fields": []}, "data": ROWS}),
    "by-name.json": json.dumps({"p1": ROWS[0], "p2": ROWS[1]}),
    "table.csv": TABLE,
    "crlf.csv": TABLE.replace("\n", "\r\n").replace("?\r\nNun", "?\nNun"),
    "semicolons.csv": 'question;answer\nWhat is 1 + 1?;2\n"Was ist 2·3, “schnell”?\nNun?";6\n',
    "empty-columns.csv": 'question,answer\nWhat is 1 + 1?,2,,\n"Was ist 2·3, “schnell”?\nNun?",6,,\n',
    "tabs.tsv": 'question\tanswer\nWhat is 1 + 1?\t2\n"Was ist 2·3, “schnell”?\nNun?"\t6\n',
    "no-header.tsv": 'What is 1 + 1?\t2\n"Was ist 2·3, “schnell”?\nNun?"\t6\n',
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


def zstandard(data: bytes) -> bytes:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard,
    ".GZ": gzip.compress,
}


def loaded(path: Path) -> list[tuple[str, str]]:
    problems = load_problems(ProblemsRecipe(source=str(path))).problems
    return [(problem.question, problem.gold) for problem in problems]


EXPECTED = [(row["question"], row["answer"]) for row in ROWS]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", FORMS)
def test_every_form_and_encoding_holds_the_same_problems(tmp_path, name, encoding) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name].encode(encoding))
    assert loaded(path) == EXPECTED


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["lines.jsonl", "array.json", "table.csv"])
def test_packed_files_hold_the_same_problems_under_the_same_ids(tmp_path, name, packer) -> None:
    packed, plain = tmp_path / (name + packer), tmp_path / name
    packed.write_bytes(PACKERS[packer](FORMS[name].encode()))
    plain.write_text(FORMS[name])
    assert loaded(packed) == EXPECTED
    ids = [[p.id for p in load_problems(ProblemsRecipe(source=str(path))).problems] for path in (packed, plain)]
    assert ids[0] == ids[1]


def test_parquet_keeps_what_was_written(tmp_path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(
        {
            "question": ["a", "b", "c", "d", "e", "f"],
            "answer": pyarrow.array([0.1, 2.0, None, float("nan"), 1e-5, 12345678.0], pyarrow.float32()),
            "level": [1, None, 3, 4, 5, 6],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "x.PARQUET")
    found = load_problems(ProblemsRecipe(source=str(tmp_path / "x.PARQUET")))
    assert [problem.gold for problem in found.problems] == ["0.1", "2", "0.00001", "12345678"]
    assert found.dropped == {"no reference answer": 2}
    assert found.examples == {"no reference answer": ("x.PARQUET, row 3", "x.PARQUET, row 4")}

    pyarrow.parquet.write_table(pyarrow.table({"question": ["a"], "answer": [b"2"]}), tmp_path / "bytes.parquet")
    assert loaded(tmp_path / "bytes.parquet") == [("a", "2")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b'{"question": "q", "answer": "1"}\n{"question": \n', r"x\.jsonl:2: not JSON"),
        ("x.jsonl", b'{"question": "q", "answer": "1"}\n\n{"question": "caf\xe9"}\n', r"x\.jsonl:3: not UTF-8 .*iconv"),
        ("x.jsonl", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", r"x\.jsonl: expected text, but .* a PNG image"),
        ("x.csv", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", r"x\.csv: expected text, but .* a PDF document"),
        ("x.jsonl", gzip.compress(LINES.encode()), r"x\.jsonl: expected text, but .* its name ends in \.gz"),
        ("x.csv", b"PK\x03\x04\x14\0\6\0", r"x\.csv: expected text, but .* a ZIP archive"),
        ("x.jsonl", bytes(range(256)), r"x\.jsonl: expected text, but it holds zero bytes and is not UTF-16"),
        ("x.json", b'[{"question": "q",\n "answer": "1"},\n {"question": "r" "answer"}]', r"x\.json:3: not JSON"),
        ("x.json", b'[{"question": "q", "answer": "1"}', r"x\.json:1: not JSON .*expected , or \]"),
        ("x.json", b'[{"question": "q", "answer": "1"}]\nmore', r"x\.json:2: text after the end"),
        ("x.json", b'{"data": [\n{"question": "q"},\n{"question" 1}]}', r"x\.json:3: not JSON .*'{\"question\" 1}"),
        ("x.json", b'"a text"', "expected rows, got one str"),
        ("x.jsonl", b"[" * 100_000, r"x\.jsonl:1: not JSON"),
        ("x.jsonl", b'{"a":' * 100_000, r"x\.jsonl:1: not JSON"),
        ("x.csv", b"question,answer\nq,1\nr\n", r"x\.csv:3: its number of columns is 1, that of the header 2"),
        ("x.csv", b'question,answer\nq,1\n"r,2\n', r"x\.csv:3: not a table"),
        ("x.jsonl.gz", b"no gzip", r"cannot read .*x\.jsonl\.gz"),
        ("x.jsonl.gz", gzip.compress(LINES.encode())[:-9], r"cannot read .*x\.jsonl\.gz"),
        ("x.jsonl.xz", b"no xz", r"cannot read .*x\.jsonl\.xz"),
        ("x.jsonl.zst", b"no zstd", r"cannot read .*x\.jsonl\.zst"),
        ("x.parquet", b"PAR1", r"cannot read .*x\.parquet"),
        ("x.xlsx", b"", r"expected a file that ends in \.jsonl"),
        ("x", b"", r"expected a file that ends in \.jsonl"),
    ],
)
def test_what_is_broken_is_named(tmp_path, name, content, said) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        loaded(tmp_path / name)


def test_absent_and_empty_files_and_folders_are_named(tmp_path) -> None:
    with pytest.raises(DataError, match="no file at"):
        loaded(tmp_path / "absent.jsonl")
    for name in ("empty.jsonl", "empty.json", "empty.csv"):
        (tmp_path / name).write_text("")
        with pytest.raises(DataError, match="no usable problem"):
            loaded(tmp_path / name)
    with pytest.raises(DataError, match=r"(?s)is a folder.*empty\.csv, empty\.json"):
        loaded(tmp_path)


def test_a_folder_holds_one_file_or_shards_or_a_saved_data_set(tmp_path) -> None:
    from datasets import Dataset, DatasetDict

    table = Dataset.from_list(ROWS)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "any.jsonl").write_text(LINES)
    (tmp_path / "shards" / "data").mkdir(parents=True)
    (tmp_path / "shards" / "dataset_infos.json").write_text("{}")
    for number, row in enumerate(ROWS):
        Dataset.from_list([row]).to_parquet(tmp_path / "shards" / "data" / f"train-0000{number}-of-00002.parquet")
    Dataset.from_list(ROWS[:1]).to_parquet(tmp_path / "shards" / "data" / "test-00000-of-00001.parquet")
    table.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": table}).save_to_disk(tmp_path / "splits")
    for folder in ("one", "shards", "saved", "splits"):
        assert loaded(tmp_path / folder) == EXPECTED, folder
    ids = [problem.id for problem in load_problems(ProblemsRecipe(source=str(tmp_path / "shards"))).problems]
    assert ids == ["shards.train-0", "shards.train-1"]
    with pytest.raises(DataError, match=r"(?s)of the split 'validation'.*train-00000"):
        load_problems(ProblemsRecipe(source=str(tmp_path / "shards"), split="validation"))


def test_rows_of_an_array_are_named_by_their_line(tmp_path) -> None:
    (tmp_path / "x.json").write_text('[\n {"question": "a",\n  "answer": 1},\n\n {"question": "b", "answer": 2}\n]')
    assert [placed.place.rsplit("/")[-1] for placed in read_rows(tmp_path / "x.json")] == ["x.json:2", "x.json:5"]


def test_an_empty_file_and_a_pipe_are_named(tmp_path) -> None:
    (tmp_path / "x.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"x\.jsonl.*has no rows"):
        loaded(tmp_path / "x.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match=r"pipe\.jsonl: expected a regular file"):
        loaded(tmp_path / "pipe.jsonl")


def test_long_texts_and_numbers_come_whole(tmp_path) -> None:
    long, digits = "x" * 400_000, "1" * 6_000
    (tmp_path / "x.jsonl").write_text(f'{{"question": "{long}", "answer": {digits}}}\n')
    assert loaded(tmp_path / "x.jsonl") == [(long, digits)]
    (tmp_path / "x.csv").write_text(f'question,answer\n"{long}",{digits}\n')
    assert loaded(tmp_path / "x.csv") == [(long, digits)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.xz", ".csv.bz2", ".jsonl.zst"]),
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from([*'[]{}",:;\t\n\r\\', "question", "answer", "1", "null", "\ufeff"])).map("".join),
    ),
    st.sampled_from(ENCODINGS),
)
def test_no_file_ends_in_a_traceback(tmp_path, ending, content, encoding) -> None:
    data = content if isinstance(content, bytes) else content.encode(encoding)
    (tmp_path / f"x{ending}").write_bytes(
        PACKERS.get(f".{ending.rsplit('.')[-1]}", bytes)(data) if len(data) % 2 else data
    )
    with contextlib.suppress(DataError):
        loaded(tmp_path / f"x{ending}")
