"""Every prompt wording of the toolkit, for both formats (method.md, sections 1 and 2), in our own words.

**Separate requests** (stage 1, and the prompted baselines) ask one model for one part at a time:
``solve`` → attempt, ``EVALUATE`` → self-evaluation, ``REVISE`` → revision.
**long-CoT** joins the parts with ``SEPARATOR`` into ONE assistant completion; nothing is asked in between.
**Two-turn chat** lets the assistant close its attempt by answering ``SELF_QUESTION``; a deterministic
user message (``CHAT_WRONG`` or ``CHAT_CORRECT``) chosen by that answer follows.

The wordings are hashed into every result file (`fingerprint`); changing one changes the embedded model's
training text, so it must be rebuilt with ``selfcorrect train pretrain``.
"""

from __future__ import annotations

import hashlib

from selfcorrect.types import Message, Verdict

SOLVE = "Solve the problem step by step. Put the final answer in \\boxed{}."
"""Appended to the question on a line of its own."""

EVALUATE = "Check the solution step by step. End with [VERIFY] correct. or [VERIFY] wrong."
"""Asks for the self-evaluation of the attempt just written."""

REVISE = "The answer is wrong. Write a corrected solution. Put the final answer in \\boxed{}."
"""Asks for a revision after a self-evaluation (true or misleading), and after the gold verdict."""

INTRINSIC = "There may be an error in the solution. Write an improved solution. Put the final answer in \\boxed{}."
"""Intrinsic self-correction (and STaR/RAFT): always asks for another attempt, whatever the first was worth."""

SELF_QUESTION = "Is my most recent final answer correct (Yes or No)?"
"""Two-turn chat: the assistant asks itself this at the end of an attempt and answers it."""

CHAT_WRONG = "You judged your answer to be wrong. Rewrite the solution. Put the final answer in \\boxed{}."
CHAT_CORRECT = "You judged your answer to be correct. Confirm it and change nothing. Put the final answer in \\boxed{}."

SEPARATOR = "\n\n"
"""Stands between the parts of a long-CoT path. In training it belongs to the part that follows it."""


def solve(question: str) -> str:
    """Return the user message that asks for a first attempt."""
    return f"{question}\n{SOLVE}"


def solve_messages(question: str, examples: list[tuple[str, str]] | None = None) -> list[Message]:
    """Return the opening chat: optional worked (question, solution) examples, then the problem."""
    messages: list[Message] = []
    for example, solution in examples or []:
        messages += [{"role": "user", "content": solve(example)}, {"role": "assistant", "content": solution}]
    return [*messages, {"role": "user", "content": solve(question)}]


def two_turn_reply(verdict: Verdict) -> str:
    """Return the deterministic user message that follows a two-turn verdict."""
    return CHAT_CORRECT if verdict is Verdict.CORRECT else CHAT_WRONG


def fingerprint() -> str:
    """Return a short hash of every wording: part of each result file."""
    wordings = (SOLVE, EVALUATE, REVISE, INTRINSIC, SELF_QUESTION, CHAT_WRONG, CHAT_CORRECT, SEPARATOR)
    return hashlib.blake2b("\0".join(wordings).encode(), digest_size=6).hexdigest()
