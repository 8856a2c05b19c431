"""A long-CoT completion divided while it is written: the last attempt is the content, however the pieces are cut."""

from __future__ import annotations

import importlib
import random
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from selfcorrect.adapters.long_cot import LongCotStream
from selfcorrect.errors import InputError

RIGHT, WRONG = "[VERIFY] correct.", "[VERIFY] wrong."

# What the embedded model wrote after IFT, its whole message each: (reasoning, content) at horizon 2.
FIXED = (
    "1410+75=1485\n1485*8=11040\n\\boxed{11040}\n\nCheck:\n1410+75=01485:01485:===== ok\n"
    "1485*8=40+640=680+3200=3880+8000=11880:11040:==!!= not ok\n[VERIFY] wrong.\n\n",
    "Corrected:\n1410+75=1485\n1485*8=11880\n\\boxed{11880}",
)
KEPT = "203+11=214\n214*3=642\n\\boxed{642}"
KEPT_CHECK = f"{KEPT}\n\nCheck:\n203+11=00214:00214:===== ok\n214*3=12+30=42+600=00642:00642:===== ok\n{RIGHT}"
UNJUDGED = "203+11=214\n214*3=644\n\\boxed{954}\n\n\n\nCorrected:\n233+11=214\n214*3=634\n\\boxed{644}"
MALFORMED = (
    "203+11=214\n214*3=683\n\\boxed{\n\\boxed{}\n\n\n\n833\n\nCheck:\n214*3=12+30=42+600=00642:00602:===!= not ok\n"
    "[VERIFY] wrong\n\n\n\n133+11=214\n\\boxed{14\n\\boxed{{105}"
)
LAST_CHECK = f"\n\nCheck: \\boxed{{0}} is too small. {RIGHT}"

CASES = [  # text, horizon, reasoning, content
    ("".join(FIXED), 2, *FIXED),
    (KEPT_CHECK, 2, KEPT_CHECK, KEPT),
    (UNJUDGED, 2, UNJUDGED, UNJUDGED),
    (MALFORMED, 2, MALFORMED, MALFORMED),
    ("".join(FIXED) + LAST_CHECK, 2, FIXED[0] + LAST_CHECK, FIXED[1]),  # the judgement on the content is no content
    ("".join(FIXED) + LAST_CHECK, 3, "".join(FIXED) + LAST_CHECK, FIXED[1]),
    (KEPT_CHECK, 1, KEPT_CHECK[len(KEPT) :], KEPT),
    (KEPT_CHECK + "\n\nDone.", 2, KEPT_CHECK + "\n\nDone.", KEPT),
    (f"A 5.\n\n{WRONG}\n\nA 6.\n\n{WRONG}\n\nA 7.", 2, f"A 5.\n\n{WRONG}\n\n\n\n{WRONG}\n\nA 7.", "A 6."),
    (f"A 5.\n\n{WRONG}\n\nA 6.\n\n{WRONG}\n\nA 7.", 3, f"A 5.\n\n{WRONG}\n\nA 6.\n\n{WRONG}\n\n", "A 7."),
    (f"A 5.\n\n{WRONG}", 2, f"A 5.\n\n{WRONG}", "A 5."),  # stopped where a revision was due
    (f"A 5.\n\n{WRONG} {RIGHT}", 2, f"A 5.\n\n{WRONG} {RIGHT}", "A 5."),
    ("203+1", 2, "203+1", "203+1"),  # cut
    (WRONG, 2, WRONG, WRONG),  # no attempt: what there is
    ("", 2, "", ""),
]


def fed(pieces: list[str], horizon: int) -> list[tuple[str, str]]:
    stream = LongCotStream(horizon)
    return [*(stream.feed(piece) for piece in pieces), stream.feed("", ended=True)]


def joined(said: list[tuple[str, str]]) -> tuple[str, str]:
    return "".join(reasoning for reasoning, _ in said), "".join(content for _, content in said)


def cut(text: str, places: list[int]) -> list[str]:
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize(("text", "horizon", "reasoning", "content"), CASES)
def test_the_last_attempt_is_the_content_wherever_the_text_is_cut(text, horizon, reasoning, content) -> None:
    assert LongCotStream(horizon).feed(text, ended=True) == (reasoning, content)
    for place in range(len(text) + 1):
        assert joined(fed(cut(text, [place]), horizon)) == (reasoning, content), place
    for width in (1, 2, 7, 20):
        assert joined(fed(cut(text, list(range(width, len(text), width))), horizon)) == (reasoning, content), width


