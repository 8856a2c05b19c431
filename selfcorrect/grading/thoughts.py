"""The marks of thinking, in one table that `extraction`, `parsing` and `thinking` read; upper or lower case alike.

| family | opens | closes |
|---|---|---|
| tags: think, thought, reasoning … | ``<think>``, ``<seed:think>``, ``<|think|>`` | ``</think>`` |
| named ends | ``<|begin_of_thought|>``, ``<|START_THINKING|>`` | ``<|end_of_thought|>``, ``<|END_THINKING|>`` |
| brackets | ``[THINK]``, ``◁think▷`` | ``[/THINK]``, ``◁/think▷`` |
| channels | ``<|channel|>analysis`` | ``<|channel|>final`` |
| reserved tokens | ``<unused94>`` | ``<unused95>`` |
"""

from __future__ import annotations

import re

_WORDS = (
    r"think(?:ing)?|thoughts?|reason(?:ing)?|scratch_?pad|cot|chain_of_thought|analysis|rationale|reflection"
    r"|inner_monologue|deliberation"
)
MARK = re.compile(
    r"<\|?(?P<tag>/|end_of_|end_)?(?:(?:begin|start)_(?:of_)?)?(?:[a-z]{1,12}[:_])?"
    rf"(?:{_WORDS})(?:_(?:start|begin|(?P<after>end)))?(?:\s+[a-z_]+=[^<>]{{0,40}})?\s*\|?>"
    r"|\[(?P<bracket>/)?(?:think(?:ing)?|thoughts?|reasoning)\]"
    r"|◁(?P<triangle>/)?think(?:ing)?▷"
    r"|<\|channel\|>\s*(?:analysis|commentary|(?P<channel>final))(?:<\|message\|>)?"
    r"|<unused9(?:4|(?P<token>5))>",
    re.IGNORECASE,
)
"""A mark of thinking; it closes where a group matched."""


def closes(mark: re.Match[str]) -> bool:
    """True for a mark that ends the thinking."""
    return mark.lastgroup is not None


def after_thinking(text: str) -> tuple[str, bool]:
    """Return (what follows the last thinking, whether thinking is still open at the end).

    The whole text where nothing follows the thinking, where it is open, or where there is none.
    """
    bracket = "]" in text and any(begun in text for begun in ("[T", "[t", "[R", "[r", "[/"))
    if not (bracket or ("<" in text and ">" in text) or "◁" in text):
        return text, False  # quick to see, and so of most texts
    last = None
    for last in MARK.finditer(text):  # noqa: B007 (the last one is wanted)
        pass
    if last is None:
        return text, False
    if not closes(last):
        return text, True
    rest = text[last.end() :]
    return (rest if rest.strip() else text), False


def thought_spans(
    text: str, start: int = 0, end: int | None = None, *, opened_before: bool = True
) -> list[tuple[int, int, bool]]:
    """Return (start, end, closed) of each thinking in ``text[start:end]``, its marks included.

    What stands before a closing mark that nothing opened is thinking where the prompt may have opened it.
    """
    end = len(text) if end is None else end
    spans: list[tuple[int, int, bool]] = []
    opened = -1
    for mark in MARK.finditer(text, start, end):
        if not closes(mark):
            opened = mark.start() if opened < 0 else opened
        elif opened >= 0:
            spans.append((opened, mark.end(), True))
            opened = -1
        elif opened_before:
            spans = [(start, mark.end(), True)]
    return [*spans, (opened, end, False)] if opened >= 0 else spans
