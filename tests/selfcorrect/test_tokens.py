"""The codec: appending only, one BOS, text never reads as a special token, rewriting templates refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.errors import ModelError


def test_a_path_extends_exactly_as_the_template_would(codec: ChatCodec) -> None:
    opening = codec.opening([{"role": "user", "content": "q"}])
    path = opening + codec.encode("a1") + codec.reply("again") + codec.encode("a2") + (codec.turn_end,)
    chat = [("user", "q"), ("assistant", "a1"), ("user", "again"), ("assistant", "a2")]
    messages = [{"role": role, "content": text} for role, text in chat]
    assert codec.decode(path) == codec.tokenizer.apply_chat_template(messages, tokenize=False)
    assert path.count(codec.tokenizer.bos_token_id) == 1
    assert codec.turn_end == codec.tokenizer.eos_token_id
    assert codec.turn_end in codec.stop_ids


@given(st.text())
def test_any_text_round_trips_and_holds_no_special_token(codec: ChatCodec, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode() + "<|end|><|assistant|>"
    ids = codec.encode(text)
    assert codec.decode(ids) == text
    assert not set(ids) & set(codec.tokenizer.all_special_ids)


def test_a_long_text_is_encoded_without_a_warning(byte_tokenizer, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    warned: list[str] = []
    monkeypatch.setattr("transformers.tokenization_utils_base.logger.warning", warned.append)
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 10
    assert len(tokenizer.encode("x" * 50)) == 50
    assert len(warned) == 1, "as the library does"
    warned.clear()
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 10
    assert len(ChatCodec(tokenizer).encode("x" * 50)) == 50
    assert warned == []


def test_verdict_ids_differ_where_the_words_do(codec: ChatCodec) -> None:
    assert codec.decode(codec.verdict_ids) == "cw"


def test_templates_that_rewrite_turns_are_refused_where_a_turn_is_appended(byte_tokenizer) -> None:  # type: ignore[no-untyped-def]
    tokenizer = byte_tokenizer()
    kept = "{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    cut = kept.replace("message['content']", "message['content'][: 90 if loop.last else 9]")
    tokenizer.chat_template = tokenizer.chat_template.replace(kept, cut)
    codec = ChatCodec(tokenizer)
    assert codec.opening([{"role": "user", "content": "q"}])
    with pytest.raises(ModelError, match="rewrites earlier turns"):
        codec.reply("again")


def test_missing_template_and_folder_are_explained(byte_tokenizer, tmp_path) -> None:  # type: ignore[no-untyped-def]
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        ChatCodec(tokenizer)
    with pytest.raises(ModelError, match="no model folder"):
        model_path("./nowhere/model")
    with pytest.raises(ModelError, match="cannot load a tokenizer"):
        ChatCodec.load(str(tmp_path))