def test_any_text_is_complete_and_however_it_is_cut_the_same() -> None:
    parts = ["A", "\n\n", "\n", " ", RIGHT, WRONG, "[VERIFY] ", "[verify]", "[", "\\boxed{1}", "\\boxed{", "}", "boxed"]
    parts += ["\n\nCheck: 2", "<think>", "</think>", "x y", "\\frac{1}{2}"]
    randoms, contents = random.Random(0), set[bool]()
    for _ in range(3000):
        text = "".join(randoms.choices(parts, k=randoms.randint(0, 14)))
        horizon = randoms.randint(1, 3)
        stream = LongCotStream(horizon)
        reasoning, content = stream.feed(text, ended=True)
        begins, ends = stream.span
        assert content == text[begins:ends]
        assert bool(content) == bool(text.strip()), "content is empty only where nothing was written"
        assert reasoning in (text, text[:begins] + text[ends:]), "nothing is lost, and nothing is said three times"
        contents.add(reasoning == text)
        places = sorted(randoms.sample(range(len(text) + 1), min(len(text), randoms.randint(0, 12))))
        assert joined(fed(cut(text, places), horizon)) == (reasoning, content), (text, horizon, places)
        assert joined(fed(list(text), horizon)) == (reasoning, content), (text, horizon)
    assert contents == {True, False}


def test_the_attempt_at_the_horizon_is_content_while_it_is_written_and_the_first_is_not() -> None:
    said = fed(list("".join(FIXED)), 2)
    first = next(place for place, (_, content) in enumerate(said) if content)
    assert first == len(FIXED[0]), "the first character of the revision"
    assert sum(bool(content) for _, content in said) > 20
    assert not any(reasoning for reasoning, _ in said[first:])
    at_verdict = fed(list(KEPT_CHECK + "\n\nDone."), 2)
    (place,) = [place for place, (_, content) in enumerate(at_verdict) if content]
    assert place == len(KEPT_CHECK) - 1, "the character that completes the verdict"


@pytest.mark.parametrize("horizon", [0, -1, "2", 2.0, True, None])
def test_a_horizon_that_is_none_is_refused(horizon: Any) -> None:
    with pytest.raises(InputError, match="horizon is the largest number of attempts"):
        LongCotStream(horizon)


# --- vLLM's parser, on a stand-in of its base class (tests/doors/test_vllm.py has the real server) -------------------


class Refused(Exception):
    """In the place of vLLM's VLLMValidationError."""


@dataclass
class Delta:
    reasoning: str | None = None
    content: str | None = None


class Characters:
    """A tokenizer: one token a character, and 0, which is special."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, filter(None, ids)))


@dataclass
class Request:
    format: Any = None

    def extract_structured_outputs(self) -> Any:
        return self.format


@pytest.fixture
def parser_class(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """The parser as vLLM registers it."""
    registered: dict[str, type[Any]] = {}

    class Base:
        def __init__(self, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
            self.model_tokenizer = tokenizer

    class Manager:
        @staticmethod
        def register_module(name: str, module: type[Any]) -> None:
            registered[name] = module

    contents: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.entrypoints.generate.base.protocol": {"DeltaMessage": Delta},
        "vllm.exceptions": {"VLLMValidationError": Refused},
        "vllm.reasoning": {"ReasoningParser": Base, "ReasoningParserManager": Manager},
    }
    for package in ("vllm.entrypoints", "vllm.entrypoints.generate", "vllm.entrypoints.generate.base"):
        contents[package] = {}
    for name, names in contents.items():
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "selfcorrect.adapters.vllm_parser", raising=False)
    importlib.import_module("selfcorrect.adapters.vllm_parser")
    sys.modules.pop("selfcorrect.adapters.vllm_parser")
    return registered["selfcorrect"]


@pytest.mark.parametrize(("text", "horizon", "reasoning", "content"), CASES)
def test_vllms_parser_says_the_same_streamed_and_not(parser_class, text, horizon, reasoning, content) -> None:
    parser = parser_class(Characters(), chat_template_kwargs={"horizon": horizon})
    assert parser.extract_reasoning(text, Request()) == (reasoning or None, content or None)
    deltas = [parser.extract_reasoning_streaming("", "", piece, [], [], []) for piece in text]
    deltas = [delta for delta in (*deltas, parser.finish_streaming()) if delta is not None]
    assert all(delta.reasoning or delta.content for delta in deltas)
    said = [(delta.reasoning or "", delta.content or "") for delta in deltas]
    assert joined(said) == (reasoning, content)
    assert parser.engine_based_streaming
    assert not parser.is_reasoning_end([1])


def test_vllms_parser_counts_the_tokens_that_are_not_of_the_last_attempt(parser_class) -> None:
    parser = parser_class(Characters(), model_config=None)
    ids = [*map(ord, "".join(FIXED)), 0]
    assert parser.count_reasoning_tokens(ids) == len(FIXED[0]) + 1  # and the end of the message
    assert parser.extract_content_ids(ids) == list(map(ord, FIXED[1]))
    judged = [*map(ord, KEPT_CHECK), 0]
    assert parser.count_reasoning_tokens(judged) == len(judged) - len(KEPT)


def test_vllms_parser_refuses_formats_and_odd_horizons(parser_class) -> None:
    request = Request()
    assert parser_class(Characters()).adjust_request(request) is request
    with pytest.raises(Refused, match="has no format"):
        parser_class(Characters()).adjust_request(Request({"json_object": True}))
    with pytest.raises(Refused, match="a whole number from 1; got 'x'"):
        parser_class(Characters(), chat_template_kwargs={"horizon": "x"})
