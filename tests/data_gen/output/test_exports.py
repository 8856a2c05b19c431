"""Exports: each trainer's documented schema, with exactly the learned tokens learned; TRL's trainers for real."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from datasets import load_dataset

from selfcorrect.chat import EMBEDDED, ChatCodec
from selfcorrect.cli import main
from selfcorrect.data_gen.output.exports import WRITERS, export, push_to_hub
from selfcorrect.data_gen.pipeline import GenRecipe, PairQuota, Quota, run
from selfcorrect.engines.scripted import ScriptedEngine
from selfcorrect.errors import InputError, ModelError, RunFolderError
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs.jsonl import read_jsonl
from tests.data_gen.worlds import World, grade, write_problems
from tests.loopback_hub import loopback_hub

IGNORED = -100


def made(folder: Path, codec: ChatCodec, style: str) -> Path:
    problems = write_problems(folder / "toy.jsonl")
    recipe = GenRecipe(
        problems=ProblemsRecipe(source=str(problems), count=30),
        prompts=10,
        format=style,  # type: ignore[arg-type]
        attempts=10,
        false_verdicts=8,
        quota=Quota(6, 4, 6),
        preferences=PairQuota(3, 3, 4),
        baselines=True,
        max_tokens=120,
    )
    run(recipe, folder / "run", engine=ScriptedEngine(World(judges=0.7), codec), codec=codec, grade=grade)
    return folder / "run"


@pytest.fixture(scope="module", params=["long-cot", "two-turn"])
def finished(request, tmp_path_factory, codec) -> Path:  # type: ignore[no-untyped-def]
    return made(tmp_path_factory.mktemp(request.param), codec, request.param)


def rows_of(run_folder: Path, name: str = "self-rewarding") -> list[dict[str, Any]]:
    return list(read_jsonl(run_folder / "data" / "sft" / f"{name}.jsonl"))


def learned(row: dict[str, Any]) -> list[int]:
    labels = [IGNORED] * len(row["token_ids"])
    for span in row["spans"]:
        if span["learn"]:
            labels[span["start"] : span["end"]] = row["token_ids"][span["start"] : span["end"]]
    return labels


def encode(codec: ChatCodec, text: str) -> list[int]:
    """Encode as trainers do: marks of the template are read, nothing is added."""
    return list(codec.tokenizer.encode(text, add_special_tokens=False))


# --- the folder itself --------------------------------------------------------------------------------------------


def test_datasets_reads_the_data_folder_by_its_card(finished, tmp_path) -> None:
    read = lambda name: load_dataset(str(finished / "data"), name, split="train", cache_dir=str(tmp_path))
    rows = read("self-rewarding")
    assert rows["token_ids"] == [row["token_ids"] for row in rows_of(finished)]
    assert set(rows.features["messages"].feature) == {"role", "content"}
    assert len(read("preferences")) == 10
    assert len(read("prompts")) == 10
    rates = read("pass_rates")
    assert all(row["pass_rate"] == pytest.approx(row["right"] / row["attempts"], abs=1e-4) for row in rates)
    card = (finished / "data" / "README.md").read_text()
    for part in ("**Model**: `embedded`", "Licences", "| D1 | 6 |", "acceptance", "schedule: adaptive", "quota:"):
        assert part.lower() in card.lower()


def test_pass_rates_are_problems_to_filter(finished) -> None:
    from selfcorrect.problems import load_problems

    source = ProblemsRecipe(source=str(finished / "data/pass_rates.jsonl"), where={"pass_rate": {"max": 0.5}})
    kept = load_problems(source, lambda gold, source: True).problems
    assert kept
    assert all(problem.meta["pass_rate"] <= 0.5 for problem in kept)


@pytest.mark.parametrize(("trainer", "file"), [("trl", "jsonl"), ("openrlhf", "jsonl"), ("verl", "parquet")])
def test_exported_prompts_are_problems_again(finished, codec, trainer, file) -> None:
    from selfcorrect.problems import load_problems

    export(finished, [trainer], codec)
    said = lambda path: [(p.question, p.gold) for p in load_problems(ProblemsRecipe(source=str(path))).problems]
    ours = said(finished / "data/prompts.jsonl")
    assert len(ours) == 10
    assert said(finished / f"export/{trainer}/prompts.{file}") == ours


def test_the_error_that_a_problem_allows_goes_with_it_to_rl(tmp_path) -> None:
    from selfcorrect.data_gen.output.rows import write_prompts
    from selfcorrect.train.data.rows import read_problems
    from selfcorrect.types import Problem

    problems = [Problem("a", "q", "4.2", "olympiadbench", {"tolerance": "1e-1"}), Problem("b", "r", "1", "math", {})]
    write_prompts(tmp_path / "prompts.jsonl", problems)
    assert read_problems(tmp_path / "prompts.jsonl") == problems


# --- schemas ------------------------------------------------------------------------------------------------------


def test_axolotl_segments_encode_to_the_same_labels(finished, codec) -> None:
    export(finished, ["axolotl"], codec)
    exported = list(read_jsonl(finished / "export/axolotl/self-rewarding.jsonl"))
    for row, segments in zip(rows_of(finished), exported, strict=True):
        assert set(segments) == {"segments"}
        ids, labels = [], []
        for segment in segments["segments"]:
            assert set(segment) == {"label", "text"}
            piece = encode(codec, segment["text"])
            ids += piece
            labels += piece if segment["label"] else [IGNORED] * len(piece)
        assert ids == row["token_ids"]
        assert labels == learned(row)


@pytest.mark.parametrize(
    ("trainer", "before", "after"), [("llama-factory", "instruction", "output"), ("openrlhf", "input", "output")]
)
def test_prompt_and_answer_rows_learn_the_same_tokens(finished, codec, trainer, before, after) -> None:
    export(finished, [trainer], codec)
    exported = list(read_jsonl(finished / f"export/{trainer}/self-rewarding.jsonl"))
    place = 0
    for row in rows_of(finished):
        labels = [IGNORED] * len(row["token_ids"])
        while place < len(exported) and row["text"].startswith(exported[place][before] + exported[place][after]):
            prompt, answer = (encode(codec, exported[place][key]) for key in (before, after))
            labels[len(prompt) : len(prompt) + len(answer)] = answer
            place += 1
        assert labels == learned(row)
    assert place == len(exported)


def test_llama_factory_finds_its_files(finished, codec) -> None:
    export(finished, ["llama-factory"], codec)
    folder = finished / "export/llama-factory"
    info = json.loads((folder / "dataset_info.json").read_text())
    assert set(info) == {"self-rewarding", "single-turn", "raft", "raft-plus", "preferences"}
    for name, described in info.items():
        assert set(described) <= {"file_name", "columns", "ranking"}
        first = next(read_jsonl(folder / described["file_name"]))
        assert set(described["columns"].values()) == set(first)
        assert described.get("ranking", False) is (name == "preferences")


@pytest.mark.parametrize("trainer", ["trl", "axolotl", "openrlhf"])
def test_pairs_are_text_around_what_is_compared(finished, codec, trainer) -> None:
    counts = export(finished, [trainer], codec)[trainer]
    pairs = list(read_jsonl(finished / "data/preferences/pairs.jsonl"))
    two_turn = pairs[0]["format"] == "two-turn"
    kept = [pair for pair in pairs if not (two_turn and pair["kind"] == "P3")]
    assert counts.get("pairs left out (they compare a user's message)", 0) == len(pairs) - len(kept) == 4 * two_turn
    exported = list(read_jsonl(finished / f"export/{trainer}/preferences.jsonl"))
    for pair, row in zip(kept, exported, strict=True):
        assert set(row) == {"prompt", "chosen", "rejected"}
        assert row["prompt"] + row["chosen"] == pair["chosen"]["text"]
        assert row["prompt"] + row["rejected"] == pair["rejected"]["text"]
        assert len(encode(codec, row["prompt"])) == pair["shared"]


def test_verl_reads_its_parquet(finished, codec) -> None:
    export(finished, ["verl"], codec)
    frame = pandas.read_parquet(finished / "export/verl/prompts.parquet")
    assert list(frame.columns) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    problems = list(read_jsonl(finished / "data/prompts.jsonl"))
    assert len(frame) == len(problems) == 10
    for row, problem in zip(frame.to_dict("records"), problems, strict=True):
        (message,) = row["prompt"]
        assert message["role"] == "user"
        assert message["content"].startswith(problem["question"])
        assert row["reward_model"] == {"style": "rule", "ground_truth": problem["gold"]}


def test_openrlhf_prompts_have_labels(finished, codec) -> None:
    export(finished, ["openrlhf"], codec)
    rows = list(read_jsonl(finished / "export/openrlhf/prompts.jsonl"))
    assert [row["label"] for row in rows] == [row["gold"] for row in read_jsonl(finished / "data/prompts.jsonl")]
    assert all(set(row) == {"input", "label", "datasource"} and row["input"][0]["role"] == "user" for row in rows)


def test_what_cannot_be_exported_is_said(finished, tmp_path, codec, byte_tokenizer) -> None:
    with pytest.raises(InputError, match="did you mean"):
        export(finished, ["axolotle"], codec)
    with pytest.raises(RunFolderError, match="no data set yet"):
        export(tmp_path, ["trl"], codec)
    other = byte_tokenizer()
    other.add_tokens(["another"])
    with pytest.raises(ModelError, match="another tokenizer"):
        export(finished, ["trl"], ChatCodec(other))
    (tmp_path / "cli").mkdir()
    with pytest.raises(SystemExit):
        main(["gen", "embedded", "--run", str(tmp_path / "cli"), "--export", "nothing"])
    assert not list((tmp_path / "cli").iterdir()), "refused before any sample was drawn"


# --- TRL for real -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (EMBEDDED / "model.safetensors").exists(), reason="no embedded weights")
def test_trl_trains_on_the_exports_as_they_are(tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    codec = ChatCodec.load("embedded")
    finished = made(tmp_path, codec, "long-cot")
    export(finished, ["trl"], codec)
    read = lambda name: load_dataset(
        "json", data_files=str(finished / f"export/trl/{name}.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    model = lambda: AutoModelForCausalLM.from_pretrained(EMBEDDED)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }
    sft = SFTTrainer(model(), SFTConfig(**settings), train_dataset=read("self-rewarding"), processing_class=tokenizer)
    for row, example in zip(rows_of(finished), sft.train_dataset, strict=True):
        assert example["input_ids"] == row["token_ids"]
        assert example["labels"] == learned(row)
    assert sft.train().training_loss > 0

    dpo = DPOTrainer(model(), args=DPOConfig(**settings), train_dataset=read("preferences"), processing_class=tokenizer)
    for pair, example in zip(read_jsonl(finished / "data/preferences/pairs.jsonl"), dpo.train_dataset, strict=True):
        assert example["prompt_ids"] == pair["chosen"]["token_ids"][: pair["shared"]]
        assert example["chosen_ids"] == pair["chosen"]["token_ids"][pair["shared"] :]
        assert example["rejected_ids"] == pair["rejected"]["token_ids"][pair["shared"] :]
    assert dpo.train().training_loss > 0

    golds: list[str] = []

    def reward(completions: list[Any], gold: list[str], **rest: Any) -> list[float]:
        golds.extend(gold)
        return [float(i % 2) for i in range(len(completions))]

    grpo = GRPOTrainer(
        model(),
        reward,
        args=GRPOConfig(**settings, num_generations=4, max_completion_length=8),
        train_dataset=read("prompts"),
        processing_class=tokenizer,
    )
    grpo.train()
    assert golds
    assert set(golds) <= {row["gold"] for row in read_jsonl(finished / "data/prompts.jsonl")}


# --- the hub ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub():  # type: ignore[no-untyped-def]
    with loopback_hub() as served:
        yield served


def test_the_folder_is_pushed_as_a_private_data_set(finished, hub, monkeypatch) -> None:
    endpoint, seen = hub
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    push_to_hub(finished, "me/mine", endpoint=endpoint)
    assert seen["made"]["type"] == "dataset"
    assert seen["made"]["visibility"] == "private"
    sent = {path: base64.b64decode(content) for path, content in seen["files"].items()}
    assert sent["README.md"] == (finished / "data/README.md").read_bytes()
    assert sent["sft/self-rewarding.jsonl"] == (finished / "data/sft/self-rewarding.jsonl").read_bytes()
    assert set(sent) >= {"preferences/pairs.jsonl", "prompts.jsonl", "pass_rates.jsonl"}


def test_a_hub_that_refuses_is_an_error_with_a_way_out(finished, tmp_path) -> None:
    with pytest.raises(InputError, match=r"(?s)cannot push .*hf auth login"):
        push_to_hub(finished, "not a name", endpoint="http://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot push"):
        push_to_hub(finished, "me/mine", endpoint="http://127.0.0.1:9")
    with pytest.raises(RunFolderError, match="no data set yet"):
        push_to_hub(tmp_path, "me/mine")


def test_every_export_says_how_to_use_it(finished, codec) -> None:
    for name, counts in export(finished, list(WRITERS), codec).items():
        assert (finished / "export" / name / "README.md").read_text().count("```") == 2
        assert any(counts.values())
