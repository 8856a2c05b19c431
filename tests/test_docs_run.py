"""What README and docs show is run: every command and every Python snippet, small, or it says here why not.

`RULES` says of each command how it is run; the first that fits counts. A command that no rule fits, a Python block that
is neither run nor listed, and a rule or an entry that fits nothing any more, are failures. Commands with placeholders
(LOG_A, MODEL, $URL) and bare names are read by the command line itself in ``test_docs.py``.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from selfcorrect.chat import EMBEDDED
from tests.test_docs import ALL_TYPED, BLOCK, PAGES, ROOT, python_snippets

pytest.importorskip("torch", reason="comes with the extra train")
pa = pytest.importorskip("pyarrow", reason="comes with the extra train")
pq = pytest.importorskip("pyarrow.parquet", reason="comes with the extra train")


@dataclass(frozen=True, slots=True)
class Run:
    """Run the command, with these settings behind it, so that it takes seconds; none: as it is typed.

    ``code`` is the exit code that the page shows.
    """

    small: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another test runs it."""

    test: str


@dataclass(frozen=True, slots=True)
class NotHere:
    """Nothing can run it here, for a reason."""

    reason: str


GEN = "problems.count=32 prompts=8 'quota={d1: 6, d2: 3, d3: 6}' baselines=false"
OWN_GEN = "'quota={d1: 6, d2: 3, d3: 6}'"
RL = "steps=1 prompts_per_step=2 generations=2 guard.max_turn1_drop=null"
RULES: list[tuple[str, Run | Elsewhere | NotHere]] = [
    # nothing here has a GPU, a hub or a served model
    (r"qwen2.5-math-7b-ppo --dry-run$", Run()),
    (r"reproduce .*--dry-run", Run()),
    (r"^selfcorrect (reproduce|demo)\b", Run("--dry-run")),  # hours and minutes; the whole demo is a slow test
    (r"qwen|runs/qwen|math500", NotHere("needs GPUs and a model of the hub; the commands are read by their schemas")),
    (r"smollm2", NotHere("needs SmolLM2's weights, 517 MB; tests marked slow run it where they are")),
    (r"--launch fsdp-cpu", Elsewhere("tests/train/common/test_sharding.py")),
    (r"^selfcorrect push|--push-to-hub", Elsewhere("tests/doors/test_hub.py")),
    (r"^selfcorrect serve", Elsewhere("tests/doors/test_serve.py")),
    (r"^selfcorrect chat .*--endpoint", Elsewhere("tests/selfcorrect/serving/test_proxy.py")),
    (r"gsm8k\.eval", Elsewhere("tests/doors/test_compare.py")),
    (r"my-recipe\.yaml|my-sft\.yaml", NotHere("a recipe of the reader's own")),
    (r"^selfcorrect eval calibrate", Elsewhere("tests/eval/test_commands.py")),  # wants 40 verdicts: a trained model
    (r"method=checked|short: 0.1|sums\.yaml|quiz\.jsonl", Elsewhere("tests/test_docs.py")),
    # run
    (r"^selfcorrect (doctor|recipes|grade|report|compare|chat)\b", Run()),
    (r"^selfcorrect eval (compare|export|import)\b", Run()),
    (r"^selfcorrect gen .*--dry-run", Run("pilot=0")),
    (r"runs/everyday", Run(OWN_GEN, code=1)),  # problems that the model cannot solve: the page shows what gen says
    (r"^selfcorrect gen embedded .*problems\.source=", Run(OWN_GEN)),
    (r"^selfcorrect gen embedded", Run(GEN)),
    (r"^selfcorrect train \w+ .*(--show-mask|--dry-run)", Run()),
    (r"^selfcorrect train sft", Run("epochs=1")),
    (r"^selfcorrect train grpo", Run(RL)),
    (r"^selfcorrect train orm", Run("epochs=1")),
    (r"^selfcorrect eval ", Run("problems.count=8")),
]
STORIES = ("README.md", "first-hour.md")
"""Pages whose commands build on one another: they are run in order, in one folder."""


