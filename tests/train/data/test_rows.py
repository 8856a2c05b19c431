"""Loss masks, token for token, on toy rows of every kind in both formats."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.errors import DataError, ModelError
from selfcorrect.train.data.rows import encode_again, load_sft_data, show_mask
from selfcorrect.training_row import IGNORED, TrainingRow
from selfcorrect.verdicts import MARKS

RIGHT, WRONG = MARKS.values()
A1, A2 = "1+1=3\n\\boxed{3}", "1+1=2\n\\boxed{2}"
Y_WRONG, Y_RIGHT = f"\n\n1+1=2:3 not ok\n{WRONG}", f"\n\n1+1=2:2 ok\n{RIGHT}"
ASK_NO = f"\n\n{prompts.SELF_QUESTION} No."


def toy_row(codec: ChatCodec, kind: str, parts: list[tuple[str, str, bool]], **more: Any) -> dict[str, Any]:
    """Return a row of (role, text, learn) parts after an opening; "end" in a text stands for the end of a turn."""
    opening = codec.opening([{"role": "user", "content": "1+1?"}])
    row: dict[str, Any] = {"id": kind, "problem_id": "p", "kind": kind, "source": "arithmetic", **more}
    ids = list(opening)
    spans = [{"role": "external", "start": 0, "end": len(ids), "sampled": False, "learn": False}]
    for role, text, learn in parts:
        start = len(ids)
        ids += codec.reply(text)[1:] if role == "external" else codec.encode(text.removesuffix("<end>"))
        ids += [codec.turn_end] if text.endswith("<end>") else []
        spans.append({"role": role, "start": start, "end": len(ids), "sampled": role != "external", "learn": learn})
    return {**row, "token_ids": ids, "spans": spans}


def rows(codec: ChatCodec) -> dict[str, dict[str, Any]]:
    """Return one row of every kind (method.md, eq. 1), and one of the two-turn chat."""
    user = {"role": "user", "content": "1+1?"}
    d1 = [("attempt", A1, False), ("self-evaluation", Y_WRONG, True), ("revision", f"\n\n{A2}<end>", True)]
    d2 = [("attempt", A2, False), ("self-evaluation", Y_WRONG, False), ("revision", f"\n\n{A2}<end>", True)]
    d3 = [("attempt", A2, True), ("self-evaluation", f"{Y_RIGHT}<end>", True)]
    chat = [
        ("attempt", A1, False),
        ("self-evaluation", f"{ASK_NO}<end>", True),
        ("external", prompts.CHAT_WRONG, False),
        ("revision", f"{A2}<end>", True),
    ]
    chat_messages = [
        user,
        {"role": "assistant", "content": A1 + ASK_NO},
        {"role": "user", "content": prompts.CHAT_WRONG},
        {"role": "assistant", "content": A2},
    ]

    def one(text: str) -> list[dict[str, str]]:
        return [user, {"role": "assistant", "content": text}]

    return {
        "D1": toy_row(codec, "D1", d1, messages=one(f"{A1}{Y_WRONG}\n\n{A2}")),
        "D2": toy_row(codec, "D2", d2, messages=one(f"{A2}{Y_WRONG}\n\n{A2}")),
        "D3": toy_row(codec, "D3", d3, messages=one(f"{A2}{Y_RIGHT}")),
        "chat": toy_row(codec, "chat", chat, messages=chat_messages),
    }


LEARNED = {
    "D1": f"{Y_WRONG}\n\n{A2}<|end|>",
    "D2": f"\n\n{A2}<|end|>",
    "D3": f"{A2}{Y_RIGHT}<|end|>",
    "chat": f"{ASK_NO}<|end|>{A2}<|end|>",
}


@pytest.mark.parametrize("kind", LEARNED)
def test_labels_are_exactly_the_learned_tokens(codec: ChatCodec, kind: str) -> None:
    row = TrainingRow.from_json(rows(codec)[kind])
    labels = row.tokens.labels
    assert len(labels) == len(row.tokens.token_ids)
    assert codec.decode([label for label in labels if label != IGNORED]) == LEARNED[kind]
    assert all(label in (IGNORED, token) for label, token in zip(labels, row.tokens.token_ids, strict=True))


def test_a_row_that_teaches_nothing_is_refused_by_name(codec: ChatCodec) -> None:
    row = toy_row(codec, "D9", [("attempt", A1, False)])
    with pytest.raises(ModelError, match=r"row 'D9' .*loss mask is empty"):
        TrainingRow.from_json(row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": -1}, "must follow"),
        ({"end": 10_000}, "must follow"),
        ({"role": "poem"}, "not an SFT row"),
        ({"role": "external", "learn": True}, "never writes it"),
    ],
)
def test_broken_spans_are_refused(codec: ChatCodec, change: dict[str, Any], message: str) -> None:
    row = rows(codec)["D3"]
    row["spans"][2] |= change
    with pytest.raises(DataError, match=message):
        TrainingRow.from_json(row)


def test_the_first_token_cannot_be_learned(codec: ChatCodec) -> None:
    row = rows(codec)["D3"]
    row["spans"] = [{**row["spans"][1], "start": 0}]
    with pytest.raises(DataError, match="nothing stands before it"):
        TrainingRow.from_json(row)


def write(folder: Path, toy_rows: list[dict[str, Any]], tokenizer_hash: str | None = None) -> Path:
    path = folder / "toy.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in toy_rows), encoding="utf-8")
    if tokenizer_hash:
        (folder / "toy.card.json").write_text(json.dumps({"tokenizer": tokenizer_hash}), encoding="utf-8")
    return path


def test_long_rows_are_left_out_and_counted_and_draws_are_repeatable(codec: ChatCodec, tmp_path: Path) -> None:
    toy = list(rows(codec).values())
    path = write(tmp_path, toy, codec.fingerprint())
    limit = max(len(row["token_ids"]) for row in toy) - 1
    data = load_sft_data(path, codec, max_tokens=limit)
    assert (len(data.rows), data.too_long) == (3, 1)
    drawn = load_sft_data(path, codec, max_tokens=1_000, max_rows=2, seed=5)
    assert (len(drawn.rows), drawn.not_chosen) == (2, 2)
    assert drawn.rows == load_sft_data(path, codec, max_tokens=1_000, max_rows=2, seed=5).rows


def test_rows_of_another_tokenizer_need_the_switch(codec: ChatCodec, tmp_path: Path) -> None:
    path = write(tmp_path, list(rows(codec).values()), "another")
    with pytest.raises(ModelError, match="retokenise=true"):
        load_sft_data(path, codec, max_tokens=1_000)
    data = load_sft_data(path, codec, max_tokens=1_000, retokenise=True)
    assert data.retokenised == 4
    for row in data.rows:
        assert codec.decode([label for label in row.tokens.labels if label != IGNORED]) == LEARNED[row.kind]


@pytest.mark.parametrize("kind", LEARNED)
def test_encoding_again_with_the_same_tokenizer_changes_nothing(codec: ChatCodec, kind: str) -> None:
    row = rows(codec)[kind]
    again = TrainingRow.from_json(encode_again(row, codec))
    assert again.tokens.token_ids == tuple(row["token_ids"])
    assert again.tokens.labels == TrainingRow.from_json(row).tokens.labels


def test_the_coloured_mask_shows_the_whole_text(codec: ChatCodec) -> None:
    row = TrainingRow.from_json(rows(codec)["D1"])
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(show_mask(row, codec))
    text = console.export_text()
    assert f"{row.tokens.learned_tokens} of {len(row.tokens.token_ids)} tokens in the loss" in text
    assert "not ok" in text


def test_without_colour_the_mask_is_in_brackets(codec: ChatCodec) -> None:
    row = TrainingRow.from_json(rows(codec)["D1"])
    file = io.StringIO()
    Console(width=4000, file=file, color_system=None).print(show_mask(row, codec))
    shown = file.getvalue()
    for span in row.tokens.spans:
        said = codec.decode(row.tokens.token_ids[span.start : span.end])
        assert (f"[{span.role}: {said}]" in shown) == span.learn
