"""Pre-train the embedded model: a tiny Llama base that solves, checks and revises arithmetic word problems.

Every conversation comes from `selfcorrect.train.embedded.corpus`. The run is: corpus -> tokenizer -> token arrays ->
``processes`` single-threaded workers that average their gradients -> a standard Hugging Face folder. The forward pass
below is the Llama forward written flat, about 1.4 times as fast on a CPU at this size as the library's; `export` loads
the same tensors into ``LlamaForCausalLM``, and a test holds the two against one another.

    selfcorrect train pretrain --run runs/pretrain       # docs/embedded_model.md says how it got its recipe
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.text import Text
from torch import Tensor

from selfcorrect import prompts, verdicts
from selfcorrect.chat import model_path
from selfcorrect.errors import GuardError, ModelError, RecipeError
from selfcorrect.loading import model_loading
from selfcorrect.runs.compute import Compute, recorded_compute
from selfcorrect.runs.files import append_lines, make_folder, whole_file
from selfcorrect.runs.folder import finished, mark_done, stage_folder
from selfcorrect.runs.jsonl import read_jsonl, write_json, write_jsonl
from selfcorrect.runs.progress import meter
from selfcorrect.runs.recipes import to_yaml
from selfcorrect.train.common.finite import largest, require_finite
from selfcorrect.train.embedded import corpus

BOS, END, PAD, USER, ASSISTANT, SYSTEM = "<|bos|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL = (PAD, BOS, END, USER, ASSISTANT, SYSTEM)
HEADER = "\n\n"
"""Follows ``<|assistant|>``: the same tokens as `prompts.SEPARATOR`, so a part looks alike asked for or joined."""

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{- '<|assistant|>\\n\\n' }}"
    "{%- generation %}{{- message['content'] + '<|end|>' }}{%- endgeneration %}"
    "{%- else %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n\\n' }}{%- endif %}"
)


@dataclass(frozen=True, slots=True)
class PretrainRecipe:
    """One embedded model. Those of the shipped one are train/recipes/styles-pretrain and hurried-pretrain."""

    seed: int = 0  # of the corpus, the start weights and the order
    start: str = ""  # a model folder or embedded-1: its weights and tokenizer; nothing: from random weights
    phases: tuple[dict[str, Any], ...] = ({"conversations": 98_304, "mix": {}},)  # `corpus.Phase`s, in order
    vocabulary: int = 1024  # at most; merges stop where no pair is frequent
    hidden: int = 128  # width of the model
    layers: int = 5  # transformer layers
    head_size: int = 32  # the smallest that vLLM takes on a CPU
    feed_forward: int = 384  # width between them
    context: int = 1024  # positions the model is declared for
    batch_tokens: int = 2048  # per process and step, padding included
    processes: int = 2  # single-threaded workers
    learning_rate: float = 2e-3  # peak
    warmup_steps: int = 50  # steps until the peak
    flat_until: float = 0.6  # share of the steps after which the rate falls linearly ...
    final_rate: float = 0.05  # ... to this share of it
    weight_decay: float = 0.05  # of AdamW
    betas: tuple[float, float] = (0.9, 0.98)  # of AdamW
    clip: float = 1.0  # longer gradients are scaled down to it
    save_every: int = 250  # steps between states to resume from
    judgement_weight: float = 4.0  # loss weight of ok / not / correct / wrong

    def __post_init__(self) -> None:
        if self.hidden % self.head_size:
            raise RecipeError(f"hidden {self.hidden} is not a multiple of head_size {self.head_size}")
        if self.processes < 1 or not self.phases or any(phase.get("conversations", 0) < 1 for phase in self.phases):
            raise RecipeError("processes and the conversations of every phase must be at least 1")

    @property
    def conversations(self) -> int:
        """The size of the corpus, which is seen once."""
        return sum(int(phase["conversations"]) for phase in self.phases)


def run(recipe: PretrainRecipe, run_folder: Path) -> dict[str, Any]:
    """Pre-train into ``<run>/checkpoints/embedded`` and return the summary; a finished folder is only read."""
    folder = run_folder / "checkpoints" / "embedded"
    with stage_folder(folder, recipe):
        summary: dict[str, Any] | None = finished(folder)
        if summary is None:
            summary = pretrain(recipe, folder) | {"compute": recorded_compute(Compute(), Compute())}  # it is a base
            mark_done(folder, summary)
        shutil.rmtree(folder / "pretraining", ignore_errors=True)
        return summary


def plan(recipe: PretrainRecipe, run_folder: Path = Path("runs/pretrain")) -> RenderableType:
    """Return what the run would do: the recipe, the model's size and a few conversations of the corpus."""
    shapes = initial_weights(recipe, recipe.vocabulary).values()
    parameters = sum(tensor.numel() for tensor in shapes)
    return Group(
        Panel(Syntax(to_yaml(recipe), "yaml"), title="recipe"),
        f"writes {run_folder / 'checkpoints' / 'embedded'}",
        f"at most {parameters:,} parameters; about {recipe.conversations * 125 / 1e6:.1f} M tokens, seen once, "
        f"in {recipe.processes} processes of one thread (9,000 tokens a second on 2 shared cores)",
        Panel(
            Text(corpus.examples("train", 4, recipe.seed, corpus.Phase(**recipe.phases[-1]))),
            title="problems and conversations",
        ),
    )


