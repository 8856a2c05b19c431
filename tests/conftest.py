"""Shared fixtures: a byte-level tokenizer with a chat template, so tests need no weights and no network."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfcorrect.chat import ChatCodec

SHARED = Path(__file__).parent.parent.parent / "shared"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tokenizer():  # type: ignore[no-untyped-def]
    """Return a tokenizer of single bytes and five special tokens; skip the test in the base installation."""
    pytest.importorskip("transformers", reason="comes with the extra train")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer():  # type: ignore[no-untyped-def]
    return make_tokenizer()


@pytest.fixture(scope="session")
def byte_tokenizer():  # type: ignore[no-untyped-def]
    """A function that makes a fresh tokenizer, for tests that change it."""
    return make_tokenizer


@pytest.fixture(scope="session")
def codec(tokenizer) -> ChatCodec:  # type: ignore[no-untyped-def]
    return ChatCodec(tokenizer)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real benchmark files; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real benchmark files at {SHARED}")
    return SHARED
