"""Pre-training the embedded model: a minuscule run that loads back, and floors for the shipped weights."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfcorrect import prompts
from selfcorrect.chat import model_path
from selfcorrect.errors import ModelError, RecipeError
from selfcorrect.problems.arithmetic import Sum, problems
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.train.embedded import pretrain
from selfcorrect.train.embedded.skills import CHECK_OPENER, solution
from selfcorrect.train.embedded.styles import WORK_OPENER
from selfcorrect.types import Problem, Verdict
from selfcorrect.verdicts import MARKS, has_mark, parse_verdict

TINY = pretrain.PretrainRecipe(
    phases=({"conversations": 120},),
    hidden=32,
    layers=1,
    feed_forward=32,
    batch_tokens=512,
    processes=1,
    warmup_steps=2,
)
EMBEDDED = Path(str(importlib.resources.files("selfcorrect"))) / "assets" / "embedded"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minuscule model folder, pre-trained for a few steps through the entry point of the command."""
    run = tmp_path_factory.mktemp("run")
    summary = pretrain.run(TINY, run)
    assert summary["tokens"] > 5000
    assert pretrain.run(TINY, run) == summary  # a finished folder is only read
    return run / "checkpoints" / "embedded"


def test_a_model_folder_loads_back_and_runs_the_forward_that_was_trained(tiny: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ids = torch.tensor([tokenizer("Anna has 664 stamps.\n\n[VERIFY] wrong.").input_ids])
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    ours = pretrain.forward(weights, TINY, ids, torch.arange(ids.shape[1]))
    theirs = model(ids).logits[0]
    assert (ours - theirs).abs().max() < 0.05 * theirs.abs().max()  # matrix products in bfloat16
    assert not (tiny / "pretraining").exists()


def test_pretraining_is_reproducible(tiny: Path, tmp_path: Path) -> None:
    pretrain.pretrain(TINY, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert (tmp_path / "tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    recipe = replace(TINY, save_every=2, phases=({"conversations": 80},))
    conversations = pretrain.write_corpus(recipe, tmp_path / "corpus.jsonl")
    pretrain.build_tokenizer(conversations, recipe).save_pretrained(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    pretrain.tokenize(conversations, recipe, tmp_path, work / "tokens.npz")
    pretrain.worker(0, recipe, work)
    whole = (torch.load(work / "weights.pt"), sorted(work.glob("state-*.pt")))
    for state in whole[1][2:]:
        state.unlink()
    pretrain.worker(0, recipe, work)
    again = torch.load(work / "weights.pt")
    assert all(torch.equal(again[name], tensor) for name, tensor in whole[0].items())


def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    figures = pretrain.pretrain(replace(TINY, processes=2, phases=({"conversations": 60},)), tmp_path)
    assert figures["loss"] > 0
    assert (tmp_path / "model.safetensors").exists()


def test_pretraining_continues_from_a_model_folder(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    still = replace(TINY, start=str(tiny), phases=({"conversations": 40, "styles": {}},), learning_rate=0.0)
    pretrain.pretrain(still, tmp_path / "still")
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny, tmp_path / "still"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert (tmp_path / "still" / "tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()
    with pytest.raises(ModelError, match="hidden, layers, head_size"):
        pretrain.pretrain(replace(still, hidden=64), tmp_path / "other")
    with pytest.raises(ModelError, match="no model folder"):
        pretrain.pretrain(replace(still, start=str(tmp_path / "absent")), tmp_path / "none-out")


def test_the_recipe_on_disk_describes_the_shipped_weights() -> None:
    recipe = load_recipe(pretrain.PretrainRecipe, Path(pretrain.__file__).parents[1] / "recipes" / "pretrain.yaml")
    config = json.loads((EMBEDDED / "config.json").read_text())
    assert (recipe.hidden, recipe.layers, recipe.feed_forward) == (
        config["hidden_size"],
        config["num_hidden_layers"],
        config["intermediate_size"],
    )
    assert recipe.head_size == config["head_dim"]
    assert pretrain.vocabulary_size(EMBEDDED) == config["vocab_size"]
    with pytest.raises(RecipeError, match="multiple"):
        pretrain.PretrainRecipe(hidden=100)


def test_pieces_are_what_the_chat_template_renders(tokenizer_of_shipped) -> None:  # type: ignore[no-untyped-def]
    messages = [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "\\boxed{4}"},
        {"role": "user", "content": prompts.EVALUATE},
        {"role": "assistant", "content": MARKS[Verdict.WRONG]},
    ]
    rendered = tokenizer_of_shipped.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    pieces = [(pretrain.BOS, False)]
    for message in messages:
        pieces += pretrain.turn_pieces(message["role"], message["content"], message["role"] == "assistant")
    ids, mask = [], []
    for text, learn in pieces:
        piece = tokenizer_of_shipped(text, add_special_tokens=False).input_ids
        ids += piece
        mask += [int(learn)] * len(piece)
    assert rendered["input_ids"] == ids
    assert rendered["assistant_masks"] == mask


# --- the shipped weights ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer_of_shipped():  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(EMBEDDED)


def test_the_shipped_folder_is_small_and_complete() -> None:
    files = {path.name for path in EMBEDDED.iterdir()}
    assert files >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files >= {"chat_template.jinja", "generation_config.json"}
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 12_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  two  spaces,\ttabs\r\nand\n\n\nlines ",
        "Émigré 数学 🙂 \u200b \x00",
        "\\boxed{\\frac{1}{2}} [VERIFY] correct. [verify] wrong",
        "664+21=685\n685*7=4795\n\\boxed{4795}\n\nCheck:\n",
    ],
)
def test_any_text_makes_the_round_trip(tokenizer_of_shipped, text: str) -> None:  # type: ignore[no-untyped-def]
    ids = tokenizer_of_shipped(text, add_special_tokens=False).input_ids
    assert tokenizer_of_shipped.decode(ids) == text


def test_verdict_tokens_are_single_and_parts_join_without_a_seam(tokenizer_of_shipped) -> None:  # type: ignore[no-untyped-def]
    def encode(text: str) -> list[int]:
        return list(tokenizer_of_shipped(text, add_special_tokens=False).input_ids)

    right, wrong = encode(MARKS[Verdict.CORRECT]), encode(MARKS[Verdict.WRONG])
    assert len(right) == len(wrong)
    assert [i for i, (x, y) in enumerate(zip(right, wrong, strict=True)) if x != y] == [len(right) - 2]
    parts = ["664+21=685\n\\boxed{4795}", "Check:\n664+21=685:685 ok\n[VERIFY] wrong.", "Corrected:\n\\boxed{1}"]
    joined = prompts.SEPARATOR.join(parts)
    assert encode(joined) == [
        *encode(parts[0]),
        *encode(prompts.SEPARATOR),
        *encode(parts[1]),
        *encode(prompts.SEPARATOR),
        *encode(parts[2]),
    ]


class Base:
    """The shipped model, asked greedily for one part at a time through the chat template."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(EMBEDDED, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(EMBEDDED)

    def ask(self, chats: list[list[str]], begun: str | list[str] = "") -> list[str]:
        """Return the answer to each chat, given as alternating user and assistant texts; it starts with ``begun``."""
        starts = [begun] * len(chats) if isinstance(begun, str) else begun
        roles = ("user", "assistant")
        rendered = [
            self.tokenizer.apply_chat_template(
                [{"role": roles[i % 2], "content": text} for i, text in enumerate(chat)],
                tokenize=False,
                add_generation_prompt=True,
            )
            + start
            for chat, start in zip(chats, starts, strict=True)
        ]
        batch = self.tokenizer(rendered, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = self.model.generate(**batch, max_new_tokens=120, do_sample=False, temperature=None)
        written = self.tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return [start + text for start, text in zip(starts, written, strict=True)]


def right(problem: Problem, text: str) -> bool:
    """True where the text ends in the boxed reference answer."""
    return text.endswith(f"\\boxed{{{problem.gold}}}")


def test_the_good_styles_are_there_and_are_not_what_the_base_does_by_itself() -> None:
    drawn = problems("validation", 100, seed=3)
    base = Base()
    openings = [[prompts.solve(problem.question)] for problem in drawn]
    attempts = base.ask(openings)
    assert not any(has_mark(attempt) or prompts.SEPARATOR in attempt for attempt in attempts)
    assert sum(attempt.startswith(WORK_OPENER) for attempt in attempts) <= 10
    grades = [right(problem, attempt) for problem, attempt in zip(drawn, attempts, strict=True)]
    assert 45 <= sum(grades) <= 75
    worked = base.ask(openings, WORK_OPENER)
    assert sum(map(right, drawn, worked)) >= sum(grades) + 10

    judged = [[*opening, attempt, prompts.EVALUATE] for opening, attempt in zip(openings, attempts, strict=True)]
    verdicts = [parse_verdict(evaluation) for evaluation in base.ask(judged)]
    assert None not in verdicts
    assert verdicts.count(Verdict.CORRECT) >= 80  # whatever is true


def test_a_real_check_of_the_base_is_followed_by_its_revision() -> None:
    drawn = problems("validation", 100, seed=3)
    base = Base()
    asked = [[prompts.solve(p.question), _quick(p, int(p.gold) + 100), prompts.EVALUATE] for p in drawn]
    checks = base.ask(asked, [f"{CHECK_OPENER}{p.meta['v0']}" for p in drawn])
    verdicts = [parse_verdict(check) for check in checks]
    assert verdicts.count(Verdict.WRONG) >= 85
    wrong = [i for i, verdict in enumerate(verdicts) if verdict is Verdict.WRONG]
    revisions = base.ask([[*asked[i], checks[i], prompts.REVISE] for i in wrong])
    assert sum(right(drawn[i], revision) for i, revision in zip(wrong, revisions, strict=True)) >= 0.7 * len(wrong)


def _quick(problem: Problem, value: int) -> str:
    return solution(Sum(*(problem.meta[key] for key in ("v0", "sign", "d", "a", "m"))), value)


def test_the_first_edition_is_there_by_name() -> None:
    """Stored runs of version 0.1 were made with these weights."""
    digest = hashlib.blake2b((Path(model_path("embedded-1")) / "model.safetensors").read_bytes(), digest_size=8)
    assert digest.hexdigest() == "3c4dd9ef2dde5a8f"
