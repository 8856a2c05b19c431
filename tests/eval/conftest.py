"""Graded paths and finished rows, written as `selfcorrect eval` writes them; a browser to look at reports with."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.eval.run import EvalRecipe, summary
from selfcorrect.runs.jsonl import write_json
from selfcorrect.runs.recipes import to_yaml
from selfcorrect.types import Attempt, Grade, Outcome, Problem, Role, SelfEvaluation, Span, Trajectory, Verdict


def make_path(
    problem: int,
    *rights: bool,
    p: float | None = None,
    verdict: Verdict | None = None,
    seed: int = 0,
    answer: str | None = None,
    meta: dict[str, Any] | None = None,
) -> Trajectory:
    """Return a path of 10 prompt tokens, 5 an attempt and 7 a self-evaluation; ``p`` implies the verdict."""
    if verdict is None and p is not None:
        verdict = Verdict.CORRECT if p >= 0.5 else Verdict.WRONG
    grades = [
        Grade(Outcome.CORRECT, "", "4", ("4", "4"), "number")
        if right
        else Grade(Outcome.WRONG, "", answer or "5", (answer or "5", "4"), "number")
        for right in rights
    ]
    evaluations = (SelfEvaluation(f"so\n[VERIFY] {verdict}.", verdict, p),) if verdict else ()
    spans, end = [Span(Role.EXTERNAL, 0, 10, sampled=False)], 10
    for turn in range(len(rights)):
        spans.append(Span(Role.REVISION if turn else Role.ATTEMPT, end, end + 5))
        end += 5
        if turn < len(evaluations):
            spans.append(Span(Role.EVALUATION, end, end + 7))
            end += 7
    return Trajectory(
        problem=Problem(f"p{problem}", f"What is {problem}?", "4", "math", meta or {}),
        attempts=tuple(Attempt(f"it is \\boxed{{{g.extracted}}}", g.extracted, g) for g in grades),
        evaluations=evaluations,
        stop="verdict" if verdict is Verdict.CORRECT and len(rights) == 1 else "horizon",
        token_ids=tuple(range(end)),
        logprobs=(0.0,) * end,
        spans=tuple(spans),
        seed=seed,
    )


def make_row(run: Path, recipe: EvalRecipe, paths: Sequence[Trajectory], **more: Any) -> Path:
    """Write a finished row and return its folder."""
    folder = run / "eval" / recipe.row
    folder.mkdir(parents=True)
    lines = [json.dumps({"key": f"{t.problem.id}#{t.seed}", "trajectory": t.to_json()}) + "\n" for t in paths]
    (folder / "trajectories.jsonl").write_text("".join(lines))
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    write_json(folder / "scores.json", summary(recipe, list(paths), {}).to_json() | more)
    write_json(folder / "DONE", {})
    return folder


@pytest.fixture(scope="session")
def path() -> Callable[..., Trajectory]:
    return make_path


@pytest.fixture(scope="session")
def row() -> Callable[..., Path]:
    return make_row


class Browser:
    """Headless Chromium, driven over a pipe: no network, no driver package."""

    def __init__(self, profile: Path) -> None:
        to_chromium, from_chromium = os.pipe(), os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars"
        flags += " --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
        program = f"exec chromium {flags} '--user-data-dir={profile}' 3<&{to_chromium[0]} 4>&{from_chromium[1]}"
        self.process = subprocess.Popen(
            ["bash", "-c", program],
            pass_fds=(to_chromium[0], from_chromium[1]),
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(profile)},
        )
        os.close(to_chromium[0])
        os.close(from_chromium[1])
        self.writer, self.reader = os.fdopen(to_chromium[1], "wb"), os.fdopen(from_chromium[0], "rb")
        self.count, self.rest, self.session, self.problems = 0, b"", "", list[str]()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        self.writer.write(json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        self.writer.flush()
        while (answer := self._next()).get("id") != self.count:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            piece = os.read(self.reader.fileno(), 1 << 16)
            assert piece, "chromium has gone"
            self.rest += piece
        line, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(message["params"]["exceptionDetails"].get("exception", {}).get("description")))
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.problems.append(message["params"]["entry"]["text"])
        return message

    def open(self, page: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Show a page and wait until it has loaded."""
        self.problems.clear()
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=page.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """Return what an expression evaluates to (a promise is awaited)."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, element: str) -> None:
        """Click in the middle of the element that an expression gives, as a mouse would."""
        self.run(f"({element}).scrollIntoView({{block: 'center'}})")
        box = self.run(f"(({element}).getBoundingClientRect()).toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def fill(self, name: str, value: str, event: str) -> None:
        """Give a form field its value and wait until the page has taken it in."""
        field = f"document.getElementById({name!r})"
        self.run(f"{field}.value = {value!r}; {field}.dispatchEvent(new Event({event!r}))")
        self.run("new Promise((done) => setTimeout(done, 150))")

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a named key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, file: Path, whole: bool = False) -> None:
        """Save what is to be seen (or the whole page) as PNG."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.writer.close()
        self.reader.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not shutil.which("chromium"):
        pytest.skip("no chromium here")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
