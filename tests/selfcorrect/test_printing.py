"""What others wrote is shown, not obeyed; nothing is printed past the one module that sees to it."""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import shlex
import subprocess
from pathlib import Path

import pytest
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from selfcorrect import printing
from selfcorrect.cli import main
from selfcorrect.markdown import code, fenced, inline
from selfcorrect.printing import Command, Terminal, clean, continued
from selfcorrect.runs.progress import meter, said_now_and_then
from selfcorrect.table import Table as PaperTable
from selfcorrect.table import latex

ROOT = Path(__file__).parents[2]
HOSTILE = (
    "\x1b]0;owned\x07\x1b]52;c;cm0=\x07\x1b[2K\x9b31m\u202etxt\u2066\u2028\ud83d\x00\r[/] [bold red]x[/] :smile: end"
)
OBEYED = ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u2028", "\ud83d", "\x00", "\r")

PAST = ["selfcorrect/grading/workers/worker.py", "selfcorrect/printing.py"]
"""What prints by itself: the one way, and the grader's workers, which speak JSON lines to their pool."""


def prints_of(source: str) -> list[tuple[int, str]]:
    """Return the lines of a module that write to the terminal by themselves, or hand markup to Rich."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rsplit(".", 1)[-1]
        titled = [k.value for k in node.keywords if k.arg in ("title", "subtitle", "caption")]
        onto = name.casefold().split(".")
        is_print = name == "print" or last in ("echo", "secho", "from_markup", "confirm")
        is_print |= last in ("print", "print_json", "print_exception", "log", "out") and "console" in onto[-2:-1]
        is_print |= last == "print" and onto[0] in ("rich", "display", "output", "errors")
        is_print |= last in ("write", "writelines") and bool({"stdout", "stderr"} & set(onto))
        if is_print:
            found.append((node.lineno, name))
        elif last == "Console" or name.endswith("Console.__init__"):
            found.append((node.lineno, "Console()"))
        elif last == "TextColumn" and not any(k.arg == "markup" for k in node.keywords):
            found.append((node.lineno, "TextColumn that reads markup"))
        elif last == "Panel" and any(isinstance(title, ast.JoinedStr) for title in titled):
            found.append((node.lineno, "Panel whose title is read as markup"))
    return found


def test_nothing_is_printed_past_the_one_way() -> None:
    past = {}
    for package in ("selfcorrect", "data_gen", "train", "eval"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = str(file.relative_to(ROOT))
            if found := prints_of(file.read_text(encoding="utf-8")):
                past[name] = found
    assert list(past) == PAST, past


@pytest.mark.parametrize(
    "code",
    [
        "print('x')",
        "console.print('x')",
        "self.display.console.print('x')",
        "rich.print('x')",
        "typer.echo('x')",
        "typer.secho('x')",
        "sys.stdout.write('x')",
        "sys.stderr.writelines(['x'])",
        "Console()",
        "rich.console.Console(stderr=True)",
        "Text.from_markup(label)",
        "TextColumn('{task.description}')",
        "Panel(text, title=f'problem {name}')",
    ],
)
def test_the_lint_sees(code: str) -> None:
    assert len(prints_of(code)) == 1


@pytest.mark.parametrize("code", ["file.write(x)", "show(x)", "Panel(text, title='recipe')", "table.add_row(x)"])
def test_the_lint_leaves_alone(code: str) -> None:
    assert prints_of(code) == []


def test_what_is_logged_is_shown_not_obeyed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)  # put back afterwards
    with pytest.raises(SystemExit):
        main(["--version"])
    capsys.readouterr()
    log = logging.Logger("of no handler")  # pytest's are at the root
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("a fault while answering %s", HOSTILE)
    log.info("nothing of this")
    said = capsys.readouterr().err
    assert said.count(clean(HOSTILE)) == 2
    assert said.startswith("a fault while answering")
    assert not any(character in said for character in OBEYED)


def test_clean_writes_out_what_a_terminal_obeys() -> None:
    shown = clean(HOSTILE)
    assert not any(character in shown for character in OBEYED)
    assert r"\x1b]0;owned\x07" in shown
    assert r"\u202etxt" in shown
    assert clean("π ≤ 3\n\t√2 é 漢字 👍🏽") == "π ≤ 3\n\t√2 é 漢字 👍🏽"


@pytest.mark.parametrize("forced", [False, True])
def test_whatever_is_shown_is_clean(forced: bool) -> None:
    file = io.StringIO()
    terminal = Terminal(file=file, width=300, force_terminal=forced, color_system="truecolor" if forced else None)
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, style="bold"))
    for what in (HOSTILE, Text(HOSTILE), table, Panel(Text(HOSTILE), title=Text(HOSTILE))):
        terminal.print(what)
    shown = file.getvalue()
    ours = shown.replace("\x1b[0m", "").replace("\x1b[1m", "").replace("\x1b[3m", "")
    assert "owned" in shown
    assert "[bold red]x[/] :smile:" in shown
    for character in OBEYED:
        assert character not in ours, repr(character)


def test_a_meter_takes_any_label(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for forced in ("", "1"):
        monkeypatch.setenv("FORCE_COLOR", forced) if forced else monkeypatch.delenv("FORCE_COLOR", raising=False)
        with meter(HOSTILE, 2) as progress:
            progress.advance(2, note=HOSTILE)
        shown = capsys.readouterr().err
        assert "owned" in shown
        assert "\x1b]" not in shown


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    import time

    with said_now_and_then(lambda: "eval x: 3 of 9", every_s=0.05):
        time.sleep(0.3)
    assert 2 <= capsys.readouterr().err.count("eval x: 3 of 9") <= 6


def test_quiet_keeps_results_and_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(printing.LEVEL, "quiet")
    printing.note("loading")
    with meter("eval", 3) as progress:
        progress.advance(3)
    printing.show("row")
    printing.complain("error")
    assert capsys.readouterr() == ("row\n", "error\n")


COMMAND = shlex.join(["echo", "selfcorrect", "eval", "math500", "label=Self-rewarding IFT + PPO", "x=it's", "a" * 90])


def test_a_command_is_one_line_on_our_terminal_and_joins_again_elsewhere() -> None:
    ours, other = io.StringIO(), io.StringIO()
    Terminal(file=ours, width=40).print(Command(COMMAND), crop=False)
    assert ours.getvalue() == COMMAND + "\n"
    Console(file=other, width=100).print(Command(COMMAND))
    assert other.getvalue().count("\n") > 1
    for text in (ours.getvalue(), other.getvalue(), "\n".join(continued(COMMAND, 30))):
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
        assert done.stdout.split() == " ".join(shlex.split(COMMAND)[1:]).split()


def test_files_hold_no_controls_no_formulas_and_no_markup() -> None:
    cells = (HOSTILE, "=HYPERLINK(1)", "@SUM(1)", "-1+cmd|' /C calc'!A0", "-5.7 [-7.4 -4.0]", "+0.4")
    table = PaperTable("t", tuple("abcdef"), [cells], ["<script>alert(1)</script> [x](javascript:y)"], [HOSTILE])
    texts = (table.to_markdown(), table.to_latex(), table.to_csv())
    for text in texts:
        assert not any(character in text for character in OBEYED if character != "\r")
    assert "<script" not in texts[0]
    assert "](" not in texts[0]
    written = next(row for row in csv.reader(io.StringIO(texts[2])) if "owned" in row[0])
    assert written[1:] == ["'=HYPERLINK(1)", "'@SUM(1)", "'-1+cmd|' /C calc'!A0", "-5.7 [-7.4 -4.0]", "+0.4"]
    assert inline("a|b<c>`d`") == r"a\|b&lt;c>\`d\`"
    assert code("a``b") == "``` a``b ```"
    assert fenced("x: '```'\n---\n\x1b", "yaml") == "````yaml\nx: '```'\n---\n\\x1b\n````"
    assert latex("\x1b[1m\t") == r"\textbackslash{}x1b[1m "


def test_an_event_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    printing.event({"label": HOSTILE})
    line = capsys.readouterr().out
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line)["label"] == HOSTILE