def pretrain(recipe: PretrainRecipe, out: Path) -> dict[str, float]:
    """Write a model folder to ``out`` and return ``tokens``, ``seconds``, ``tokens_per_s`` and the last ``loss``.

    An interrupted run continues from its last state when called again with the same recipe.
    """
    started = time.monotonic()
    work = out / "pretraining"
    make_folder(work)
    conversations = write_corpus(recipe, work / "corpus.jsonl")
    if recipe.start:
        copy_tokenizer(recipe.start, out)
    else:
        build_tokenizer(conversations[:8000], recipe).save_pretrained(out)
    tokens = tokenize(conversations, recipe, out, work / "tokens.npz")
    del conversations
    (work / "rendezvous").unlink(missing_ok=True)
    if recipe.processes == 1:
        worker(0, recipe, work)
    else:
        try:
            torch.multiprocessing.spawn(worker, args=(recipe, work), nprocs=recipe.processes)
        except torch.multiprocessing.ProcessRaisedException as error:
            kind, _, message = str(error).strip().splitlines()[-1].partition(": ")
            if kind.endswith(GuardError.__name__):
                raise GuardError(message) from error
            raise
    export(torch.load(work / "weights.pt"), recipe, out)
    figures: dict[str, float] = json.loads((work / "figures.json").read_text())
    return figures | {"tokens": tokens, "seconds": round(time.monotonic() - started, 1)}


# --- corpus and tokenizer ---------------------------------------------------------------------------------------


def write_corpus(recipe: PretrainRecipe, path: Path) -> list[list[list[Any]]]:
    """Write the corpus to a file and return it: conversations of ``[role, text, learn]`` turns."""
    corpus.write_corpus(path, [corpus.Phase(**phase) for phase in recipe.phases], recipe.seed)
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def copy_tokenizer(start: str, out: Path) -> None:
    """Copy the tokenizer of the model that pre-training continues from."""
    with model_loading(start, "a tokenizer"):
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(Path(model_path(start)) / name, out)


def build_tokenizer(conversations: Iterable[list[list[Any]]], recipe: PretrainRecipe) -> Any:
    """Return a byte-level BPE tokenizer whose digits, operators and newlines are single tokens, with chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    pieces = r"\[VERIFY\]|\\boxed| ?[A-Za-z]+|[0-9]|\s|[^\sA-Za-z0-9]"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    wordings = [getattr(prompts, name) for name in dir(prompts) if name.isupper()] + list(verdicts.MARKS.values())
    texts = [turn[1] for conversation in conversations for turn in conversation]
    tokenizer.train_from_iterator(wordings * 50 + texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        clean_up_tokenization_spaces=False,
        model_max_length=recipe.context,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def turn_pieces(role: str, text: str, learn: bool) -> list[tuple[str, bool]]:
    """Return a turn as (text, learned) pieces, exactly as the chat template renders it."""
    if role == "":
        return [(text, learn)]
    if role == "assistant":
        return [(ASSISTANT + HEADER, False), (text + END, learn)]
    return [(f"<|{role}|>{text}{END}", False)]


def tokenize(conversations: list[list[list[Any]]], recipe: PretrainRecipe, folder: Path, path: Path) -> int:
    """Write token ids, loss weights and offsets of all conversations to an .npz; return the number of tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    judgement = [tokenizer.encode(text).ids for text in (" ok", " not", " correct", " wrong")]
    if recipe.conversations >= 1000 and any(len(ids) != 1 for ids in judgement):
        raise ModelError(f"ok / not / correct / wrong must be single tokens, got {judgement}: raise `vocabulary`")
    judges = {ids[0] for ids in judgement if len(ids) == 1}
    pieces: list[tuple[str, bool]] = []
    owners: list[int] = []
    for index, conversation in enumerate(conversations):
        turns = [piece for turn in conversation for piece in turn_pieces(*turn)]
        pieces += [(BOS, False), *turns]
        owners += [index] * (len(turns) + 1)
    encoded = tokenizer.encode_batch_fast([text for text, _ in pieces])
    ids: list[int] = []
    weights: list[float] = []
    lengths = np.zeros(len(conversations), np.int64)
    for (_, learn), owner, encoding in zip(pieces, owners, encoded, strict=True):
        piece = encoding.ids
        ids += piece
        weights += [recipe.judgement_weight if i in judges else 1.0 for i in piece] if learn else [0.0] * len(piece)
        lengths[owner] += len(piece)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    np.savez(path, ids=np.array(ids, np.int16), weights=np.array(weights, np.float16), offsets=offsets)
    return len(ids)


