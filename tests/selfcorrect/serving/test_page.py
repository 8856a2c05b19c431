"""The page in headless Chromium: ask, watch, stop, error, ask again; hostile text; phone width, dark, keyboard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfcorrect.errors import EngineError
from selfcorrect.printing import clean
from selfcorrect.types import Message
from tests.selfcorrect.serving.toy import (
    CORRECT_FIRST,
    NAME,
    WRONG_FIRST,
    Running,
    ScriptedSource,
    serving,
    until,
)

from selfcorrect.serving.sources import Asked  # isort: skip - after toy, which skips where the extra is absent

TEXT = "document.body.innerText"
STATUS = "document.getElementById('status').textContent"
LAST = "[...document.querySelectorAll('.asked')].at(-1)"


@dataclass(frozen=True)
class Address:
    """What `Browser.open` takes."""

    url: str

    def as_uri(self) -> str:
        return self.url


def visit(browser: Any, running: Running, **size: Any) -> None:
    browser.open(Address(running.url + "/"), **size)
    assert until(lambda: browser.run("document.getElementById('model').textContent") == NAME)


def ask(browser: Any, question: str) -> None:
    browser.run("document.getElementById('question').focus()")
    browser.type(question)
    browser.press("Enter")


def shows(browser: Any, text: str, where: str = TEXT) -> bool:
    return until(lambda: text in (browser.run(where) or "").replace("\n", " "), 10)


def test_attempt_verdict_and_revision_arrive_one_after_the_other(browser: Any) -> None:
    with serving(ScriptedSource(pause_s=0.1)) as running:
        visit(browser, running)
        ask(browser, WRONG_FIRST)
        assert shows(browser, "Attempt …", STATUS)
        assert browser.run("document.querySelectorAll('.turn.attempt.live').length") == 1
        assert "Self-evaluation" not in browser.run(TEXT)
        assert shows(browser, "judged wrong")
        assert "P(correct) 0.100" in browser.run(TEXT)
        assert browser.run("document.querySelectorAll('.turn.attempt.superseded').length") == 1
        assert "Final answer" not in browser.run(TEXT)
        assert shows(browser, "Final answer")
        kinds = browser.run(f"[...{LAST}.querySelectorAll('.turn')].map((node) => node.className)")
        assert kinds == ["turn attempt superseded", "turn evaluation", "turn revision"]
        titles = browser.run(f"[...{LAST}.querySelectorAll('.outcome .formula')].map((node) => node.title)")
        assert titles == ["7", "6"]
        facts = browser.run(f"{LAST}.querySelector('.facts').textContent")
        assert "22 tokens, 13 of them" in facts
        assert "ended: the last attempt that was allowed" in facts
        assert browser.problems == []


def test_mathematics_is_set_with_the_fonts_of_the_package(browser: Any, running: Running) -> None:
    visit(browser, running)
    ask(browser, CORRECT_FIRST)
    assert shows(browser, "judged correct")
    assert browser.run("document.querySelector('.turn.attempt .formula').title") == r"\boxed{4}"
    loaded = (
        "document.fonts.ready.then(() => [...document.fonts].filter((f) => f.status === 'loaded').map((f) => f.family))"
    )
    assert "KaTeX_Main" in browser.run(loaded)
    names = browser.run("performance.getEntriesByType('resource').map((one) => one.name)")
    assert [name for name in names if not name.startswith(running.url)] == []
    assert browser.problems == []


def test_a_follow_up_question_carries_the_final_answers(browser: Any) -> None:
    source = ScriptedSource()
    with serving(source) as running:
        visit(browser, running)
        ask(browser, WRONG_FIRST)
        assert shows(browser, "Final answer")
        ask(browser, CORRECT_FIRST)
        assert shows(browser, "judged correct")
        assert until(lambda: len(source.seen) == 2 and source.whole == 2)
        said = [message["content"] for message in source.seen[1][0]]
        assert said == [WRONG_FIRST, "3 + 3 = 6. The answer is \\boxed{6}.", CORRECT_FIRST]


def test_stop_ends_the_work_and_ask_again_begins_anew(browser: Any) -> None:
    source = ScriptedSource(pause_s=0.2)
    with serving(source) as running:
        visit(browser, running)
        for way in ("click", "key"):
            ask(browser, WRONG_FIRST)
            assert until(lambda: source.open == 1)
            if way == "click":
                browser.click("document.getElementById('stop')")
            else:
                browser.press("Escape")
            assert shows(browser, "Stopped.")
            assert until(lambda: source.open == 0)
        assert source.whole == 0
        source.pause_s = 0.0
        browser.click(f"{LAST}.querySelector('.stopped button')")
        assert shows(browser, "Final answer")
        assert len(source.seen[-1][0]) == 1  # what was stopped is no part of the conversation


def test_an_error_is_shown_with_its_id_and_a_lost_connection_can_be_asked_again(browser: Any) -> None:
    source = ScriptedSource()
    with serving(source, limits={"unread_s": 1, "grace_s": 0.1}) as running:
        visit(browser, running)
        ask(browser, "break")
        assert shows(browser, "the engine broke (req_")
        ask(browser, "break late: What is 2 + 2?")
        assert until(lambda: "the engine broke" in (browser.run(f"{LAST}.querySelector('.failed')?.textContent") or ""))
        port = running.url.rpartition(":")[2]
    ask(browser, WRONG_FIRST)  # nobody listens any more
    assert shows(browser, "The server cannot be reached.")
    with serving(source, port=int(port)) as running:
        browser.click(f"{LAST}.querySelector('.failed button')")
        assert shows(browser, "Final answer")


def test_a_stream_that_is_cut_is_said_to_be_cut(browser: Any) -> None:
    class Cutting(ScriptedSource):
        async def stream(self, messages: Sequence[Message], asked: Asked) -> AsyncIterator[Any]:
            texts = 0
            async for event in super().stream(messages, asked):
                yield event
                texts += 1
                for connection in list(running.listener.server_state.connections):
                    if len(self.seen) == 1 and texts > 5:  # before the first text, Chromium would ask again by itself
                        connection.transport.abort()  # type: ignore[union-attr]

    with serving(Cutting(pause_s=0.1)) as running:
        visit(browser, running)
        ask(browser, WRONG_FIRST)
        failed = f"{LAST}.querySelector('.failed')?.textContent"
        assert until(lambda: "connection was lost" in (browser.run(failed) or ""))
        browser.click(f"{LAST}.querySelector('.failed button')")
        assert shows(browser, "Final answer")


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(browser: Any) -> None:
    key = "key-of-the-tests-1"
    with serving(keys=[key]) as running:
        browser.open(Address(running.url + "/"))
        assert shows(browser, "asks for an API key", STATUS)
        browser.fill("key", key, "input")
        browser.run("document.getElementById('key').dispatchEvent(new Event('change', {bubbles: true}))")
        assert until(lambda: browser.run("document.getElementById('model').textContent") == NAME)
        ask(browser, CORRECT_FIRST)
        assert shows(browser, "judged correct")
        assert key not in str(browser.run("JSON.stringify(localStorage)"))


def test_settings_reach_the_model(browser: Any) -> None:
    source = ScriptedSource()
    with serving(source) as running:
        visit(browser, running)
        browser.click("document.querySelector('#settings summary')")
        for name, value in (
            ("horizon", "3"),
            ("threshold", "0.35"),
            ("temperature", "0.5"),
            ("votes", "2"),
            ("seed", "4"),
        ):
            browser.fill(name, value, "change")
        ask(browser, WRONG_FIRST)
        assert shows(browser, "votes: 6 2")
        asked = source.seen[0][1]
        assert (asked.horizon, asked.threshold, asked.temperature, asked.seed) == (3, 0.35, 0.5, 4)
        browser.run("localStorage.clear()")


HOSTILE = (
    "<img src=x onerror=document.documentElement.dataset.pwned=1> "
    r"$\href{javascript:document.documentElement.dataset.pwned=2}{click}$ \boxed{<svg onload=alert(1)>} "
    "<script>document.documentElement.dataset.pwned=3</script>"
)
OBEYED = "\0\x1b]0;title\x07\r\x85\u061c\u200f\u2028\u202egnorw\u2069\ufff9\U000e0041"


def test_hostile_text_stays_text(browser: Any) -> None:
    class Hostile(ScriptedSource):
        async def _events(self, question: str, asked: Asked) -> AsyncIterator[Any]:
            from selfcorrect.correction.events import AttemptText
            from selfcorrect.serving.sources import Finished, Usage
            from selfcorrect.types import Attempt, Problem, Trajectory

            said = HOSTILE + OBEYED
            yield AttemptText(0, said)
            yield Finished(Trajectory(Problem("", "", "", "math"), (Attempt(said, said),)), Usage())

    with serving(Hostile()) as running:
        visit(browser, running)
        ask(browser, HOSTILE)
        assert shows(browser, "ended:")
        assert browser.run("Object.keys(document.documentElement.dataset)") == []
        forbidden = "a[href^=javascript], img, iframe, object, [onerror], [onload]"
        assert browser.run(f"document.querySelectorAll('main :is({forbidden})').length") == 0
        shown = browser.run("document.body.textContent")
        assert shown.count(clean(OBEYED)) == 3, "as an attempt, as its answer, in the status"
        assert clean(shown) == shown
        inline = "script.textContent = 'document.documentElement.dataset.pwned = 4'"
        evil = (
            f"(() => {{ const script = document.createElement('script'); {inline}; document.body.append(script); }})()"
        )
        browser.run(evil)  # the policy: no inline script, whatever puts it there
        assert browser.run("Object.keys(document.documentElement.dataset)") == []


def test_the_page_fits_a_phone_and_the_dark(browser: Any, running: Running) -> None:
    for width, dark in ((390, False), (390, True), (1200, True)):
        visit(browser, running, width=width, dark=dark)
        ask(browser, WRONG_FIRST)
        assert shows(browser, "Final answer")
        assert browser.run("document.documentElement.scrollWidth") <= width
        paper = browser.run("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(21, 23, 26)" if dark else "rgb(253, 253, 252)")


def test_the_page_works_by_keyboard_and_for_those_who_want_no_motion(browser: Any, running: Running) -> None:
    visit(browser, running)
    assert browser.run("document.activeElement.id") == "question"
    unnamed = "[...document.querySelectorAll('input, textarea')].filter((node) => !node.labels.length).length"
    assert browser.run(unnamed) == 0
    assert browser.run("document.getElementById('status').getAttribute('role')") == "status"
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.send("Emulation.setEmulatedMedia", features=features)
    moving = """(() => {
      const turn = document.createElement('div'), pre = document.createElement('pre');
      turn.className = 'turn live'; turn.append(pre); document.body.append(turn);
      return getComputedStyle(pre, '::after').animationName;
    })()"""
    assert browser.run(moving) == "none"


def test_nothing_but_the_files_of_the_page_is_served(running: Running) -> None:
    for path in ("/page/page.js", "/page/katex.min.css", "/page/fonts/KaTeX_Main-Regular.woff2"):
        assert running.client.get(path).status_code == 200
    for path in (
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/page.html/..%2f..%2fapp.py",
        "/page/report.js",
        "/page/",
    ):
        assert running.client.get(path).status_code == 404
    with serving(page=False) as bare:
        assert bare.client.get("/").status_code == 404


def test_a_source_that_fails_at_once_is_no_fault_of_the_page(browser: Any) -> None:
    class Failing(ScriptedSource):
        async def stream(self, messages: Sequence[Message], asked: Asked) -> AsyncIterator[Any]:
            raise EngineError("no engine")
            yield

    with serving(Failing()) as running:
        visit(browser, running)
        ask(browser, CORRECT_FIRST)
        assert shows(browser, "no engine (req_")
