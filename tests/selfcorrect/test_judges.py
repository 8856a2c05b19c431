"""Judges: what they are shown, what they answer, how they are refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from selfcorrect import prompts
from selfcorrect.chat import EMBEDDED, ChatCodec
from selfcorrect.correction.judges import CrossJudge, JudgeRecipe, OutcomeRewardModel, open_judge
from selfcorrect.engines import EngineRecipe, SampleRequest
from selfcorrect.engines.scripted import Reply, ScriptedEngine
from selfcorrect.errors import ModelError
from selfcorrect.types import Problem, SelfEvaluation, Verdict

PROBLEM = Problem("p", "What is 2+2?", "4", "math")


@pytest.mark.parametrize(
    ("kind", "shown", "reply", "verdict"),
    [
        ("self-rewarding", f"\\boxed{{5}}{prompts.SEPARATOR}", "no\n[VERIFY] wrong.", Verdict.WRONG),
        ("self-rewarding", f"\\boxed{{5}}{prompts.SEPARATOR}", "no\n[VERIFY] wrong", None),
        ("asked", prompts.EVALUATE, "ok\n[VERIFY] correct.", Verdict.CORRECT),
        ("two-turn", prompts.SELF_QUESTION, " No.", Verdict.WRONG),
        ("two-turn", prompts.SELF_QUESTION, " Perhaps.", None),
    ],
)
def test_another_policy_judges_in_its_own_format(
    codec: ChatCodec, kind: str, shown: str, reply: str, verdict: Verdict | None
) -> None:
    seen: list[str] = []

    def script(request: SampleRequest, prompt: str) -> Reply:
        seen.append(prompt)
        return Reply(reply, p_correct=0.2)

    judge = CrossJudge(ScriptedEngine(script, codec), codec, JudgeRecipe(kind=kind))  # type: ignore[arg-type]
    attempt = f"\\boxed{{5}}\n\n{prompts.SELF_QUESTION} Yes." if kind == "two-turn" else "\\boxed{5}"
    answer = asyncio.run(judge.judge(PROBLEM, attempt))
    assert answer.verdict is verdict
    assert answer.p_correct == (pytest.approx(0.2) if verdict else None)
    assert seen[0].rstrip().removesuffix("<|end|><|assistant|>").endswith(shown.strip())
    assert "Yes." not in seen[0]  # the policy's own verdict is not shown to the judge


def classifier(folder: Path, labels: int = 1) -> Path:
    """Save a small sequence classifier with the embedded tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    codec = ChatCodec.load("embedded")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(codec.tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=labels,
        pad_token_id=codec.tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    codec.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("labels", [1, 2])
def test_a_reward_model_judges_in_batches_as_it_does_alone(tmp_path: Path, labels: int) -> None:
    recipe = JudgeRecipe("orm", EngineRecipe(str(classifier(tmp_path, labels)), device="cpu", max_batch=3))
    attempts = [f"{i}+{i}={2 * i}\n\\boxed{{{2 * i}}}" for i in range(5)]

    async def judged(together: bool) -> list[SelfEvaluation]:
        judge = OutcomeRewardModel.load(recipe)
        tasks = [judge.judge(PROBLEM, attempt) for attempt in attempts]
        return list(await asyncio.gather(*tasks)) if together else [await task for task in tasks]

    together, alone = asyncio.run(judged(True)), asyncio.run(judged(False))
    assert [e.p_correct for e in together] == pytest.approx([e.p_correct for e in alone], abs=1e-5)
    assert len({round(e.p_correct or 0, 6) for e in together}) == 5
    assert all((e.verdict is Verdict.CORRECT) == ((e.p_correct or 0) >= 0.5) for e in together)


def test_a_language_model_is_not_a_reward_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="score head would be random"):
        open_judge(JudgeRecipe("orm", EngineRecipe(str(EMBEDDED))))
    with pytest.raises(ModelError, match="3 labels"):
        open_judge(JudgeRecipe("orm", EngineRecipe(str(classifier(tmp_path, labels=3)))))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such"}))
    with pytest.raises(ModelError, match="cannot load a reward model"):
        open_judge(JudgeRecipe("orm", EngineRecipe(str(tmp_path))))
    assert open_judge(JudgeRecipe()) is None
