"""``selfcorrect chat`` as a user meets it: in a pseudo-terminal and in a pipe, with the real model and hostile ones."""

from __future__ import annotations

import codecs
import importlib.util
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.cli import main
from selfcorrect.engines import SampleRequest
from selfcorrect.terminal.maths import readable
from selfcorrect.types import Trajectory

for _module in ("torch", "httpx2"):
    pytest.importorskip(_module, reason="comes with the extra train")

from selfcorrect.chat import ChatCodec  # noqa: E402

spec = importlib.util.spec_from_file_location("engine_test_server", Path(__file__).parents[1] / "engines" / "server.py")
assert spec
assert spec.loader
servers = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = servers
spec.loader.exec_module(servers)

ROOT = Path(__file__).parents[3]
QUESTION = "Emma has 354 coins. Emma finds 4 more. Then Emma makes it 6 times as many. How many coins now?"
CHAT = [sys.executable, "-m", "selfcorrect", "chat"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")} | {
    "PYTHONPATH": str(ROOT),
    "TERM": "xterm-256color",
    "COLUMNS": "100",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*CHAT, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=ENVIRONMENT | environment,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),  # Ctrl-C reaches it
        )
        os.close(theirs)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def say(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def until(self, *texts: str, seconds: float = 90.0) -> str:
        """Read until all texts came since the last call; return what did."""
        new, ends = "", time.monotonic() + seconds
        while not all(text in ESCAPE.sub("", new) for text in texts):
            ready, _, _ = select.select([self.ours], [], [], max(0.0, ends - time.monotonic()))
            assert ready, f"waited for {texts}, got {new!r}"
            try:
                new += self.decoder.decode(os.read(self.ours, 65536))
            except OSError:  # the other end is closed
                break
        return new

    def leave(self) -> int:
        self.say("\x04")
        code = self.process.wait(30)
        os.close(self.ours)
        return code


@pytest.fixture
def run() -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(*arguments: str, **environment: str) -> Terminal:
        opened.append(Terminal(*arguments, **environment))
        return opened[-1]

    yield start
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def piped(text: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CHAT, *arguments], input=text, capture_output=True, text=True, env=ENVIRONMENT | environment, timeout=240
    )


def test_a_conversation_in_a_terminal(run: Any, tmp_path: Path) -> None:
    chat = run()
    assert "method asked" in chat.until("Ctrl-D leaves", "ask> ")
    chat.say(QUESTION + "\n")
    said = chat.until("answer 2148", "ask> ")
    plain = ESCAPE.sub("", said)
    parts = ["attempt 1", "2548", "self-evaluation", "✗ judged wrong", "P(correct) 0.03", "superseded 2548", "revision"]
    places = [plain.index(part) for part in parts]
    assert places == sorted(places)
    assert re.search(r"\x1b\[[0-9;]*9m2548", said), "struck through"
    chat.say("/trace\n")
    traced = chat.until("stop: horizon", "ask> ")
    assert "external, 53 tokens" in ESCAPE.sub("", traced)
    chat.say("/budget 20\n")
    chat.until("20 tokens a question", "ask> ")
    chat.say("/retry\n")
    chat.until("seed 1, at temperature 0.7", "token budget is used up", "ask> ")
    chat.say("/budget off\n")
    chat.until("none for a question", "ask> ")
    file = tmp_path / "talk.jsonl"
    for said in (f"2 trajectories in {file}", "exists"):
        chat.say(f"/save {file}\n")
        chat.until(said, "ask> ")
    rows = [Trajectory.from_json(json.loads(line)) for line in file.read_text().splitlines()]
    assert [row.stop for row in rows] == ["horizon", "length"]
    for line, said in (("/hlep", "/help"), ("/budget none", "expected a number"), ("/model no/such/model", "no/such")):
        chat.say(line + "\n")
        chat.until(said, "ask> ")
    chat.say("/model embedded-1\n")
    chat.until("embedded-1: method asked", "ask> ")
    time.sleep(0.5)  # the prompt is there before readline waits for keys: a Ctrl-C between the two waits for the next
    chat.say("\x03")
    chat.until("Ctrl-D leaves", "ask> ")
    assert chat.leave() == 0


def test_piped_questions_give_one_object_each() -> None:
    done = piped(f"{QUESTION}\n\nBen owns 941 bottles. 10 more arrive. How many bottles now?\n", "--json")
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["question"], first["answer"], first["stop"]) == (QUESTION, "2148", "horizon")
    assert [attempt["answer"] for attempt in first["attempts"]] == ["2548", "2148"]
    assert first["evaluations"][0]["verdict"] == "wrong"
    assert second["question"].startswith("Ben")


def test_a_pipe_gets_words_without_colour() -> None:
    done = piped(QUESTION, "seed=3")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "Attempt 1:"
    assert "The answer 2548 is superseded." in lines
    assert lines[-2] == "Final answer: 2148 (no further attempt is allowed)"


def test_plain_words_in_a_terminal_are_whole_lines(run: Any) -> None:
    chat = run("--plain")
    chat.until("Question: ")
    chat.say(QUESTION + "\n")
    said = chat.until("Final answer: 2148", "Question: ")
    assert "Attempt 1 is judged wrong, P(correct) 0.03." in said.replace("\r", "")
    assert not re.search(r"\x1b\[[0-9;]*m", said)
    assert chat.leave() == 0


