"""Fine-tuning through its real entry point on a minuscule model; packed rows do not see each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.errors import RecipeError
from selfcorrect.runs.folder import finished
from selfcorrect.train.data.rows import TrainingRow

PROBLEM = "What is {a}+{b}?"


def toy_rows(codec: ChatCodec, count: int) -> list[dict[str, Any]]:
    """Return D1 and D3 rows of sums, different lengths."""
    rows = []
    for i in range(count):
        a, b = 3 + i % 7, 11 * i % 97
        question = codec.opening([{"role": "user", "content": PROBLEM.format(a=a, b=b)}])
        parts = [("attempt", f"{a}+{b}=\\boxed{{{a + b}}}", i % 2 == 0)]
        if i % 2:
            parts += [
                ("self-evaluation", "\n\nno\n[VERIFY] wrong.", True),
                ("revision", f"\n\n\\boxed{{{a + b}}}", True),
            ]
        else:
            parts += [("self-evaluation", "\n\nyes\n[VERIFY] correct.", True)]
        ids, spans = list(question), [("external", 0, len(question), False)]
        for role, text, learn in parts:
            start = len(ids)
            ids += codec.encode(text)
            spans.append((role, start, len(ids), learn))
        ids.append(codec.turn_end)
        spans[-1] = (spans[-1][0], spans[-1][1], len(ids), spans[-1][3])
        names = ("role", "start", "end", "learn")
        rows.append(
            {
                "id": f"r{i}",
                "problem_id": f"p{i}",
                "kind": "D1" if i % 2 else "D3",
                "token_ids": ids,
                "spans": [dict(zip(names, span, strict=True)) | {"sampled": span[0] != "external"} for span in spans],
            }
        )
    return rows


def write_rows(run: Path, codec: ChatCodec, count: int = 48) -> None:
    folder = run / "data" / "sft"
    folder.mkdir(parents=True)
    lines = [json.dumps(row) + "\n" for row in toy_rows(codec, count)]
    (folder / "self-rewarding.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "self-rewarding.card.json").write_text(json.dumps({"tokenizer": codec.fingerprint()}), encoding="utf-8")


@pytest.mark.parametrize("attention", ["eager", "sdpa", "lean"])
def test_packed_rows_do_not_see_each_other(tiny_model: Path, codec: ChatCodec, attention: str, tmp_path: Path) -> None:
    """The loss of TRL's packed block is the sum of the losses of its rows alone, and so is the gradient."""
    import torch
    from datasets import Dataset
    from trl import SFTTrainer

    from selfcorrect.train.common.models import load_model
    from selfcorrect.train.sft import SftRecipe, sft_config

    rows: list[TrainingRow] = [TrainingRow.from_json(row) for row in toy_rows(codec, 6)]
    recipe = SftRecipe(packing=True, max_tokens=2_000, precision="fp32", batch_rows=1)
    model = load_model(str(tiny_model), attention)
    columns = {"input_ids": [list(row.tokens.token_ids) for row in rows], "labels": [row.tokens.labels for row in rows]}
    trainer = SFTTrainer(
        model=model,
        args=sft_config(recipe, tmp_path),
        train_dataset=Dataset.from_dict(columns),
        processing_class=codec.tokenizer,
    )
    blocks = list(trainer.get_train_dataloader())
    assert len(blocks) == 1
    assert blocks[0]["input_ids"].shape[1] == sum(len(row.tokens.token_ids) for row in rows)

    def loss_and_gradient(inputs: dict[str, Any]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        loss = trainer.compute_loss(model, inputs, num_items_in_batch=torch.tensor(1))
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    packed_loss, packed_gradient = loss_and_gradient(dict(blocks[0]))
    alone = []
    for row in rows:
        ids = torch.tensor([row.tokens.token_ids])
        inputs = {"input_ids": ids, "labels": torch.tensor([row.tokens.labels]), "attention_mask": torch.ones_like(ids)}
        alone.append(loss_and_gradient(inputs))
    assert packed_loss == pytest.approx(sum(loss for loss, _ in alone), rel=1e-5)
    torch.testing.assert_close(packed_gradient, sum(gradient for _, gradient in alone), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("packing", [False, True])
def test_smoke_run_learns_saves_and_is_not_repeated(
    tiny_model: Path, codec: ChatCodec, tmp_path: Path, packing: bool
) -> None:
    from transformers import AutoModelForCausalLM

    from selfcorrect.train.sft import SftRecipe, run

    write_rows(tmp_path, codec)
    recipe = SftRecipe(
        model=str(tiny_model),
        epochs=4,
        batch_rows=2 if packing else 8,
        max_tokens=512,
        packing=packing,
        learning_rate=1e-2,
        log_every=1,
        precision="fp32",
    )
    summary = run(recipe, tmp_path)
    folder = tmp_path / "checkpoints" / "ift"
    assert summary["last_loss"] < 0.8 * summary["first_loss"]
    assert summary["kinds"] == {"D1": 24, "D3": 24}
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == list(range(1, summary["steps"] + 1))
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
    assert ChatCodec.load(str(folder)).encode("a b\n\nc") == codec.encode("a b\n\nc")
    assert not (folder / "resume").exists()
    assert finished(folder, by_hash=True) == summary
    assert run(recipe, tmp_path) == summary


def test_interrupted_equals_uninterrupted(tiny_model: Path, codec: ChatCodec, tmp_path: Path, killed_at: Any) -> None:
    """Kill after a checkpoint in the middle of an epoch; the resumed run logs the same losses, bit for bit."""
    from selfcorrect.train import sft

    recipe = sft.SftRecipe(
        model=str(tiny_model), epochs=2, batch_rows=8, save_every=4, log_every=1, precision="fp32", learning_rate=1e-2
    )
    for name in ("whole", "torn"):
        write_rows(tmp_path / name, codec)
    sft.run(recipe, tmp_path / "whole")

    with killed_at(6):
        sft.run(recipe, tmp_path / "torn")
    sft.run(recipe, tmp_path / "torn")

    def losses(name: str) -> list[float]:
        lines = (tmp_path / name / "checkpoints" / "ift" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert losses("torn") == losses("whole")
    weights = [(tmp_path / name / "checkpoints/ift/model.safetensors").read_bytes() for name in ("whole", "torn")]
    assert weights[0] == weights[1]


def test_trl_settings_pass_through_and_unknown_ones_name_the_nearest(tmp_path: Path) -> None:
    from selfcorrect.train.sft import SftRecipe, sft_config

    config = sft_config(SftRecipe(trainer={"adam_beta2": 0.98}), tmp_path)
    assert config.adam_beta2 == 0.98
    with pytest.raises(RecipeError, match='did you mean "adam_beta2"'):
        sft_config(SftRecipe(trainer={"adam_beta_2": 0.98}), tmp_path)
    with pytest.raises(RecipeError, match="follows from the recipe's own fields"):
        sft_config(SftRecipe(trainer={"seed": 3}), tmp_path)


def test_every_step_is_a_random_draw_sorted_by_length() -> None:
    from selfcorrect.train.sft import MixedBatches

    lengths = [10 + i % 5 for i in range(23)]
    order = MixedBatches(lengths, batch_rows=8, seed=1)
    first = list(order)
    assert sorted(first) == list(range(23))
    for start in range(0, 23, 8):
        batch = [lengths[i] for i in first[start : start + 8]]
        assert batch == sorted(batch)
        assert len(set(batch)) > 1
    order.set_epoch(1)
    assert list(order) != first
