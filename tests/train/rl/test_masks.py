"""Masks, token for token: what is learned of a path, in both formats, under real families' chat templates."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from itertools import zip_longest
from typing import Any

import pytest

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.correction.loop import solve
from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.train.data.rows import encode_again
from selfcorrect.train.rl.rollouts import Format, Rollout, SamplingSettings, roll_out
from selfcorrect.training_row import TrainingRow
from selfcorrect.types import Problem, Role, Trajectory

PROBLEM = Problem("p", "What is 2+2?", "4", "math")
CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
# SmolLM2-Instruct's own template, from its tokenizer_config.json.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
FAMILIES: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    # family: template, its special tokens, what ends a turn, what stands between an assistant's and a user's text
    "Qwen2.5": ("qwen2_5.jinja", CHATML, "<|im_end|>", "\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"),
    "Llama-3": (
        "llama3.jinja",
        LLAMA,
        "<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "SmolLM2": (SMOLLM2, CHATML, "<|im_end|>", "\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"),
}


@pytest.fixture(params=[*FAMILIES, "embedded"])
def family(request: pytest.FixtureRequest, byte_tokenizer: Callable[[], Any]) -> tuple[ChatCodec, str, str]:
    """A codec of the family's template, what ends a turn in it, and what stands between two turns."""
    if request.param == "embedded":
        codec = ChatCodec.load("embedded")
        end = codec.decode([codec.turn_end])
        return codec, end, codec.decode(codec.reply("{}")[1:])
    template, special, end, between = FAMILIES[request.param]
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.eos_token = end
    tokenizer.bos_token = special[0] if request.param == "Llama-3" else None
    if template.endswith(".jinja"):
        template = (files("trl") / "chat_templates" / template).read_text(encoding="utf-8")
    tokenizer.chat_template = template
    return ChatCodec(tokenizer), end, between


class Speaker:
    """An engine that says the next of its lines."""

    context = None

    def __init__(self, codec: ChatCodec, *lines: str) -> None:
        self.codec, self.lines, self.asked = codec, list(lines), []  # type: ignore[var-annotated]

    name = "speaker"

    def sample_many(self, requests: list[SampleRequest]) -> list[Sample]:
        self.asked += requests
        samples = []
        for request in requests:
            ids = self.codec.encode(self.lines.pop(0))
            watched = tuple(  # P(correct) is 0.2 where a verdict is said
                (math.log(0.2), math.log(0.8)) if token in request.watch_ids else (-20.0, -20.0) for token in ids
            )
            samples.append(Sample(ids, (-0.5,) * len(ids), "stop", self.codec.turn_end, -0.25, watched))
        return samples

    async def sample(self, request: SampleRequest) -> Sample:
        return self.sample_many([request])[0]

    async def close(self) -> None: ...


def rolled(codec: ChatCodec, sampling: SamplingSettings, *lines: str) -> tuple[Rollout, Speaker]:
    engine = Speaker(codec, *lines)
    (rollout,) = roll_out(engine, codec, [PROBLEM], [0], sampling)
    return rollout, engine


def learned_text(codec: ChatCodec, ids: Any, learned: Any) -> list[str]:
    """Return the runs of learned tokens, decoded."""
    runs: list[list[int]] = [[]]
    for token, learns in zip(ids, learned, strict=True):
        if learns:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [codec.decode(run) for run in runs if run]


FIRST = f"It is \\boxed{{5}}. {prompts.SELF_QUESTION} No"
SECOND = f"It is \\boxed{{4}}. {prompts.SELF_QUESTION} Yes"


def test_two_turn_rollouts_learn_the_assistants_messages_and_their_ends(family: tuple[ChatCodec, str, str]) -> None:
    codec, end, between = family
    rollout, engine = rolled(codec, SamplingSettings("two-turn"), FIRST, SECOND)
    user = between.format(prompts.CHAT_WRONG)
    assert codec.decode(rollout.completion_ids) == FIRST + end + user + SECOND + end
    assert learned_text(codec, rollout.completion_ids, rollout.learned) == [FIRST + end, SECOND + end]
    assert [value != 0 for value in rollout.logprobs] == [bool(learns) for learns in rollout.learned]
    said = [(part.role, codec.decode(rollout.completion_ids[part.start : part.end])) for part in rollout.parts]
    assert said == [
        (Role.ATTEMPT, "It is \\boxed{5}."),
        (Role.EVALUATION, f" {prompts.SELF_QUESTION} No{end}"),
        (Role.REVISION, "It is \\boxed{4}."),
        (Role.EVALUATION, f" {prompts.SELF_QUESTION} Yes{end}"),
    ]
    assert engine.asked[1].prompt_ids == rollout.prompt_ids + rollout.completion_ids[: -len(codec.encode(SECOND)) - 1]
    chat = [*prompts.solve_messages(PROBLEM.question), {"role": "assistant", "content": FIRST}]
    assert engine.asked[1].prompt_ids == codec.opening([*chat, {"role": "user", "content": prompts.CHAT_WRONG}])


def test_a_two_turn_path_that_is_judged_correct_is_one_message(family: tuple[ChatCodec, str, str]) -> None:
    codec, end, _ = family
    rollout, _ = rolled(codec, SamplingSettings("two-turn"), SECOND)
    assert rollout.trajectory.stop == "verdict"
    assert learned_text(codec, rollout.completion_ids, rollout.learned) == [SECOND + end]


