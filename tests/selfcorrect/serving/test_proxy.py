"""Before another server: the loop by messages, several servers, their faults one by one, and a client that leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from selfcorrect import prompts
from selfcorrect.correction.loop import LoopSettings
from selfcorrect.errors import EngineError, InputError
from tests.selfcorrect.serving.toy import CORRECT_FIRST, WRONG_FIRST, asking, joined, said, serving, until
from tests.selfcorrect.serving.upstream import Upstream

from selfcorrect.serving.messages import EndpointSource, Said, judged, open_endpoints, probability  # isort: skip
from selfcorrect.serving.settings import UpstreamRecipe  # isort: skip - after toy, which skips without the extra


def before(*upstreams: Upstream, **options: Any) -> EndpointSource:
    options = {"backoff_s": 0.01, "model": "deep"} | options
    urls = tuple(upstream.url for upstream in upstreams)
    return open_endpoints(UpstreamRecipe(endpoints=urls, **options), LoopSettings("asked"))


def test_a_model_behind_a_server_runs_the_loop_by_messages() -> None:
    with Upstream() as upstream, serving(before(upstream)) as running:
        answer = running.chat(WRONG_FIRST, temperature=0.5, seed=3, max_tokens=200).json()
        events = running.stream(WRONG_FIRST)
    message, path = answer["choices"][0]["message"], answer["selfcorrect"]
    assert message["content"] == joined(events, "content") == said(3, 6)
    assert message["reasoning"] == joined(events, "reasoning") == f"{said(3, 7)}\n\nCheck: 3. [VERIFY] wrong."
    assert path["evaluations"][0]["verdict"] == "wrong"
    assert path["evaluations"][0]["p_correct"] == pytest.approx(0.2)
    assert answer["usage"] == {
        "prompt_tokens": 15, "completion_tokens": 22, "total_tokens": 37,
        "completion_tokens_details": {"reasoning_tokens": 13},
    }  # fmt: skip
    asked = [[one["content"] for one in body["messages"]] for body in upstream.bodies[:3]]
    assert asked[0] == [prompts.solve(WRONG_FIRST)]
    assert asked[1] == [*asked[0], said(3, 7), prompts.EVALUATE]
    assert asked[2] == [*asked[1], "Check: 3. [VERIFY] wrong.", prompts.REVISE]
    assert (upstream.bodies[0]["temperature"], upstream.bodies[0]["seed"]) == (0.5, 3)
    assert [body["max_tokens"] for body in upstream.bodies[:3]] == [200, 191, 187]


def test_a_threshold_of_a_request_decides_in_the_verdicts_place() -> None:
    with Upstream() as upstream, serving(before(upstream)) as running:
        path = running.chat(WRONG_FIRST, selfcorrect={"threshold": 0.1}).json()["selfcorrect"]
        assert (path["stop"], path["answer"]) == ("verdict", "7")
        path = running.chat(CORRECT_FIRST, selfcorrect={"threshold": 0.9}).json()["selfcorrect"]
        assert len(path["attempts"]) == 2


def test_a_server_without_log_probabilities_gives_no_confidence() -> None:
    with Upstream(scores=False) as upstream, serving(before(upstream)) as running:
        path = running.chat(WRONG_FIRST).json()["selfcorrect"]
        assert path["evaluations"][0]["p_correct"] is None
        assert path["answer"] == "6"
        asked = len(upstream.bodies)
        running.chat(CORRECT_FIRST)
        assert len(upstream.bodies) == asked + 2  # it is not asked for them again
        refused = running.chat(WRONG_FIRST, selfcorrect={"threshold": 0.5})
        assert "gives no log-probabilities" in refused.json()["error"]["message"]


@pytest.mark.parametrize("faults", [(500,), (429, 503), ("cut before",), (408, "cut before", 500)])
def test_what_fails_before_its_first_text_is_asked_again(faults: Sequence[int | str]) -> None:
    with Upstream(*faults) as upstream, serving(before(upstream)) as running:
        assert running.chat(CORRECT_FIRST).json()["choices"][0]["message"]["content"] == said(2, 4)
        assert len(upstream.bodies) == len(faults) + 2


def test_another_server_takes_over() -> None:
    with Upstream(503, forever=True) as away, Upstream() as here, serving(before(away, here)) as running:
        for _ in range(4):
            assert running.chat(WRONG_FIRST).status_code == 200
        assert len(here.bodies) == 12
    with Upstream() as gone:
        pass
    with Upstream() as here, serving(before(gone, here)) as running:
        assert running.chat(WRONG_FIRST).status_code == 200
        assert running.client.get("/health").json() == {"status": "ok"}


LASTING: list[tuple[int | str, int, str]] = [
    (400, 400, "refuses the request"),
    (401, 503, "refuses to serve"),
    (404, 503, "HTTP 404"),
    (429, 503, "HTTP 429"),
    (500, 503, "HTTP 500"),
    ("cut before", 503, "cut stream"),
    ("not chat", 503, "cut stream"),
    ("zipped", 503, "compressed answer"),
]


@pytest.mark.parametrize(("fault", "status", "said_"), LASTING)
def test_a_server_that_goes_on_failing_is_one_error(
    fault: int | str, status: int, said_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "secret-of-upstream")
    with Upstream(fault, forever=True) as upstream:
        source = before(upstream, retries=1, api_key_env="UPSTREAM_KEY")
        with serving(source) as running:
            for streamed in (False, True):
                answer = running.chat(WRONG_FIRST, stream=streamed)
                assert answer.status_code == status, answer.text
                assert said_ in answer.json()["error"]["message"]
                assert "secret-of-upstream" not in answer.text


MIDWAY = [
    ("cut", "cut stream"),
    ("garbage", "malformed event"),
    ("error event", "out of memory"),
    ("stall", "silence"),
    ("endless", "does not end"),
    ("endless scores", "does not end"),
    ("negative count", "from 0 to"),
    ("infinite count", "malformed event"),
    ("long count", "from 0 to"),
]


@pytest.mark.parametrize(("fault", "said_"), MIDWAY)
def test_a_server_that_fails_after_its_first_text_ends_the_answer_with_an_error(fault: str, said_: str) -> None:
    with Upstream(fault) as upstream, serving(before(upstream, silence_s=0.3)) as running:
        events = running.stream(WRONG_FIRST, max_tokens=50)
        assert events[-1] == "[DONE]"
        assert said_ in events[-2]["error"]["message"]
        assert running.chat(CORRECT_FIRST).status_code == 200  # the next one is served
        assert running.server.places.taken == {}


def test_a_client_that_leaves_ends_the_message_at_the_server() -> None:
    with Upstream("stall") as upstream, serving(before(upstream)) as running:
        with running.client.stream("POST", "/v1/chat/completions", json=asking(WRONG_FIRST, stream=True)) as answer:
            next(answer.iter_lines())
        assert until(lambda: not running.server.places.taken)
        assert until(lambda: running.server.source._endpoints.all[0].under_way == 0)  # type: ignore[attr-defined]


def test_health_tells_that_no_server_answers() -> None:
    with Upstream() as gone:
        pass
    with serving(before(gone)) as running:
        began = time.monotonic()
        assert running.client.get("/health").status_code == 503
        assert time.monotonic() - began < 5


def test_the_name_of_the_model_comes_from_the_server() -> None:
    import asyncio

    async def met(source: EndpointSource) -> str:
        try:
            return await source.meet()
        finally:
            await source.close()

    with Upstream() as upstream:
        assert asyncio.run(met(before(upstream, model=None))) == "deep"
    with pytest.raises(EngineError, match="no endpoint says what it serves"):
        asyncio.run(met(before(upstream, model=None)))


def test_what_cannot_be_done_by_messages_is_refused() -> None:
    with pytest.raises(InputError, match="selfcorrect serve MODEL --endpoint URL"):
        open_endpoints(UpstreamRecipe(("http://127.0.0.1:1/v1",)), LoopSettings("two-turn"))
    with pytest.raises(InputError, match="expected URLs"):
        UpstreamRecipe(("localhost:8000",))


def test_confidence_is_read_at_the_word_of_the_mark() -> None:
    word = lambda token, **likely: {
        "token": token, "logprob": 0.0, "top_logprobs": [{"token": k, "logprob": v} for k, v in likely.items()],
    }  # fmt: skip
    text = "so [VERIFY] wrong."
    apart = [
        word("so "),
        word("[VERIFY]"),
        word(" wrong", **{" wrong": -0.105360516, " correct": -2.302585093}),
        word("."),
    ]
    assert probability(text, apart) == pytest.approx(0.1)
    in_pieces = [word("so [VER"), word("IFY] "), word("wr", wr=-0.105360516, cor=-2.302585093), word("ong.")]
    assert probability(text, in_pieces) == pytest.approx(0.1)
    assert probability(text, [word("so "), word("[VERIFY]")]) is None
    assert probability(text, [{"token": "so [VERIFY] wrong."}]) is None
    assert judged(Said("so [VERIFY] wrong.", "length")).verdict is None