def test_no_colour_where_none_is_wanted(run: Any) -> None:
    chat = run(NO_COLOR="1")
    chat.until("ask> ")
    chat.say(QUESTION + "\n")
    said = chat.until("answer 2148", "ask> ")
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|9[0-7])m", said)
    assert chat.leave() == 0


HOSTILE = "\x1b]0;title\x07\x1b[2J[bold]five[/bold] \u202e \r[link=x]é[/link] \\boxed{5}"


@pytest.fixture
def folder(tmp_path: Path, byte_tokenizer: Any) -> str:
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def script(request: SampleRequest, prompt: str) -> str:
    """Say something hostile, find it wrong, and repeat how many questions of the user the prompt holds."""
    turn = prompt.rpartition("Solve the problem")[2].count("<|assistant|>")
    return [HOSTILE, "no \x1b[31m [VERIFY] wrong.", f"\\boxed{{{prompt.count('Solve the problem')}}}"][turn - 1]


def test_what_a_model_writes_is_never_obeyed_and_a_follow_up_sees_final_answers(run: Any, folder: str) -> None:
    with servers.Server(ChatCodec.load(folder), script, servers.vllm) as server:
        chat = run(folder, "--endpoint", server.url, "loop.method=asked")
        chat.until("sees the final answers", "ask> ")
        chat.say("What is 2+3?\n")
        said = chat.until("answer 1", "ask> ")
        for harm in ("\x1b]0;", "\x07", "\x1b[2J", "\u202e", "\x1b[31m "):
            assert harm not in said
        for shown in (r"\x1b]0;title\x07\x1b[2J[bold]five[/bold]", r"\u202e", "[link=x]é[/link]"):
            assert shown in ESCAPE.sub("", said)
        chat.say("And now?\n")
        chat.until("answer 2", "ask> ")
        chat.say("/new\n")
        chat.until("a new conversation", "ask> ")
        chat.say("And now?\n")
        chat.until("answer 1", "ask> ")
        assert chat.leave() == 0
    prompts = [server.codec.decode(body["prompt"]) for body in server.bodies]
    assert "five" not in prompts[3], "a superseded attempt"
    assert "\\boxed{1}" in prompts[3]


def test_ctrl_c_stops_the_answer_and_not_the_program(run: Any, folder: str) -> None:
    with servers.Server(ChatCodec.load(folder), script, servers.vllm, delay_s=20.0) as server:
        chat = run(folder, "--endpoint", server.url, "loop.method=asked")
        chat.until("ask> ")
        chat.say("What is 2+3?\n")
        while not server.bodies:
            time.sleep(0.01)
        started = time.monotonic()
        chat.say("\x03")
        chat.until("stopped", "ask> ", seconds=10)
        assert time.monotonic() - started < 10
        server.delay_s = 0.0
        chat.say("What is 2+3?\n")
        chat.until("answer 1", "ask> ")
        assert chat.leave() == 0


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command in this process, as it must end with an error; return its message on one line."""

    def run(text: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        with pytest.raises(SystemExit) as ended:
            main(["chat", *arguments])
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (1, "")
        assert "Traceback" not in said.err
        return " ".join(said.err.replace("│", " ").split())

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no/such/model"], "no/such/model"),
        (["one", "two"], "chat takes one model"),
        (["loop.horizon=0"], "horizon=0"),
        (["loop.method=askd"], 'did you mean "asked"'),
        (["loop.method=gold"], "reference answers"),
        (["loop.stop=gold"], "reference answers"),
        (["loop.stop=judge"], "a judge beside the model"),
        (["engine.threads=0"], "threads are at least 1"),
        (["--engine", "transformer"], 'did you mean "transformers"'),
        (["sed=1"], "sed"),
        (["embedded", "--endpoint", "localhost:8000"], "expected URLs"),
    ],
)
def test_bad_input_is_one_clear_message(refused: Any, arguments: list[str], said: str) -> None:
    told = refused("q\n", *arguments)
    assert said in told
    assert "(transformers)" not in told  # it is known before a model is loaded


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
def test_a_pipe_without_a_question_says_what_is_expected(refused: Any, text: str) -> None:
    told = refused(text, "--json")
    assert "expected questions in UTF-8, one a line; it ended without one" in told
    assert "loading" not in told


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\frac{x+1}{2}", "(x+1)/2"),
        (r"\dfrac{1}{\sqrt{2}}", "1/(√2)"),
        (r"2\sqrt{3}\text{ cm}^2", "2√3 cm²"),
        (r"x^{10} \le 3\times 10^{-2}", "x¹⁰ ≤ 3× 10⁻²"),
        (r"\left(1,\infty\right)", "(1,∞)"),
        (r"90^\circ", "90°"),
        (r"50\%", "50%"),
        (r"\unknown{x}", r"\unknown{x}"),
        ("2148", "2148"),
    ],
)
def test_answers_are_readable(latex: str, text: str) -> None:
    assert readable(latex) == text