def test_a_message_without_a_verdict_is_final(family: tuple[ChatCodec, str, str]) -> None:
    rollout, _ = rolled(family[0], SamplingSettings("two-turn"), "It is \\boxed{5}.")
    assert rollout.trajectory.stop == "no-verdict"
    assert [part.role for part in rollout.parts] == [Role.ATTEMPT]
    assert not rollout.trajectory.evaluations


def test_a_message_that_is_cut_in_its_question_is_all_attempt(family: tuple[ChatCodec, str, str]) -> None:
    codec = family[0]
    text = f"It is \\boxed{{4}}. {prompts.SELF_QUESTION}"

    class Cut(Speaker):
        def sample_many(self, requests: list[SampleRequest]) -> list[Sample]:
            return [replace(sample, finish="length", stop_id=None) for sample in super().sample_many(requests)]

    (rollout,) = roll_out(Cut(codec, text), codec, [PROBLEM], [0], SamplingSettings("two-turn"))
    assert rollout.trajectory.stop == "length"
    assert learned_text(codec, rollout.completion_ids, rollout.learned) == [text]
    assert [part.role for part in rollout.parts] == [Role.ATTEMPT]
    assert rollout.parts[0].end == len(rollout.completion_ids)


@pytest.mark.parametrize("form", ["long-cot", "two-turn"])
@pytest.mark.parametrize("lines", [(0, 1), (1,), (2,)])
def test_evaluation_and_rl_make_the_same_record(
    family: tuple[ChatCodec, str, str], form: Format, lines: tuple[int, ...]
) -> None:
    """The same ids give the same attempts, self-evaluations, P(correct), spans and message ends in both."""
    codec = family[0]
    said = (FIRST, SECOND, "It is \\boxed{5}.") if form == "two-turn" else (LONG, SECOND_LONG, "It is \\boxed{5}.")
    spoken = [said[n] for n in lines] if form == "two-turn" else [said[lines[0]]]
    sampling = SamplingSettings(form, temperature=0.0)
    rollout, _ = rolled(codec, sampling, *spoken)
    evaluated = asyncio.run(solve(PROBLEM, Speaker(codec, *spoken), codec, sampling.settings, seed=0))
    assert rollout.trajectory == evaluated
    assert [e.p_correct for e in evaluated.evaluations] == [pytest.approx(0.2)] * len(evaluated.evaluations)
    assert len(evaluated.evaluations) == (0 if lines == (2,) else len(evaluated.attempts))
    texts = [codec.decode(evaluated.token_ids[s.start : s.end]).strip() for s in evaluated.spans[1:] if s.sampled]
    parts = zip_longest(evaluated.attempts, evaluated.evaluations)
    assert texts == [part.text for pair in parts for part in pair if part is not None]
    assert Trajectory.from_json(evaluated.to_json()) == evaluated


SECOND_LONG = "It is \\boxed{4}.\n\nYes.\n[VERIFY] correct."
LONG = "It is \\boxed{5}.\n\nNo.\n[VERIFY] wrong.\n\nIt is \\boxed{4}.\n\nYes.\n[VERIFY] correct."


def test_long_cot_rollouts_learn_up_to_the_stop_decision(family: tuple[ChatCodec, str, str]) -> None:
    codec, end, _ = family
    rollout, _ = rolled(codec, SamplingSettings("long-cot"), LONG)
    assert learned_text(codec, rollout.completion_ids, rollout.learned) == [LONG + end]
    assert [codec.decode(rollout.completion_ids[part.start : part.end]) for part in rollout.parts] == [
        "It is \\boxed{5}.",
        "\n\nNo.\n[VERIFY] wrong.",
        "\n\nIt is \\boxed{4}.",
        f"\n\nYes.\n[VERIFY] correct.{end}",
    ]
    chatter = LONG + "\n\nIt is \\boxed{7}."
    rollout, _ = rolled(codec, SamplingSettings("long-cot"), chatter)
    assert learned_text(codec, rollout.completion_ids, rollout.learned) == [LONG]


def row(messages: list[dict[str, str]], *parts: tuple[str, bool]) -> dict[str, Any]:
    spans = [{"role": role, "start": 0, "end": 1, "sampled": True, "learn": learn} for role, learn in parts]
    opening = prompts.solve_messages(PROBLEM.question)
    return {"id": "row", "kind": "D1", "source": "math", "messages": [*opening, *messages], "spans": spans}


def test_sft_rows_learn_exactly_the_parts_that_the_data_name(family: tuple[ChatCodec, str, str]) -> None:
    """D1 in both formats: the wrong attempt is context, the check and the revision are learned."""
    codec, end, _ = family
    evaluation, revision = ("self-evaluation", True), ("revision", True)
    long_cot = row([{"role": "assistant", "content": LONG}], ("attempt", False), evaluation, revision, evaluation)
    parsed = TrainingRow.from_json(encode_again(long_cot, codec))
    labels = [label != -100 for label in parsed.tokens.labels]
    assert learned_text(codec, parsed.tokens.token_ids, labels) == [LONG.removeprefix("It is \\boxed{5}.") + end]

    turns = [
        {"role": "assistant", "content": FIRST},
        {"role": "user", "content": prompts.CHAT_WRONG},
        {"role": "assistant", "content": SECOND},
    ]
    two_turn = row(turns, ("attempt", False), evaluation, revision, evaluation)
    parsed = TrainingRow.from_json(encode_again(two_turn, codec))
    labels = [label != -100 for label in parsed.tokens.labels]
    learned = learned_text(codec, parsed.tokens.token_ids, labels)
    assert learned == [FIRST.removeprefix("It is \\boxed{5}.") + end, SECOND + end]
