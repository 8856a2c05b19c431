"""Chat templates: what each kind of fault gets, which of TRL's serve which format, dates, thinking, bounds."""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.correction.loop import LoopSettings, solve
from selfcorrect.engines.scripted import ScriptedEngine
from selfcorrect.errors import ModelError
from selfcorrect.templates import FROZEN_DATE, ChatTemplate
from selfcorrect.thinking import thinking_tokens
from selfcorrect.types import Attempt, Message, Problem, Role, Span, Trajectory

CHAT: list[Message] = [{"role": "user", "content": "q"}]
USER = "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% else %}"
END = "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
DOCS = Path(__file__).parents[2] / "docs" / "engines.md"
TRL = sorted((Path(__import__("trl").__file__).parent / "chat_templates").glob("*.jinja"))
SPECIAL = re.compile(
    r"<[|｜][^<>{}'\"]{1,40}?[|｜]>|</?s>|<(?:start|end)_of_turn>|<(?:eos|bos|end_of_utterance)>|\[/?INST\]|<[a-z_]+\|>|<\|[a-z_]+>"
)


def codec_of(make: Any, template: str, **settings: Any) -> ChatCodec:
    """Return a codec with a template, and its control tokens in the vocabulary."""
    tokenizer = make()
    own = sorted({"<|user|>", "<|assistant|>", *SPECIAL.findall(template)} - {"<|end|>", "<|bos|>", "<|pad|>"})
    tokenizer.add_special_tokens({"additional_special_tokens": own})
    tokenizer.chat_template = template
    return ChatCodec(tokenizer, **settings)


# --- which tokens end a turn -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        USER + "<|assistant|>{{ m.content }} ###\n" + END,
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        USER + "<|assistant|>{{ m.content }} Human: " + END,
    ],
)
def test_text_is_no_end_of_a_turn(byte_tokenizer, template) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match="no token that ends an assistant message: after the answer stands"):
        codec_of(byte_tokenizer, template)


@pytest.mark.parametrize(
    ("answer", "end", "appends"),
    [
        ("<|assistant|>{{ m.content }}<|end|>", "<|end|>", True),
        ("<|assistant|>{{ m.content }}<|end|>\n", "<|end|>", True),
        ("<|assistant|>{{ m.content }}{% if loop.last %}<|end|>{% endif %}", "<|end|>", False),
        ("<|assistant|>{{ m.content }} <|end|>", "<|end|>", False),
        ("<|assistant|>{{ m.content }}<|{{ 'return' if loop.last else 'stop' }}|>", "<|return|>", False),
        ("<|assistant|>{{ m.content }}{% if not loop.last %}<|end|>{% endif %}", "<|end|>", True),
        ("<|assistant|>{{ m.content }}", "<|user|>", True),
    ],
)
def test_the_end_of_a_turn_is_a_token_that_only_ends(byte_tokenizer, answer, end, appends) -> None:  # type: ignore[no-untyped-def]
    codec = codec_of(byte_tokenizer, USER + answer + END + "{# <|return|> <|stop|> #}")
    assert codec.decode([codec.turn_end]) == end
    assert codec.turn_end in codec.stop_ids
    assert not [token for token in codec.stop_ids if not codec.decode([token]).strip()], "no blank ends a turn"
    if appends:
        assert codec.reply("x")[0] == codec.turn_end
    else:
        with pytest.raises(ModelError, match="nothing can be appended"):
            codec.reply("x")


# --- what is asked of whom -------------------------------------------------------------------------------------------

REWRITING = {
    "a blank before earlier answers": "<|assistant|> {{ m.content }}<|end|>",
    "thinking cut from earlier turns": "<|assistant|>{{ m.content.split('</think>')[-1] }}<|end|>",
    "thinking cut, and stripped": "<|assistant|>{{ m.content.split('</think>')[-1]|trim }}<|end|>",
    "empty thinking put in": "<|assistant|>{{ '' if 'k>' in m.content else '<think></think>' }}{{ m.content }}<|end|>",
}


