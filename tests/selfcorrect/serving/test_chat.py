"""Chat completions: what is content, what is reasoning, streamed and not; usage, choices, votes; what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from selfcorrect.correction.events import AttemptText
from selfcorrect.serving.answers import Reader
from tests.selfcorrect.serving.toy import (
    CORRECT_FIRST,
    NAME,
    WRONG_FIRST,
    Running,
    ScriptedSource,
    asking,
    joined,
    said,
    serving,
)


def test_the_content_is_the_last_attempt_and_what_came_before_is_reasoning(running: Running) -> None:
    answer = running.chat(WRONG_FIRST).json()
    message = answer["choices"][0]["message"]
    assert message["content"] == said(3, 6)
    assert message["reasoning"] == message["reasoning_content"] == f"{said(3, 7)}\n\nCheck: 3. [VERIFY] wrong."
    assert answer["choices"][0]["finish_reason"] == "stop"
    path = answer["selfcorrect"]
    assert [one["answer"] for one in path["attempts"]] == ["7", "6"]
    assert path["evaluations"] == [{"text": "Check: 3. [VERIFY] wrong.", "verdict": "wrong", "p_correct": 0.1}]
    assert (path["first_answer"], path["answer"], path["stop"]) == ("7", "6", "horizon")


def test_usage_counts_all_tokens_and_those_of_reasoning_apart(running: Running) -> None:
    usage = running.chat(WRONG_FIRST).json()["usage"]
    words = len(said(3, 7).split())
    assert usage["completion_tokens"] == 2 * words + 4
    assert usage["completion_tokens_details"] == {"reasoning_tokens": words + 4}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    several = running.chat(WRONG_FIRST, n=3).json()["usage"]
    assert several["completion_tokens"] == 3 * usage["completion_tokens"]
    assert several["prompt_tokens"] == 7 + 3 * 3  # the conversation is read once


@pytest.mark.parametrize("question", [CORRECT_FIRST, WRONG_FIRST])
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_a_stream_adds_up_to_the_answer_that_is_not_streamed(running: Running, question: str, horizon: int) -> None:
    whole = running.chat(question, selfcorrect={"horizon": horizon}).json()
    events = running.stream(question, selfcorrect={"horizon": horizon}, stream_options={"include_usage": True})
    message = whole["choices"][0]["message"]
    for field in ("content", "reasoning", "reasoning_content"):
        assert joined(events, field) == message[field]
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"] == whole["usage"]
    assert events[-2]["choices"] == []
    assert events[-3]["selfcorrect"] == whole["selfcorrect"]
    assert events[-3]["choices"][0]["finish_reason"] == "stop"


def test_text_comes_as_it_is_sampled_and_the_revision_at_the_horizon_as_content() -> None:
    with serving(ScriptedSource(pause_s=0.02)) as running:
        events = running.stream(WRONG_FIRST)
    kinds = []
    for event in events[:-1]:
        delta, noted = event["choices"][0]["delta"], event.get("selfcorrect", {}).get("event")
        kind = noted if noted in ("verdict", "superseded") else next((k for k in delta if delta[k]), "end")
        kinds.append(kind)
    words = len(said(3, 7).split())
    assert kinds == ["role", *["reasoning"] * (words + 4), "verdict", "superseded", *["content"] * words, "end"]
    verdict = next(
        event["selfcorrect"] for event in events[:-1] if event.get("selfcorrect", {}).get("event") == "verdict"
    )
    assert verdict == {"event": "verdict", "turn": 1, "verdict": "wrong", "p_correct": 0.1}


def test_the_name_with_first_answers_without_correction(running: Running) -> None:
    answer = running.chat(WRONG_FIRST, model=f"{NAME}-first").json()
    assert answer["choices"][0]["message"] == {
        "role": "assistant", "content": said(3, 7), "reasoning": "", "reasoning_content": "",
    }  # fmt: skip
    assert answer["model"] == f"{NAME}-first"
    names = [one["id"] for one in running.client.get("/v1/models").json()["data"]]
    assert names == [NAME, f"{NAME}-first"]
    assert running.client.get(f"/v1/models/{NAME}").json()["id"] == NAME


def test_settings_of_a_request_reach_the_model() -> None:
    source = ScriptedSource()
    with serving(source) as running:
        own = {"horizon": 3, "threshold": 0.25, "budget": 500}
        running.chat(CORRECT_FIRST, seed=9, temperature=0.5, top_p=0.9, max_completion_tokens=400, selfcorrect=own)
        running.chat(CORRECT_FIRST)
    asked = source.seen[0][1]
    assert (asked.seed, asked.temperature, asked.top_p) == (9, 0.5, 0.9)
    assert (asked.horizon, asked.threshold, asked.budget) == (3, 0.25, 400)
    assert source.seen[1][1].temperature is None


def test_a_conversation_is_handed_on_without_what_is_not_text() -> None:
    source = ScriptedSource()
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "1 + 1?"}]},
        {"role": "assistant", "content": "2", "reasoning": "1, 2", "reasoning_content": "1, 2", "refusal": None},
        {"role": "user", "content": CORRECT_FIRST},
    ]
    with serving(source) as running:
        assert running.client.post("/v1/chat/completions", json=asking("", messages=messages)).status_code == 200
    assert source.seen[0][0] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": CORRECT_FIRST},
    ]


def test_choices_have_seeds_of_their_own_and_are_told_apart(running: Running) -> None:
    fields = {"n": 3, "seed": 4, "temperature": 1.0}
    answer = running.chat(CORRECT_FIRST, **fields).json()
    assert [one["message"]["content"] for one in answer["choices"]] == [said(2, 4), said(2, 4), said(2, 5)]
    assert [one["selfcorrect"]["seed"] for one in answer["choices"]] == [4, 5, 6]
    events = running.stream(CORRECT_FIRST, **fields)
    assert [joined(events, "content", index) for index in range(3)] == [said(2, 4), said(2, 4), said(2, 5)]


def test_a_vote_gives_the_most_frequent_answer(running: Running) -> None:
    fields: dict[str, Any] = {"seed": 6, "temperature": 1.0, "selfcorrect": {"votes": 3}}
    answer = running.chat(CORRECT_FIRST, **fields).json()  # the first of the three says 5
    assert answer["choices"][0]["message"]["content"] == said(2, 4)
    assert answer["selfcorrect"]["votes"] == [{"answer": "4", "votes": 2}, {"answer": "5", "votes": 1}]
    events = running.stream(CORRECT_FIRST, **fields)
    assert joined(events, "content") == said(2, 4)


def test_a_seed_that_was_not_given_is_said() -> None:
    source = ScriptedSource()
    with serving(source) as running:
        seeds = {running.chat(CORRECT_FIRST, temperature=1.0).json()["selfcorrect"]["seed"] for _ in range(4)}
    assert len(seeds) == 4
    assert {asked.seed for _, asked in source.seen} == seeds


@pytest.mark.parametrize(("stop", "left"), [("The", "3 + 3 = 6."), ([" answer", "6. T"], "3 + 3 ="), ("absent", None)])
def test_content_ends_before_a_stop_text(running: Running, stop: Any, left: str | None) -> None:
    left = said(3, 6) if left is None else left
    assert running.chat(WRONG_FIRST, stop=stop).json()["choices"][0]["message"]["content"] == left
    assert joined(running.stream(WRONG_FIRST, stop=stop), "content") == left


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_stop_text_is_found_wherever_the_pieces_break(cut: int) -> None:
    text = "ab  <stop> cd"
    reader = Reader(1, ("<stop>",))
    items = [*reader.take(AttemptText(0, text[:cut])), *reader.take(AttemptText(0, text[cut:]))]
    assert "".join(item.text for item in items) == reader.content == "ab"  # type: ignore[union-attr]


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"model": "tox"}, 404, "model", "did you mean"),
    ({"messages": []}, 400, "messages", "at least 1 item"),
    ({"messages": [{"role": "assistant", "content": "4"}]}, 400, "messages", "question of the user"),
    ({"messages": [{"role": "tool", "content": "4"}]}, 400, "messages.0.role", "'user'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "messages[0].content",
     "parts of type text"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "not done here"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", "not done here"),
    ({"logprobs": True}, 400, "logprobs", "not done here"),
    ({"presence_penalty": 0.5}, 400, "presence_penalty", "not done here"),
    ({"temprature": 1}, 400, "temprature", 'did you mean "temperature"'),
    ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
    ({"top_p": 0}, 400, "top_p", "greater than 0"),
    ({"n": 99}, 400, "n", "at most 16"),
    ({"max_tokens": 10**9}, 400, "max_tokens", "at most 8192"),
    ({"selfcorrect": {"horizon": 99}}, 400, "selfcorrect.horizon", "at most 8"),
    ({"selfcorrect": {"horizn": 1}}, 400, "selfcorrect.horizn", "not permitted"),
    ({"selfcorrect": {"votes": 3}}, 400, "selfcorrect.votes", "temperature 0"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "stream: true"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "status", "param", "said_"), REFUSED)
def test_what_is_not_done_is_refused_by_the_name_of_its_field(
    running: Running, fields: dict[str, Any], status: int, param: str, said_: str
) -> None:
    answer = running.chat(WRONG_FIRST, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert said_ in error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]


def test_fields_that_ask_for_nothing_are_taken(running: Running) -> None:
    nothing = {
        "tools": [], "tool_choice": "none", "logprobs": False, "presence_penalty": 0.0, "user": "me", "logit_bias": {},
        "response_format": {"type": "text"}, "n": None, "seed": None, "stop": None, "parallel_tool_calls": True,
    }  # fmt: skip
    assert running.chat(WRONG_FIRST, **nothing).status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("question", "status", "code"),
    [("too long", 400, "context_length_exceeded"), ("break", 503, "engine"), ("bug", 500, None)],
)
def test_a_fault_before_the_first_text_has_a_status_of_its_own(
    running: Running, question: str, status: int, code: str | None, streamed: bool
) -> None:
    answer = running.chat(question, stream=streamed)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "secret" not in answer.text


def test_a_fault_after_it_ends_the_stream_in_the_shape_of_an_error(running: Running) -> None:
    events = running.stream("break late: What is 2 + 2?")
    assert events[-1] == "[DONE]"
    assert events[-2]["error"]["code"] == "engine"
    assert joined(events, "reasoning").startswith(said(2, 4))