# --- the model --------------------------------------------------------------------------------------------------

Weights = dict[str, Tensor]


def initial_weights(recipe: PretrainRecipe, vocabulary: int) -> Weights:
    """Return seeded parameters under their Hugging Face names."""
    torch.manual_seed(recipe.seed)
    h, f = recipe.hidden, recipe.feed_forward
    small = 0.02 / math.sqrt(2 * recipe.layers)
    weights = {"model.embed_tokens.weight": torch.randn(vocabulary, h) * 0.02, "model.norm.weight": torch.ones(h)}
    for layer in range(recipe.layers):
        name = f"model.layers.{layer}."
        weights |= {f"{name}self_attn.{part}_proj.weight": torch.randn(h, h) * 0.02 for part in "qkv"}
        weights[f"{name}self_attn.o_proj.weight"] = torch.randn(h, h) * small
        weights |= {f"{name}mlp.{part}_proj.weight": torch.randn(f, h) * 0.02 for part in ("gate", "up")}
        weights[f"{name}mlp.down_proj.weight"] = torch.randn(h, f) * small
        weights |= {f"{name}{part}_layernorm.weight": torch.ones(h) for part in ("input", "post_attention")}
    return weights


def started_weights(start: str, expected: Weights) -> Weights:
    """Return the weights of a model folder; ModelError where they are not of the recipe's size."""
    from safetensors.torch import load_file

    with model_loading(start):
        found = load_file(Path(model_path(start)) / "model.safetensors")
    found.pop("lm_head.weight", None)
    shapes, wanted = ({name: tuple(tensor.shape) for name, tensor in of.items()} for of in (found, expected))
    if shapes != wanted:
        name = next(name for name in sorted(shapes | wanted) if shapes.get(name) != wanted.get(name))
        raise ModelError(
            f"start: {start!r} has {name} {shapes.get(name)}, the recipe expects {wanted.get(name)}: "
            "set hidden, layers, head_size and feed_forward to those of its config.json"
        )
    return {name: tensor.float() for name, tensor in found.items()}