@pytest.mark.parametrize("kind", REWRITING)
def test_a_template_is_refused_only_where_something_is_appended(byte_tokenizer, kind) -> None:  # type: ignore[no-untyped-def]
    codec = codec_of(byte_tokenizer, USER + REWRITING[kind] + END)
    codec.tokenizer.name_or_path = "org/model"
    engine = ScriptedEngine(lambda request, prompt: "\\boxed{5}\n\nfine\n[VERIFY] correct.", codec)
    problem = Problem("p", "2+3?", "5", "math")
    run = lambda method: __import__("asyncio").run(solve(problem, engine, codec, LoopSettings(method), 0))
    assert run("self-rewarding").final.answer == run("single-turn").final.answer == "5"
    asked = len(engine.requests)
    for method in ("asked", "two-turn", "intrinsic", "gold", "misleading"):
        with pytest.raises(ModelError, match=r"earlier turns.*\n.*as it was sampled: .*\n.*as the template has it"):
            run(method)
    assert len(engine.requests) == asked, "refused before anything is sampled"


def test_the_refusal_shows_both_renderings_where_they_part(byte_tokenizer) -> None:  # type: ignore[no-untyped-def]
    codec = codec_of(byte_tokenizer, USER + REWRITING["a blank before earlier answers"] + END)
    with pytest.raises(ModelError) as refused:
        codec.reply("x")
    sampled, later = re.findall(r"(?:sampled|later):  (.*)", str(refused.value))
    assert "<|assistant|>ATTEMPT-STANDS-HERE" in sampled
    assert "<|assistant|> ATTEMPT-STANDS-HERE" in later
    assert "self-rewarding" in str(refused.value)


def test_which_of_trls_templates_serve(byte_tokenizer) -> None:  # type: ignore[no-untyped-def]
    """Every template that TRL knows; docs/engines.md has the counts."""
    long_cot, two_turn, refused, refused_to_append = [], [], {}, []
    for path in TRL:
        try:
            codec = codec_of(byte_tokenizer, path.read_text(encoding="utf-8"))
        except ModelError as error:
            refused[path.stem] = str(error)
            continue
        long_cot.append(path.stem)
        opening = codec.opening(prompts.solve_messages("1+1?"))
        assert "1+1?" in codec.decode(opening)
        assert codec.decode([codec.turn_end]).strip()
        try:
            reply = codec.reply("x")
        except ModelError as error:
            refused_to_append.append(str(error))
            continue
        two_turn.append(path.stem)
        assert reply[0] == codec.turn_end
    assert all("as the template has it later" in message for message in refused_to_append)
    assert {name.removesuffix("_training") for name in refused} == {"idefics3", "llava_next", "smolvlm"}
    assert {"qwen3", "qwen3_training", "qwen3_6", "deepseek_r1_distill", "gptoss"} <= set(long_cot) - set(two_turn)
    assert {"qwen2_5", "qwen3_instruct_2507", "llama3", "llama3_2", "phi3", "gemma3"} <= set(two_turn)
    counted = f"of {len(TRL)} templates, {len(long_cot)} serve long-CoT and {len(two_turn)} two-turn"
    assert counted in " ".join(DOCS.read_text(encoding="utf-8").split()), counted


