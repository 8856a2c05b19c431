"""What `train grpo --dry-run` counts: a row of the update is a prompt and all that is sampled after it."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfcorrect.chat import ChatCodec
from selfcorrect.prompts import solve_messages, two_turn_reply
from selfcorrect.train import grpo
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl import program
from selfcorrect.types import Verdict
from tests.train.conftest import PROBLEMS, write_prompts


def printed(recipe: GrpoRecipe, run: Path) -> str:
    console = Console(width=160, record=True, file=StringIO())
    console.print(grpo.plan(recipe, run))
    return console.export_text()


@pytest.fixture
def short(tiny_model: Path) -> GrpoRecipe:
    return GrpoRecipe(model=str(tiny_model), steps=1, prompts_per_step=2, micro_rows=3, max_tokens=100)


def test_a_row_has_its_prompt(short: GrpoRecipe, codec: ChatCodec, tmp_path: Path) -> None:
    write_prompts(tmp_path / "data/prompts.jsonl")
    prompt = max(len(codec.opening(solve_messages(problem.question))) for problem in PROBLEMS)
    assert f"3 x {prompt + 100} tokens" in printed(short, tmp_path)
    reply = len(codec.reply(two_turn_reply(Verdict.WRONG)))
    two_turn = replace(short, format="two-turn")
    assert f"3 x {prompt + 2 * 100 + reply} tokens" in printed(two_turn, tmp_path)


def test_prompts_that_are_not_known_are_said_to_be_missing(short: GrpoRecipe, tmp_path: Path) -> None:
    shown = printed(short, tmp_path)
    assert "3 x 100 tokens" in shown
    assert "prompts, which are part of a row, are not known yet" in shown


@pytest.mark.parametrize(
    ("prompts", "context", "tokens"),
    [
        ({}, None, 100),
        ({"a": 20, "b": 50}, None, 150),
        ({"a": 20, "b": 50}, 130, 120),  # b does not fit and is left out
        ({"a": 20}, 120, 120),
        ({}, 80, 80),  # nothing is longer than the context
    ],
)
def test_tokens_of_a_row(short: GrpoRecipe, prompts: dict[str, int], context: Any, tokens: int) -> None:
    assert program.row_tokens(short, prompts, None, context) == tokens


def test_a_completion_that_leaves_no_room_for_a_prompt_is_said(short: GrpoRecipe, tmp_path: Path) -> None:
    """Of a model that is not on this machine the context is that of the sizes which we ship."""
    shipped = replace(short, model="Qwen/Qwen2.5-Math-7B", max_tokens=4096)
    assert "no problem can be trained on: the context holds 4,096 tokens" in printed(shipped, tmp_path)
    assert "no problem can be trained on" not in printed(replace(shipped, max_tokens=3072), tmp_path)