def how(command: str) -> Run | Elsewhere | NotHere | None:
    return next((rule for pattern, rule in RULES if re.search(pattern, command)), None)


def is_whole(command: str) -> bool:
    """True for a command that can be typed: no placeholder, and more than a command's name."""
    words = shlex.split(command)[1:]
    if any(word.isupper() or "$" in word for word in words):
        return False
    in_group = words[0] in ("train", "eval", "report", "recipes")
    return len(words) > 1 + in_group or words in (["demo"], ["doctor"], ["recipes"], ["chat"])


def in_order(page: str) -> list[str]:
    """Return a page's whole commands in the order in which they stand, each once; none that is part of an output."""
    text = next(path for path in PAGES if path.name == page).read_text(encoding="utf-8")
    text = BLOCK.sub(lambda block: "" if re.search(r"^next:$|^╭", block[2], re.MULTILINE) else block[0], text)
    text = re.sub(r" *\\\n *", " ", text)
    found = {line for name, line in ALL_TYPED if name == page and is_whole(line) and line in text}
    return sorted(found, key=lambda line: text.index(line))


WHOLE = [(page, line) for page, line in ALL_TYPED if is_whole(line)]
SINGLE = [(page, line) for page, line in WHOLE if page not in STORIES and isinstance(how(line), Run)]


def test_every_command_is_run_here_or_says_where_or_why_not() -> None:
    assert [(page, line) for page, line in WHOLE if how(line) is None] == []
    used = {id(how(line)) for _, line in WHOLE}
    assert [pattern for pattern, rule in RULES if id(rule) not in used] == [], "rules that fit no command"
    tests = {rule.test for _, rule in RULES if isinstance(rule, Elsewhere)}
    assert [test for test in sorted(tests) if not (ROOT / test).is_file()] == []
    run = [line for _, line in WHOLE if isinstance(how(line), Run)]
    assert len(run) > 60


# --- running them ----------------------------------------------------------------------------------------------------


def typed(command: str, small: str, folder: Path, code: int = 0) -> str:
    """Run a command line of the package in a folder, in this process, and return what it printed."""
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    from selfcorrect.cli import main

    out, before, ended_with = StringIO(), Path.cwd(), 0
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(out):
            main([*shlex.split(command)[1:], *shlex.split(small)])
    except SystemExit as ended:
        ended_with = int(ended.code or 0)
    finally:
        os.chdir(before)
    assert ended_with == code, f"{command} {small}\n{out.getvalue()[-3000:]}"
    return out.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which README's five commands were run, small; with the files that pages take for granted."""
    if not (EMBEDDED / "model.safetensors").exists():
        pytest.skip("no embedded weights")
    folder = tmp_path_factory.mktemp("world")
    for line in in_order("README.md"):
        rule = how(line)
        if "--run runs/mine" in line and line.split()[1] in ("gen", "train", "eval") and isinstance(rule, Run):
            typed(line, rule.small, folder)
    mine, demo = folder / "runs" / "mine", folder / "runs" / "demo"
    shutil.copytree(mine, demo)
    ift = "selfcorrect eval embedded row=ift engine.model=runs/demo/checkpoints/ift --run runs/demo"
    typed(ift, "problems.count=8", folder)
    for seed in range(3):  # a study of three seeds, as far as its tables can tell
        study = folder / "runs" / "study" / f"s{seed}"
        shutil.copytree(demo / "eval", study / "eval")
        for name in ("ift", "grpo"):
            (study / "checkpoints" / name).mkdir(parents=True)
            recipe = (demo / "checkpoints" / name / "recipe.yaml").read_text(encoding="utf-8")
            recipe = recipe.replace("\nseed: 0\n", f"\nseed: {seed}\n", 1)
            (study / "checkpoints" / name / "recipe.yaml").write_text(recipe, encoding="utf-8")
    typed("selfcorrect eval export runs/demo/eval/ift --out samples_gsm8k.jsonl", "", folder)
    pq.write_table(pa.table({"response": ["\\boxed{6}"], "gold": ["6"]}), folder / "answers.parquet")
    (folder / "answers.csv").write_text('output,label\n"\\boxed{6}",6\n"\\boxed{7}",6\n', encoding="utf-8")
    return folder