# --- dates, thinking -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "date"),
    [
        ("{{ strftime_now('%d %b %Y') }}", FROZEN_DATE.strftime("%d %b %Y")),
        ('{%- if not d is defined %}{% set d = strftime_now("%Y-%m-%d") %}{% endif %}{{ d }}', "2024-07-26"),
        ("{% set f = '%H' %}{{ strftime_now(f) }}", "2024-07-26"),
        ("{% if strftime_now is defined %}{{ strftime_now('%A') }}{% endif %}", "Friday"),
        ("{% macro head() %}{{ strftime_now('%Y') }}{% endmacro %}{{ head() }}", "2024"),
    ],
)
@pytest.mark.parametrize("before", ["", "\n", "  ", "\n  {# a remark #}\n"])
def test_a_template_writes_the_same_on_every_day(byte_tokenizer, monkeypatch, before, template, date) -> None:  # type: ignore[no-untyped-def]
    whole = before + template + "|\n  " + USER + "<|assistant|>{{ m.content }}<|end|>" + END
    codec = codec_of(byte_tokenizer, whole)
    text = codec.decode(codec.opening(CHAT))
    assert f"{date}|" in text
    assert codec.tokenizer.chat_template != whole, "the date is in the text that is hashed, and saved"
    if "%H" not in template:

        class ThatDay(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return FROZEN_DATE

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", ThatDay)
        settings = {"tokenize": False, "add_generation_prompt": True, "chat_template": whole}
        assert codec.tokenizer.apply_chat_template(CHAT, **settings) == text, "nothing but the date is another"


def test_llama_3_2_has_one_prompt(byte_tokenizer) -> None:  # type: ignore[no-untyped-def]
    path = next(path for path in TRL if path.stem == "llama3_2")
    assert "Today Date: 26 Jul 2024" in (text := _opening(byte_tokenizer, path)), text


def _opening(make: Any, path: Path) -> str:
    codec = codec_of(make, path.read_text(encoding="utf-8"))
    return codec.decode(codec.opening(CHAT))


THINKING = (
    USER
    + "<|assistant|>{{ m.content }}<|end|>"
    + END.removesuffix("{% endif %}")
    + "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


def test_thinking_is_set_kept_in_a_checkpoint_and_changed_again(byte_tokenizer, tmp_path) -> None:  # type: ignore[no-untyped-def]
    texts = {}
    for thinking in (None, True, False):
        codec = codec_of(byte_tokenizer, THINKING, thinking=thinking)
        texts[thinking] = codec.decode(codec.opening(CHAT))
    assert texts[None] == texts[True] == "<|user|>q<|assistant|>"
    assert texts[False] == "<|user|>q<|assistant|><think></think>"
    codec.tokenizer.save_pretrained(tmp_path)
    load = lambda thinking: (loaded := ChatCodec.load(str(tmp_path), thinking)).decode(loaded.opening(CHAT))
    assert [load(None), load(True), load(False)] == [texts[False], texts[True], texts[False]]
    with pytest.raises(ModelError, match="knows no enable_thinking"):
        codec_of(byte_tokenizer, USER + "<|assistant|>{{ m.content }}<|end|>" + END, thinking=True)


def test_thinking_decides_which_probe_counts(byte_tokenizer) -> None:  # type: ignore[no-untyped-def]
    cuts = USER + REWRITING["thinking cut from earlier turns"] + END + "{# enable_thinking #}"
    with pytest.raises(ModelError, match="drops or rewrites the <think>"):
        codec_of(byte_tokenizer, cuts).reply("x")
    assert codec_of(byte_tokenizer, cuts, thinking=False).reply("x"), "it will not think"
    fills = USER + REWRITING["empty thinking put in"] + END + "{# enable_thinking #}"
    with pytest.raises(ModelError, match="rewrites earlier turns"):
        codec_of(byte_tokenizer, fills).reply("x")
    assert codec_of(byte_tokenizer, fills, thinking=True).reply("x"), "it will think"
    begins = USER + "<|assistant|>{{ m.content }}<|end|>" + END.replace("<|assistant|>", "<|assistant|><think>\n")
    assert codec_of(byte_tokenizer, begins).reply("x"), "the opening begins the thinking"


@pytest.mark.parametrize(
    ("opening", "messages", "thought"),
    [
        ("<|assistant|>", ["5"], 0),
        ("<|assistant|>", ["<think>abc</think>5"], 18),
        ("<|assistant|>", ["<think>abc"], 10),
        ("<|assistant|><think>\n", ["abc</think>5"], 11),
        ("<|assistant|><think></think>", ["5"], 0),
        ("<|user|>what does <think> mean?<|end|><|assistant|>", ["5</think>"], 0),
        ("<|assistant|>", ["<think>abc</think>5", "<think>d</think>6"], 34),
        ("<|assistant|>", ["5", "<think>d</think>6 <think>e</think>"], 32),
        ("<|assistant|><think>\n", ["abc</think>5", "6"], 11),
    ],
)
def test_thinking_is_counted_apart(codec, opening, messages, thought) -> None:  # type: ignore[no-untyped-def]
    ids, spans = list(codec.encode(opening)), []
    spans.append(Span(Role.EXTERNAL, 0, len(ids), sampled=False))
    for n, message in enumerate(messages):
        if n:
            reply = codec.reply("again")
            spans.append(Span(Role.EXTERNAL, len(ids), len(ids) + len(reply), sampled=False))
            ids += reply
        own = codec.encode(message)
        for start, end in ((0, len(own) // 2), (len(own) // 2, len(own))):
            spans.append(Span(Role.ATTEMPT, len(ids) + start, len(ids) + end))
        ids += own
    path = Trajectory(Problem("p", "q", "5", "math"), (Attempt("5"),), token_ids=tuple(ids), spans=tuple(spans))
    assert thinking_tokens(codec, path) == thought


# --- foreign programs ------------------------------------------------------------------------------------------------

BROKEN = {
    "{% if not tools %}{{ raise_exception('tools are required') }}{% endif %}": "TemplateError: tools are required",
    "{{ messages[5].content }}": "UndefinedError",
    "{% for m in messages %}": "TemplateSyntaxError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ messages.__class__.__mro__ }}": "SecurityError",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
    "{% for m in messages %}{{ m.role }}<|end|>{% endfor %}": "0 times, not once",
    "{% for m in messages %}{{ m.content }}{{ m.content }}<|end|>{% endfor %}": "2 times, not once",
    "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}<|end|>{% endfor %}": "0 times",
}


@pytest.mark.parametrize("template", BROKEN)
def test_what_a_template_does_wrong_is_one_message(byte_tokenizer, template) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError) as error:
        codec_of(byte_tokenizer, template)
    assert BROKEN[template] in str(error.value)
    assert "the chat template" in str(error.value)


ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ 'x' * 3000000000 }}",
    "{% set ns = namespace(t='x') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
    "{% set t = 'x' * 20000 %}{{ t|replace('x', t)|replace('x', t) }}",
]


@pytest.mark.parametrize("template", ENDLESS)
def test_a_template_that_computes_without_end_is_stopped(byte_tokenizer, monkeypatch, template) -> None:  # type: ignore[no-untyped-def]
    import resource

    monkeypatch.setattr("selfcorrect.templates.RENDER_S", 1.0)
    before, started = resource.getrlimit(resource.RLIMIT_AS), time.monotonic()
    with pytest.raises(ModelError, match=r"does not end|MemoryError"):
        codec_of(byte_tokenizer, template)
    assert time.monotonic() - started < 20
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert __import__("sys").gettrace() is None or "coverage" in str(__import__("sys").gettrace())


def test_no_limit_is_set_on_the_process_itself(byte_tokenizer, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Its other threads would be refused memory: a GPU's driver and BLAS end the process then."""
    import resource

    before, seen = resource.getrlimit(resource.RLIMIT_AS), []
    render = ChatTemplate.render

    def watched(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        seen.append(resource.getrlimit(resource.RLIMIT_AS))
        return render(self, *args, **kwargs)

    monkeypatch.setattr(ChatTemplate, "render", watched)
    ChatCodec(byte_tokenizer()).template.require_appending()
    assert len(seen) > 3
    assert set(seen) == {before}
