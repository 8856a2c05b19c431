"""Whole files, folders, and what was recorded of them; and nothing in the product writes a file past them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfcorrect.errors import DataError, RunFolderError
from selfcorrect.runs.files import append_lines, make_folder, manifest, unlike, whole_file

ROOT = Path(__file__).parents[2]
WRITES = {
    "write_text", "write_bytes", "savefig", "save_pretrained", "save_model", "save_to_disk", "to_parquet",
    "write_table", "copy2", "copyfile", "copytree", "savez", "rename", "truncate", "FileIO", "NamedTemporaryFile",
}  # fmt: skip
"""Calls that write a file under a name, or give a written one its name, by their last word."""

OURS = {  # file → the calls that may stand in it, and why
    "selfcorrect/runs/files.py": {"open", "fdopen", "replace"},  # the one place
    "selfcorrect/runs/jsonl.py": {"FileIO", "truncate"},  # a journal's own file, synced as it grows
    "selfcorrect/runs/folder.py": {"replace"},  # DONE put aside, then its folder synced
    "selfcorrect/cli/main.py": {"open"},  # the null device
    "selfcorrect/grading/workers/worker.py": {"open"},  # the null device
    "selfcorrect/launched.py": {"write_text", "open"},  # a message to the process that launched this one; its terminal
    "train/common/launch.py": {"open"},  # the launcher's log in a temporary folder, and a pipe
    "train/common/models.py": {"save_model", "save_pretrained"},  # synced by mark_done before DONE
    "train/dpo.py": {"copy2", "save_model", "save_to_disk", "rename"},  # the same; a table for the other processes
    "train/sft.py": {"save_model"},
    "train/orm.py": {"save_model"},
    "train/rl/program.py": {"save_model"},
    "train/embedded/pretrain.py": {
        "save_pretrained",
        "savez",
        "copy",
    },  # the same; tokens, which every start writes anew
    "train/common/weights.py": {"save_pretrained"},  # a folder in memory, gone after the hand-over
    "train/common/sharding.py": {"save_model", "save"},  # a checkpoint: sealed by transformers' rename, synced by DONE
    "selfcorrect/hub.py": {"write_bytes", "copyfile", "rename"},  # a folder beside, synced and renamed: all or none
}
STREAM = {"save", "dump", "savefig", "write_table", "print"}
"""Calls that write to what they are given: right where it is a stream of `whole_file`."""


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of each call in a file that writes past `whole_file`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and any("whole_file" in ast.unparse(item) for item in block.items)
        for node in ast.walk(block)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if id(call) in inside and name in STREAM:
            continue
        opens = name in ("open", "fdopen") and _opens_to_write(call)
        dumps = ast.unparse(call.func) in (
            "json.dump",
            "yaml.dump",
            "torch.save",
            "np.save",
            "shutil.copy",
            "shutil.move",
        )
        if name in WRITES or opens or dumps or _is_path_replace(call, name):
            yield call.lineno, name


def _opens_to_write(call: ast.Call) -> bool:
    words = [arg.value for arg in [*call.args, *(k.value for k in call.keywords)] if isinstance(arg, ast.Constant)]
    modes = [word for word in words if isinstance(word, str) and 0 < len(word) < 4 and set(word) <= set("rwaxb+t")]
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "os.fdopen":
        return "open_own" not in ast.unparse(call) and any(set(mode) & set("wax+") for mode in modes)
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "os.open":
        return any(flag in ast.unparse(call) for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "flags"))
    return any(set(mode) & set("wax+") for mode in modes)


def _is_path_replace(call: ast.Call, name: str) -> bool:
    """`os.replace(a, b)`, `path.replace(b)`; not `text.replace(a, b)`."""
    return name == "replace" and (len(call.args) + len(call.keywords) == 1 or ast.unparse(call.func) == "os.replace")


@pytest.mark.parametrize("package", ["selfcorrect", "data_gen", "train", "eval"])
def test_every_file_is_written_through_the_one_function(package: str) -> None:
    past = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        past += [f"{name}:{line}: {call}" for line, call in calls(path) if call not in OURS.get(name, ())]
    assert not past, "write through selfcorrect.runs.files.whole_file (or jsonl.write_*), or say why not in OURS"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path.write_text('x')", ["write_text"]),
        ("open(path, 'w')", ["open"]),
        ("path.open(mode='ab')", ["open"]),
        ("path.open(encoding='utf-8')", []),
        ("os.open(path, os.O_WRONLY)", ["open"]),
        ("json.dump(x, file)", ["dump"]),
        ("torch.save(x, path)", ["save"]),
        ("with whole_file(path) as file:\n    torch.save(x, file)", []),
        ("with whole_file(path) as file:\n    figure.savefig(file)\n    path.write_text('x')", ["write_text"]),
        ("partial.replace(path)", ["replace"]),
        ("text.replace('a', 'b')", []),
    ],
)
def test_the_search_finds_writes(tmp_path: Path, code: str, found: list[str]) -> None:
    (tmp_path / "x.py").write_text(code)
    assert [name for _, name in calls(tmp_path / "x.py")] == found


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out"
    with whole_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"second", "no bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in path.parent.iterdir()] == ["out"]
    (path.parent / ".out.partial").write_bytes(b"left by a kill, and longer than what comes")
    with whole_file(path) as file:
        file.write(b"third")
    assert path.read_bytes() == b"third"
    assert oct(path.stat().st_mode & 0o777) == oct(0o666 & ~_umask())
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"), whole_file(tmp_path / "file" / "out"):
        pass


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_made_folders_are_returned_outermost_first(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == [tmp_path / "a", tmp_path / "a" / "b"]
    assert make_folder(tmp_path / "a" / "b" / "c") == [tmp_path / "a" / "b" / "c"]
    assert make_folder(tmp_path) == []


def test_odd_files_are_not_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((RunFolderError, OSError)):
        append_lines(tmp_path / "pipe", ["x"])
    append_lines(tmp_path / "log", ["one\n"])
    append_lines(tmp_path / "log", ["two\n"])
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    (tmp_path / "link").symlink_to(tmp_path / "log")
    with pytest.raises(RunFolderError, match="symbolic link"):
        append_lines(tmp_path / "link", ["x"])


def test_a_manifest_names_what_differs(tmp_path: Path) -> None:
    files = {"a": b"1", "data/b": b"22", "c": b"333", "d": b"4444"}
    (tmp_path / "data").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    record = manifest((tmp_path / name for name in files), tmp_path)
    assert list(record) == ["a", "c", "d", "data/b"]
    assert unlike(record, tmp_path, by_hash=True) == []
    (tmp_path / "a").unlink()
    (tmp_path / "data/b").write_bytes(b"")
    (tmp_path / "c").write_bytes(b"334")
    assert unlike(record, tmp_path) == ["a is missing", "data/b has 0 bytes instead of 2"]
    assert unlike(record, tmp_path, by_hash=True)[1] == "c has other content than when the stage finished"
