"""Responses: items and events in OpenAI's order; and the counts of /metrics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.selfcorrect.serving.toy import CORRECT_FIRST, NAME, WRONG_FIRST, Running, ScriptedSource, said, serving


def asked(running: Running, question: Any, **fields: Any) -> Any:
    return running.client.post("/v1/responses", json={"model": NAME, "input": question} | fields)


REASONING = f"{said(3, 7)}\n\nCheck: 3. [VERIFY] wrong."


def test_the_output_is_a_reasoning_item_and_a_message(running: Running) -> None:
    answer = asked(running, WRONG_FIRST).json()
    reasoning, message = answer["output"]
    assert (reasoning["type"], reasoning["content"]) == ("reasoning", [{"type": "reasoning_text", "text": REASONING}])
    assert (message["type"], message["role"], message["content"][0]["text"]) == ("message", "assistant", said(3, 6))
    assert (answer["status"], answer["store"], answer["error"]) == ("completed", False, None)
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] < answer["usage"]["output_tokens"]
    assert answer["selfcorrect"]["first_answer"] == "7"
    first = asked(running, WRONG_FIRST, model=f"{NAME}-first").json()
    assert [item["type"] for item in first["output"]] == ["message"]


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "seed": 5, "selfcorrect": {"votes": 2}}])
def test_the_events_of_a_stream_are_those_of_openai_in_their_order(running: Running, fields: dict[str, Any]) -> None:
    body = {"model": NAME, "input": WRONG_FIRST, "stream": True} | fields
    with running.client.stream("POST", "/v1/responses", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [event["type"] for event in events] == names
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    order = [name for place, name in enumerate(names) if place == 0 or name != names[place - 1]]
    item = lambda kind: [
        "response.output_item.added", "response.content_part.added", f"response.{kind}.delta", f"response.{kind}.done",
        "response.content_part.done", "response.output_item.done",
    ]  # fmt: skip
    assert order == [
        "response.created", "response.in_progress", *item("reasoning_text"), *item("output_text"), "response.completed",
    ]  # fmt: skip
    whole = events[-1]["response"]
    for kind, place in (("reasoning_text", 0), ("output_text", 1)):
        deltas = [event for event in events if event["type"] == f"response.{kind}.delta"]
        assert "".join(event["delta"] for event in deltas) == whole["output"][place]["content"][0]["text"]
        assert {event["item_id"] for event in deltas} == {whole["output"][place]["id"]}
        assert {event["output_index"] for event in deltas} == {place}
    assert whole["output"][1]["content"][0]["text"] == said(3, 6)


def test_a_conversation_goes_on_by_sending_its_output_back() -> None:
    source = ScriptedSource()
    with serving(source) as running:
        output = asked(running, WRONG_FIRST).json()["output"]
        user = {"role": "user", "content": [{"type": "input_text", "text": CORRECT_FIRST}]}
        answer = asked(running, [{"role": "user", "content": WRONG_FIRST}, *output, user], instructions="Be short.")
        assert answer.status_code == 200
    assert source.seen[-1][0] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": WRONG_FIRST},
        {"role": "assistant", "content": said(3, 6)},
        {"role": "user", "content": CORRECT_FIRST},
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"type": "function_call_output", "output": "4"}]}, "input[0]"),
        ({"input": []}, "messages"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"background": True}, "background"),
        ({"max_tokens": 5}, "max_tokens"),
    ],
)
def test_what_is_not_done_is_refused(running: Running, fields: dict[str, Any], param: str) -> None:
    answer = asked(running, WRONG_FIRST, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_fault_after_the_first_text_is_the_event_of_a_failed_response(running: Running) -> None:
    body = {"model": NAME, "input": "break late: What is 2 + 2?", "stream": True}
    text = running.client.post("/v1/responses", json=body).text
    assert text.rstrip().rpartition("event: ")[2].startswith("response.failed\n")
    assert "the engine broke" in text


def test_metrics_count_what_happened_and_hold_no_text() -> None:
    with serving() as running:
        running.chat(WRONG_FIRST)
        running.stream(CORRECT_FIRST)
        running.chat(CORRECT_FIRST, temprature=1)
        text = running.client.get("/metrics").text
    counted = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert counted['selfcorrect_requests_total{address="/v1/chat/completions",status="200"}'] == "2.0"
    assert counted['selfcorrect_requests_total{address="/v1/chat/completions",status="400"}'] == "1.0"
    assert counted['selfcorrect_trajectories_total{stop="horizon"}'] == "1.0"
    assert counted['selfcorrect_trajectories_total{stop="verdict"}'] == "1.0"
    assert counted['selfcorrect_verdicts_total{verdict="wrong"}'] == "1.0"
    assert counted['selfcorrect_p_correct_bucket{le="0.1"}'] == "1.0"
    assert counted["selfcorrect_first_text_seconds_count"] == "2.0"
    assert counted["selfcorrect_samples_under_way"] == "0.0"
    assert float(counted['selfcorrect_tokens_total{kind="reasoning"}']) > 0
    assert "What is" not in text
