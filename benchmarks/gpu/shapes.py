"""Models of random weights in the shapes of real ones, with the embedded model's tokenizer."""

from __future__ import annotations

from pathlib import Path

from selfcorrect.chat import ChatCodec


def qwen_half_billion(folder: Path, small: bool) -> Path:
    """Write a model with the shape of Qwen2.5-0.5B (494 M parameters, 152 thousand words); return its folder.

    Its tokenizer is the embedded model's: the words beyond its thousand are computed and never meant.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    if (folder / "config.json").exists():
        return folder
    codec = ChatCodec.load("embedded")
    size = {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    }
    if small:
        size |= {"vocab_size": 2048, "hidden_size": 56, "intermediate_size": 112, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = Qwen2Config(
        **size, max_position_embeddings=4096, tie_word_embeddings=True, rope_theta=1e6,
        bos_token_id=codec.tokenizer.bos_token_id, eos_token_id=codec.tokenizer.eos_token_id,
        pad_token_id=codec.tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    codec.tokenizer.save_pretrained(folder)
    return folder
