"""The adapters of RL libraries: no reference is no reward, whatever a library's columns and keyword arguments are."""

from __future__ import annotations

import pickle
from decimal import Decimal
from fractions import Fraction
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from selfcorrect.errors import InputError
from selfcorrect.grading.reward_functions import (
    AccuracyReward,
    accuracy_reward,
    completion_text,
    compute_score,
    correct_answer,
)

RIGHT, WRONG = r"\boxed{7}", r"\boxed{8}"
NONE: list[Any] = [
    None,
    float("nan"),
    float("inf"),
    "",
    "  \n",
    [],
    ["7", "8"],
    {"a": 7},
    True,
]
NONE += [[None], [float("nan")], b"7"]
SEVEN: list[Any] = [
    "7",
    7,
    7.0,
    " 7 ",
    ["7"],
    (7,),
    Decimal(7),
]
SEVEN += [Fraction(7), "#### 7", r"$\boxed{7}$"]
if find_spec("numpy"):  # the base install has none
    import numpy as np

    NONE += [np.nan, np.float64("nan"), np.array(["7", "8"]), np.array([])]
    SEVEN += [np.int64(7), np.float32(7), np.array(["7"]), np.array(7)]


@pytest.mark.parametrize("value", NONE, ids=repr)
def test_no_reference_is_no_reward(value: Any) -> None:
    for column in ("gold", "solution", "answer"):
        assert accuracy_reward([RIGHT, WRONG], **{column: [value, "8"]}) == [None, 1.0]
    assert compute_score("x", RIGHT, value) == 0.0
    assert compute_score("x", RIGHT, value, ungradable=-1.0) == -1.0
    assert correct_answer(RIGHT, value, ungradable=0.5) == 0.5


@pytest.mark.parametrize("value", SEVEN, ids=repr)
def test_a_reference_is_read_out_of_any_cell(value: Any) -> None:
    assert accuracy_reward([RIGHT, WRONG], solution=[value, value]) == [1.0, 0.0]
    assert (compute_score("x", RIGHT, value), compute_score("x", WRONG, value)) == (1.0, 0.0)
    assert correct_answer([{"role": "assistant", "content": RIGHT}], value) == 1.0


def test_pandas_missing_values_are_no_reward() -> None:
    pd = pytest.importorskip("pandas")
    column = pd.Series([7, None, 7])
    assert accuracy_reward([RIGHT, RIGHT, WRONG], answer=column) == [1.0, None, 0.0]
    assert accuracy_reward([RIGHT, RIGHT], answer=pd.array(["7", None], dtype="string")) == [1.0, None]
    assert accuracy_reward([RIGHT], answer=[pd.NaT]) == [None]


def test_a_row_takes_the_first_column_that_it_has() -> None:
    assert accuracy_reward([RIGHT] * 3, gold=[None, "7", None], solution=["7", "8", float("nan")]) == [1.0, 1.0, None]
    assert accuracy_reward([RIGHT] * 2, gold=[None, "7"], source=["gsm8k", "math"]) == [None, 1.0]
    with pytest.raises(InputError, match="2 completions, but a column of 1"):
        accuracy_reward([RIGHT, RIGHT], gold=["7"])


def test_further_keyword_arguments_of_libraries_pass() -> None:
    more = {"reward_router_address": None, "reward_model_tokenizer": None, "num_turns": 1, "unknown": object()}
    assert compute_score(data_source="x", solution_str=RIGHT, ground_truth="7", extra_info={}, **more) == 1.0
    assert accuracy_reward([RIGHT], solution=["7"], trainer_state=None, log_extra=None, completion_ids=[[1]]) == [1.0]
    assert correct_answer(RIGHT, "7", {}, prompt="…", state={}, parser=None) == 1.0


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        (None, ""),
        ("a", "a"),
        ([], ""),
        ([{"role": "assistant", "content": None}], ""),
        ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}], "a"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "ab"),
        ([{"role": "assistant", "content": [{"type": "image"}, {"text": "a"}]}], "a"),
    ],
)
def test_completions_of_any_form_have_a_text(completion: Any, text: str) -> None:
    assert completion_text(completion) == text
    assert accuracy_reward([completion], gold=["7"]) == [0.0]


UNFINISHED = "3*4=12 and the answer is 7"  # 71 may have been on its way


def test_trl_knows_what_was_cut_by_the_last_token() -> None:
    reward = pickle.loads(pickle.dumps(AccuracyReward([2, 0])))  # TRL may send it to another process
    assert reward.__name__ == "accuracy_reward"
    texts = [UNFINISHED, UNFINISHED, RIGHT]
    ids = [[5, 6, 2], [5, 6, 7], [5, 7, 9]]
    assert reward(texts, completion_ids=ids, solution=["7"] * 3, trainer_state=None) == [1.0, 0.0, 1.0]
    assert AccuracyReward(2)([RIGHT, WRONG], completion_ids=[[2], []], gold=["7", "7"]) == [1.0, 0.0]
    assert accuracy_reward(texts, completion_ids=ids, solution=["7"] * 3) == [1.0, 1.0, 1.0]  # nothing says it was cut
    assert accuracy_reward(texts, finish=["stop", "length", None], solution=["7"] * 3) == [1.0, 0.0, 1.0]
    with pytest.raises(InputError, match="completion_ids"):
        reward(texts, solution=["7"] * 3)
    with pytest.raises(InputError, match="ids that end a completion"):
        AccuracyReward([])


@pytest.mark.parametrize(
    ("info", "score"),
    [
        (None, 1.0), ({}, 1.0), ({"num_turns": 2}, 1.0), ({"finish_reason": "stop"}, 1.0),
        ({"finish_reason": "length"}, 0.0), ({"is_truncated": True}, 0.0), ({"truncated": True}, 0.0),
        ({"truncated": False}, 1.0),
    ],
)  # fmt: skip
def test_verl_says_what_was_cut_in_extra_info(info: Any, score: float) -> None:
    assert compute_score("math", UNFINISHED, "7", info) == score


@pytest.mark.parametrize(
    ("state", "score"),
    [
        (None, 1.0), ({}, 1.0), ({"is_truncated": False, "trajectory": []}, 1.0), ({"is_truncated": True}, 0.0),
        ({"trajectory": [{"is_truncated": False}, {"is_truncated": True}]}, 0.0),
        ({"is_truncated": True, "trajectory": [{"is_truncated": True}, {"is_truncated": False}]}, 1.0),  # the last one
        ({"responses": [SimpleNamespace(choices=[SimpleNamespace(finish_reason="length")])]}, 0.0),
        ({"responses": [SimpleNamespace(choices=[SimpleNamespace(finish_reason="stop")])]}, 1.0),
    ],
)  # fmt: skip
def test_verifiers_says_what_was_cut_in_its_state(state: Any, score: float) -> None:
    assert correct_answer(UNFINISHED, "7", state=state) == score