def forward(weights: Weights, recipe: PretrainRecipe, ids: Tensor, where: Tensor) -> Tensor:
    """Return the logits (N, vocabulary) at the N positions ``where``, flat indices into ``ids`` (rows, width).

    Matrix products run in bfloat16, the residual stream in float32. Rows are padded on the right: causal
    attention keeps the padding out of every position that counts.
    """
    batch, length = ids.shape
    heads, size = recipe.hidden // recipe.head_size, recipe.head_size
    bf16 = torch.bfloat16

    def linear(x: Tensor, *names: str) -> Tensor:
        return F.linear(x, torch.cat([weights[name] for name in names]).to(bf16))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (recipe.hidden,), weights[name], 1e-6).to(bf16)

    angles = torch.arange(length)[:, None] / ROPE_BASE ** (torch.arange(0, size, 2) / size)
    cos, sin = torch.cos(angles).repeat(1, 2).to(bf16), torch.cat([-torch.sin(angles), torch.sin(angles)], 1).to(bf16)
    future = torch.full((length, length), -1e4).triu(1).to(bf16)
    x = F.embedding(ids, weights["model.embed_tokens.weight"])
    for layer in range(recipe.layers):
        name = f"model.layers.{layer}."
        y = norm(x, f"{name}input_layernorm.weight")
        qkv = linear(y, *(f"{name}self_attn.{part}_proj.weight" for part in "qkv"))
        qkv = qkv.view(batch, length, 3, heads, size).permute(2, 0, 3, 1, 4).contiguous()
        qk, v = qkv[:2], qkv[2]
        qk = qk * cos + torch.cat([qk[..., size // 2 :], qk[..., : size // 2]], -1) * sin
        scores = (qk[0] * size**-0.5) @ qk[1].transpose(-1, -2) + future
        mixed = (F.softmax(scores, -1) @ v).transpose(1, 2).reshape(batch, length, recipe.hidden)
        x = x + linear(mixed, f"{name}self_attn.o_proj.weight")
        y = norm(x, f"{name}post_attention_layernorm.weight")
        gate, up = linear(y, *(f"{name}mlp.{part}_proj.weight" for part in ("gate", "up"))).chunk(2, -1)
        x = x + linear(F.silu(gate) * up, f"{name}mlp.down_proj.weight")
    return linear(norm(x.view(-1, recipe.hidden)[where], "model.norm.weight"), "model.embed_tokens.weight").float()


ROPE_BASE = 10_000.0


# --- training ---------------------------------------------------------------------------------------------------


def batches(lengths: np.ndarray, recipe: PretrainRecipe) -> list[np.ndarray]:
    """Return batches of conversation indices, alike in length: ``batch_tokens // width`` rows, or fewer.

    Lengths are sorted inside windows of a few thousand conversations, so that the order stays close to random.
    """
    rng = np.random.default_rng(recipe.seed)
    order = np.arange(len(lengths))
    found: list[np.ndarray] = []
    for window in np.split(order, range(4096, len(order), 4096)):
        widths = WIDTH * -(-lengths[window] // WIDTH)
        here = []
        for width in np.unique(widths):
            alike = window[widths == width]
            rows = max(1, recipe.batch_tokens // int(width))
            here += np.split(alike, range(rows, len(alike), rows))
        found += [here[i] for i in rng.permutation(len(here))]
    return found


WIDTH, LOSSES = 16, 128
"""Widths and numbers of learned positions are rounded up to these: on a CPU each new shape costs a compilation."""


def schedule(recipe: PretrainRecipe, step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step: linear warm-up, flat, linear fall to ``final_rate``."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    fall = max(0.0, ((step + 1) / steps - recipe.flat_until) / (1 - recipe.flat_until))
    return 1 - fall * (1 - recipe.final_rate)


def worker(rank: int, recipe: PretrainRecipe, work: Path) -> None:
    """Train as one of ``processes``: own batches, averaged gradients; rank 0 writes the weights and the figures."""
    torch.set_num_threads(1)
    if recipe.processes > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = f"file://{(work / 'rendezvous').resolve()}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=recipe.processes)
    arrays = np.load(work / "tokens.npz")
    ids, weights_of, offsets = arrays["ids"], arrays["weights"], arrays["offsets"]
    weights = initial_weights(recipe, vocabulary_size(work.parent))
    if recipe.start:
        weights = started_weights(recipe.start, weights)
    for tensor in weights.values():
        tensor.requires_grad_()
    matrices = [tensor for tensor in weights.values() if tensor.ndim == 2]
    vectors = [tensor for tensor in weights.values() if tensor.ndim == 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
    plan_of_batches = batches(np.diff(offsets), recipe)
    steps = len(plan_of_batches) // recipe.processes or 1
    start = load_state(work, weights, optimizer, steps)
    started, seen, smooth = time.monotonic(), 0, 0.0
    with meter("pretrain", steps) if rank == 0 else nullcontext() as progress:
        if progress:
            progress.begin_at(start)
            metrics = work.parent / "metrics.jsonl"
            write_jsonl(metrics, [row for row in read_jsonl(metrics) if row["step"] <= start] if start else [])
        for step in range(start, steps):
            batch = plan_of_batches[(step * recipe.processes + rank) % len(plan_of_batches)]
            inputs, where, targets, loss_weights = collate(batch, ids, weights_of, offsets, recipe.batch_tokens)
            losses = F.cross_entropy(forward(weights, recipe, inputs, where), targets, reduction="none")
            loss = (losses * loss_weights).sum() / loss_weights.sum()
            loss.backward()
            average_gradients(weights, recipe.processes)
            norm = torch.nn.utils.clip_grad_norm_(weights.values(), recipe.clip)
            require_finite(step + 1, "loss", loss.item(), recipe.learning_rate)
            require_finite(step + 1, "gradient norm", norm.item(), recipe.learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * schedule(recipe, step, steps)
            optimizer.step()
            require_finite(step + 1, "largest weight", largest(weights.values()), recipe.learning_rate)
            optimizer.zero_grad()
            seen += int((offsets[batch + 1] - offsets[batch]).sum())
            smooth = 0.98 * smooth + 0.02 * loss.item() if smooth else loss.item()
            if progress:
                rate = seen * recipe.processes / (time.monotonic() - started)
                progress.advance(note=f"loss {smooth:.3f}, {rate:,.0f} tokens/s")
                if (step + 1) % recipe.save_every == 0:
                    save_state(work, weights, optimizer, step + 1)
                if (step + 1) % 50 == 0 or step + 1 == steps:
                    row = {"step": step + 1, "of": steps, "loss": round(smooth, 4), "tokens_per_s": round(rate)}
                    append_lines(metrics, [json.dumps(row) + "\n"])
    if rank == 0:
        with whole_file(work / "weights.pt") as file:
            torch.save({name: tensor.detach() for name, tensor in weights.items()}, file)
        figures = {
            "tokens_per_s": round(seen * recipe.processes / (time.monotonic() - started)),
            "loss": round(smooth, 4),
        }
        write_json(work / "figures.json", figures)
    if recipe.processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def save_state(work: Path, weights: Weights, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write everything that continues the run after ``step`` steps."""
    with whole_file(work / f"state-{step:06d}.pt") as file:
        torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, file)


def load_state(work: Path, weights: Weights, optimizer: torch.optim.Optimizer, steps: int) -> int:
    """Load the latest state of an interrupted run into weights and optimizer; return the number of steps done."""
    states = [path for path in sorted(work.glob("state-*.pt")) if int(path.stem[6:]) < steps]
    if not states:
        return 0
    state = torch.load(states[-1])
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(states[-1].stem[6:])


def vocabulary_size(folder: Path) -> int:
    """Return the vocabulary size of a saved tokenizer, rounded up to a multiple of 32."""
    from tokenizers import Tokenizer

    return -(-Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() // 32) * 32


def collate(
    batch: np.ndarray, ids: np.ndarray, weights: np.ndarray, offsets: np.ndarray, batch_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs (rows, width), and of the N learned positions: flat indices, targets and loss weights.

    Rows are padded on the right, the batch with empty rows, the positions with weight 0: few distinct shapes.
    """
    width = WIDTH * -(-int((offsets[batch + 1] - offsets[batch]).max()) // WIDTH)
    inputs = np.zeros((max(1, batch_tokens // width, len(batch)), width), np.int64)
    targets, loss_weights = np.zeros_like(inputs), np.zeros(inputs.shape, np.float32)
    for row, index in enumerate(batch):
        start, end = offsets[index], offsets[index + 1]
        inputs[row, : end - start] = ids[start:end]
        targets[row, : end - start - 1] = ids[start + 1 : end]
        loss_weights[row, : end - start - 1] = weights[start + 1 : end]
    where = np.flatnonzero(loss_weights)
    where = np.pad(where, (0, -len(where) % LOSSES))
    learned = loss_weights.reshape(-1)[where]
    learned[np.count_nonzero(loss_weights) :] = 0.0
    tensors = (inputs, where, targets.reshape(-1)[where], learned)
    return tuple(torch.from_numpy(array) for array in tensors)  # type: ignore[return-value]


def average_gradients(weights: Weights, processes: int) -> None:
    """Replace every gradient by its mean over the processes, in one message."""
    if processes == 1:
        return
    gradients = [tensor.grad for tensor in weights.values() if tensor.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


# --- the folder -------------------------------------------------------------------------------------------------


def export(weights: Weights, recipe: PretrainRecipe, out: Path) -> None:
    """Save the weights as a Hugging Face Llama folder beside the tokenizer."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    heads = recipe.hidden // recipe.head_size
    pad, bos, end = (SPECIAL.index(token) for token in (PAD, BOS, END))
    config = LlamaConfig(
        vocab_size=weights["model.embed_tokens.weight"].shape[0],
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=recipe.context,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=end,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=bos, eos_token_id=end, pad_token_id=pad, do_sample=True, temperature=1.0, max_new_tokens=160
    )
    model.save_pretrained(out)