def fresh(world: Path, command: str, folder: Path) -> Path:
    """Return a copy of the world without what a command is about to make."""
    copy = folder / "world"
    shutil.copytree(world, copy)
    words = command.split()
    made = {"gen": ("gen", "data"), "sft": ("checkpoints/ift",), "grpo": ("checkpoints/grpo",), "eval": ("eval",)}
    stage = words[2] if words[1] == "train" else words[1]
    if stage == "eval" and words[2] in ("compare", "export", "import"):
        return copy
    for run in (copy / "runs").iterdir():
        for name in made.get(stage, ()):
            shutil.rmtree(run / name, ignore_errors=True)
    return copy


@pytest.mark.parametrize(("page", "command"), SINGLE, ids=lambda value: str(value)[:70])
def test_a_command_runs(page: str, command: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = how(command)
    assert isinstance(rule, Run)
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is 2 + 3?\n"))  # a chat answers it and ends
    into = "" if "--run" in command or command.split()[1] != "train" else " --run runs/demo"
    typed(command, rule.small + into, fresh(world, command, tmp_path))


def test_the_five_commands_of_the_readme_made_a_model_and_its_row(world: Path) -> None:
    """They are run in order where the world is made."""
    for made in ("gen", "checkpoints/ift", "checkpoints/grpo", "eval/grpo"):
        assert (world / "runs" / "mine" / made / "DONE").is_file()


def rest_of_the_readme() -> Iterator[tuple[str, Run]]:
    for line in in_order("README.md"):
        rule = how(line)
        if isinstance(rule, Run) and line.split()[1] not in ("gen", "train", "eval"):
            yield line, rule


@pytest.mark.parametrize(("command", "rule"), rest_of_the_readme(), ids=lambda value: str(value)[:60])
def test_the_rest_of_the_readme_runs(command: str, rule: Run, world: Path) -> None:
    typed(command, rule.small, world)


def test_the_first_hour_runs_from_its_first_file_to_its_last_command(world: Path, tmp_path: Path) -> None:
    """The page's own problems (fewer), its own commands in their order, its own recipe files."""
    page = (ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8")
    program = next(block for language, block in BLOCK.findall(page) if "names, things" in block)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    everyday = next(block for _, block in BLOCK.findall(page) if block.startswith('{"question": "A recipe needs'))
    (tmp_path / "everyday.jsonl").write_text(everyday, encoding="utf-8")
    assert json.loads((tmp_path / "my_train.jsonl").read_text(encoding="utf-8").splitlines()[0])["answer"]
    ran = []
    for line in in_order("first-hour.md"):
        rule = how(line)
        if not isinstance(rule, Run):
            continue
        typed(line, rule.small, tmp_path, rule.code)
        ran.append(line.split()[1])
    assert {"gen", "train", "eval", "report", "doctor", "demo"} <= set(ran)
    assert (tmp_path / "runs" / "first" / "report.html").is_file()


# --- Python, and programs that are not ours -------------------------------------------------------------------------

PYTHON = {  # page: what runs its Python blocks
    "README.md": "tests/test_docs.py",
    "doors.md": "tests/doors",
    "first-hour.md": "here",
    "evaluation.md": "here",
    "grader.md": "here",
}
"""The tests of doors run in environments of their own (make test-doors)."""


def test_every_python_block_is_run_somewhere() -> None:
    pages = {where.rpartition("-")[0] for where, _ in python_snippets()}
    assert pages == set(PYTHON)
    assert [test for test in PYTHON.values() if test != "here" and not (ROOT / test).exists()] == []


HERE = [(where, code) for where, code in python_snippets() if PYTHON.get(where.rpartition("-")[0]) == "here"]


@pytest.mark.parametrize(("where", "code"), HERE, ids=[where for where, _ in HERE])
def test_a_python_block_runs(where: str, code: str, world: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-P", "-c", code]
    done = subprocess.run(words, cwd=world, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


FOREIGN = re.compile(
    r"^(?:\$ )?(?:[A-Z][A-Z_]+=\S+ )*(python3?|make|pip|uvx?|docker|hf|source|export|head|echo|lm_eval|vf-eval|done|"
    r"pytest|curl|git|cd|npm|conda|wget|sudo|torchrun|accelerate|vllm|ray)\b.*|^for \w+ in .*; do$",
    re.MULTILINE,
)
PROGRAMS: dict[str, str] = {  # the beginning of a line, and what is done about it
    "make ": "the target exists (below)",
    "pip ": "the extras exist (below); nothing is installed by a test but in tests/install",
    "uv sync": "tests/test_lock.py holds uv.lock against pyproject.toml",
    "uvx ": "downloads packages; the grade that it asks for is run in tests/selfcorrect/grading",
    "docker ": "no Docker here; tests/examples reads the Dockerfile",
    "hf download": "downloads 15 GB",
    "source ": "a shell's own",
    "export ": "a shell's own",
    "for benchmark in": "a shell's loop over commands for GPUs; their recipes are read by their schemas",
    "done": "a shell's own",
    "head ": "a shell's own",
    "curl ": "tests/doors/test_serve.py asks the server with curl",
    "echo ": "run below",
    "pytest ": "what runs this",
    "python make_problems.py": "run above, in the first hour",
    "python benchmarks/": "the file exists (below); it downloads a model",
    "python -m selfcorrect.train.rl.toy_mdp": "tests/train/rl/test_toy_mdp.py",
    "python -m vllm": "tests/doors/test_vllm.py",
    "python -m verl": "tests/doors/test_verl.py",
    "lm_eval ": "tests/doors/test_lm_eval.py",
    "vf-eval ": "tests/doors/test_verifiers.py",
}


def foreign_lines() -> list[tuple[str, str]]:
    """Return the lines of all blocks that call a program that is not ours, without variables set before it."""
    found = []
    for page in PAGES:
        for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language in ("", "sh", "bash", "shell"):
                lines = FOREIGN.finditer(re.sub(r" *\\\n *", " ", block))
                found += [(page.name, re.sub(r"^(\$ )?([A-Z][A-Z_]+=\S+ )*", "", line[0])) for line in lines]
    return found


def test_every_line_for_another_program_is_accounted_for() -> None:
    lines = foreign_lines()
    assert [(page, line) for page, line in lines if not line.startswith(tuple(PROGRAMS))] == []
    assert [start for start in PROGRAMS if not any(line.startswith(start) for _, line in lines)] == []
    for said in PROGRAMS.values():
        for named in re.findall(r"tests/[\w/.]+", said):
            assert (ROOT / named).exists(), named


def test_targets_extras_and_programs_that_lines_name_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for page, line in foreign_lines():
        if line.startswith("make "):
            assert line.split()[1] in targets, (page, line)
        if line.startswith("pip "):
            named = re.findall(r"(?:selfcorrect|\.)\[([\w,]+)\]", line)
            assert {extra for one in named for extra in one.split(",")} <= extras.keys(), (page, line)
        if line.startswith("python benchmarks/"):
            assert (ROOT / line.split()[1]).is_file(), (page, line)


def test_a_chat_in_a_pipe_answers_as_the_page_shows(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
    question = re.search(r'^echo "(.+)" \| selfcorrect chat --json$', page, re.MULTILINE)
    assert question
    shown = json.loads(re.search(r'^\{"question": .+\}$', page, re.MULTILINE)[0])  # type: ignore[index]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-P", "-m", "selfcorrect", "chat", "--json"]
    done = subprocess.run(words, cwd=tmp_path, input=question[1], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["answer"], answer["stop"], answer["tokens"]) == (shown["answer"], shown["stop"], shown["tokens"])
    assert [one["answer"] for one in answer["attempts"]] == [one["answer"] for one in shown["attempts"]]
