"""Keys and passwords are in nothing that a run writes or prints: every file, both streams, of runs of all ends."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.cli import main
from tests.data_gen.worlds import WORLD, write_problems

spec = importlib.util.spec_from_file_location("secrets_server", Path(__file__).with_name("server.py"))
assert spec
assert spec.loader
servers = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = servers
spec.loader.exec_module(servers)

KEY, PASSWORD, EXTRA = "sk-MARKED-0123456789abcdef", "MARKED-hunter22", "MARKED-in-extra"


@pytest.fixture
def folder(tmp_path: Path, byte_tokenizer: Any) -> Path:
    byte_tokenizer().save_pretrained(tmp_path / "model")
    write_problems(tmp_path / "toy.jsonl")
    return tmp_path


def command(folder: Path, url: str, stage: str, *more: str) -> list[str]:
    login = url.replace("http://", f"http://bob:{PASSWORD}@")
    return [
        stage, "embedded", "--run", str(folder / "run"), "--engine", "openai", f"engine.model={folder / 'model'}",
        f"engine.endpoints=[{login}]", f"engine.options.extra={{api_key: {EXTRA}, note: Bearer {EXTRA}, priority: 3}}",
        "engine.options.backoff_s=0.01", "engine.options.retries=1", f"problems.source={folder / 'toy.jsonl'}", *more,
    ]  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, args: list[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["selfcorrect", *args])
    try:
        main(args)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


GEN = ("problems.count=30", "prompts=4", "quota={d1: 6, d2: 2, d3: 6}", "max_tokens=120", "pilot=0")
EVAL = ("problems.count=6", "method=single-turn", "max_tokens=120")


def test_no_secret_is_written_or_printed(folder, monkeypatch, capfd, caplog) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    monkeypatch.setenv("SELFCORRECT_OUTPUT", "verbose")
    codec = ChatCodec.load(str(folder / "model"))
    echo = servers.status(401, message=f"no such key: {KEY}, nor {PASSWORD}, nor {EXTRA}")
    with servers.Server(codec, WORLD, servers.vllm) as server:
        assert run(monkeypatch, command(folder, server.url, "gen", *GEN, "--dry-run")) == 0
        assert run(monkeypatch, command(folder, server.url, "gen", *GEN)) == 0
        assert run(monkeypatch, command(folder, server.url, "eval", *EVAL, "row=one")) == 0
        assert run(monkeypatch, ["report", "html", str(folder / "run")]) == 0
        assert server.bodies[0]["api_key"] == EXTRA, "it is sent"
        assert server.headers[0]["Authorization"].startswith("Basic ")
        server.faults = lambda number: echo
        assert run(monkeypatch, command(folder, server.url, "eval", *EVAL, "row=two")) == 1
        other = command(folder, server.url, "gen", *GEN, "seed=5")
        assert run(monkeypatch, other) == 1, "another recipe: the difference is shown"
    assert run(monkeypatch, command(folder, server.url, "eval", *EVAL, "row=three")) == 1, "no server"
    printed = "".join(capfd.readouterr()) + caplog.text
    files = {path: path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file()}
    written = {path.name for path in files}
    assert {
        "recipe.yaml",
        "provenance.json",
        "README.md",
        "attempts.jsonl",
        "trajectories.jsonl",
        "report.html",
    } <= written
    leaks = [path for path, text in files.items() if "MARKED" in text]
    assert leaks == []
    assert "MARKED" not in printed
    assert "***" in files[folder / "run/gen/recipe.yaml"]
    assert "***" in json.loads(files[folder / "run/eval/one/provenance.json"])["command"]


def test_a_rotated_key_resumes_the_same_run(folder, monkeypatch, capfd) -> None:
    codec = ChatCodec.load(str(folder / "model"))
    with servers.Server(codec, WORLD, servers.vllm) as server:
        assert run(monkeypatch, command(folder, server.url, "eval", *EVAL, "row=one")) == 0
        asked = len(server.bodies)
        again = [
            word.replace("hunter22", "other").replace("in-extra", "anew")
            for word in command(folder, server.url, "eval", *EVAL, "row=one")
        ]
        assert run(monkeypatch, again) == 0
        assert len(server.bodies) == asked, "finished: only read"
    capfd.readouterr()
