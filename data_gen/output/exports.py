"""Exports: a finished run's data in the formats of other trainers, and on the hub.

    selfcorrect gen RECIPE --run runs/mine --export trl --export verl
    selfcorrect gen RECIPE --run runs/mine --push-to-hub owner/name

Written to ``<run>/export/<trainer>/`` with a README that holds the lines to put into the trainer's configuration.

| trainer | fine-tuning | preferences | prompts for RL |
| --- | --- | --- | --- |
| trl | token ids and labels, exact | prompt, chosen, rejected | prompt, gold |
| axolotl | ``input_output`` segments, each learned or not | ``user_defined.default`` | – |
| llama-factory | alpaca rows, template ``empty`` | the same, ``ranking`` | – |
| openrlhf | input, output | prompt, chosen, rejected | input, label |
| verl | – | – | parquet |

What is learned stays what method.md says. One that learns whole answers gets one row for each learned run of tokens:
all the text before it is the prompt, so the sum of the losses is the same. verl's fine-tuning learns whole assistant
messages, the wrong attempt of D1 too, so it gets no fine-tuning rows. Text holds the chat template's own marks, and no
trainer may add a template to it. Pairs with a user's message in what is compared (P3 in the two-turn format) are
left out, since these trainers would learn that message; rows whose text encodes to other tokens than were sampled are
counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.errors import InputError, ModelError, RunFolderError, nearest
from selfcorrect.hub import files_of, push_files
from selfcorrect.runs.files import whole_file
from selfcorrect.runs.jsonl import read_jsonl, write_json, write_jsonl, write_whole
from selfcorrect.training_row import LearnedTokens, TrainingRow, read_pairs, read_rows, read_training_rows

Row = Mapping[str, Any]


def export(run_folder: Path, trainers: Sequence[str], codec: ChatCodec | None = None) -> dict[str, dict[str, int]]:
    """Write the exports for some trainers; return, for each, how many rows each file has and what was left out.

    ``codec`` is that of the model that sampled (default: the one that the run's recipe names). Raises InputError for an
    unknown trainer, RunFolderError where the run has no data yet.
    """
    check(trainers)
    data = run_folder / "data"
    cards = sorted((data / "sft").glob("*.card.json"))
    if not cards:
        raise RunFolderError(f"{data} has no data set yet; run `selfcorrect gen` to its end first")
    card = json.loads(cards[0].read_text(encoding="utf-8"))
    codec = codec or ChatCodec.load(card["model"])
    if codec.fingerprint() != card["tokenizer"]:
        raise ModelError(
            f"the rows in {data} hold token ids of another tokenizer ({card['tokenizer']}) than that of "
            f"{card['model']!r} as it is now ({codec.fingerprint()})"
        )
    return {name: WRITERS[name](data, run_folder / "export" / name, codec) for name in trainers}


def check(trainers: Sequence[str]) -> None:
    """Refuse an unknown trainer, before any work is done for it."""
    for name in trainers:
        if name not in WRITERS:
            raise InputError(f"no export for {name!r}{nearest(name, WRITERS)}; there are {', '.join(WRITERS)}")


# --- one trainer each ---------------------------------------------------------------------------------------------


def to_trl(data: Path, folder: Path, codec: ChatCodec) -> dict[str, int]:
    """Write for TRL: SFTTrainer takes token ids with labels as they are, DPOTrainer text, GRPOTrainer messages."""
    counts = {}
    for name, rows in _fine_tuning(data):
        labelled = (
            {"input_ids": list(row.tokens.token_ids), "labels": row.tokens.labels, "kind": row.kind} for row in rows
        )
        counts[f"{name}.jsonl"] = write_jsonl(folder / f"{name}.jsonl", labelled)
    counts |= _write_pairs(data, folder, codec, lambda pair: pair)
    counts |= _write_prompts(data, folder, lambda row, index: {"prompt": _asked(row), **_without(row, "question")})
    _readme(
        folder,
        """
        from datasets import load_dataset
        from trl import DPOTrainer, GRPOTrainer, SFTTrainer

        rows = load_dataset("json", data_files="self-rewarding.jsonl", split="train")
        SFTTrainer(model, train_dataset=rows)                       # input_ids and labels: nothing is tokenised again
        pairs = load_dataset("json", data_files="preferences.jsonl", split="train")
        DPOTrainer(model, train_dataset=pairs)                      # text with the template's marks: no template added
        asked = load_dataset("json", data_files="prompts.jsonl", split="train")
        GRPOTrainer(model, reward_funcs=..., train_dataset=asked)   # gold and source are passed to the reward
        """,
    )
    return counts


def to_axolotl(data: Path, folder: Path, codec: ChatCodec) -> dict[str, int]:
    """Write for axolotl: its template-free format marks each segment as learned or not."""
    counts = {}
    for name, rows in _fine_tuning(data):
        segments = ({"segments": [{"label": learn, "text": text} for learn, text in _runs(row, codec)]} for row in rows)
        counts[f"{name}.jsonl"] = write_jsonl(folder / f"{name}.jsonl", segments)
        counts |= _other_tokens(name, data, codec)
    counts |= _write_pairs(data, folder, codec, lambda pair: pair)
    _readme(
        folder,
        """
        # fine-tuning
        train_on_inputs: false
        datasets:
          - path: self-rewarding.jsonl
            ds_type: json
            type: input_output
        # preferences
        rl: dpo
        datasets:
          - path: preferences.jsonl
            ds_type: json
            split: train
            type: user_defined.default
        """,
    )
    return counts


def to_llama_factory(data: Path, folder: Path, codec: ChatCodec) -> dict[str, int]:
    """Write for LLaMA-Factory: alpaca rows with a ``dataset_info.json``; the template ``empty`` adds nothing."""
    counts: dict[str, int] = {}
    info: dict[str, Any] = {}
    for name, rows in _fine_tuning(data):
        answers = (
            {"instruction": prompt, "input": "", "output": answer}
            for row in rows
            for prompt, answer in _answers(row, codec)
        )
        counts[f"{name}.jsonl"] = write_jsonl(folder / f"{name}.jsonl", answers)
        counts |= _other_tokens(name, data, codec)
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
        info[name] = {"file_name": f"{name}.jsonl", "columns": columns}
    pairs = _write_pairs(
        data, folder, codec, lambda p: {"instruction": p["prompt"], "input": "", **_without(p, "prompt")}
    )
    if pairs:
        counts |= pairs
        columns = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}
        info["preferences"] = {"file_name": "preferences.jsonl", "ranking": True, "columns": columns}
    write_json(folder / "dataset_info.json", info)
    _readme(
        folder,
        """
        dataset_dir: <this folder>
        dataset: self-rewarding        # preferences, with stage: dpo
        template: empty                # the rows hold the chat template's marks already
        """,
    )
    return counts


def to_openrlhf(data: Path, folder: Path, codec: ChatCodec) -> dict[str, int]:
    """Write for OpenRLHF: plain text for fine-tuning and preferences, messages for RL."""
    counts = {}
    for name, rows in _fine_tuning(data):
        answers = ({"input": prompt, "output": answer} for row in rows for prompt, answer in _answers(row, codec))
        counts[f"{name}.jsonl"] = write_jsonl(folder / f"{name}.jsonl", answers)
        counts |= _other_tokens(name, data, codec)
    counts |= _write_pairs(data, folder, codec, lambda pair: pair)
    counts |= _write_prompts(
        data,
        folder,
        lambda row, index: {"input": _asked(row), "label": row["gold"], "datasource": row["source"]},
    )
    _readme(
        folder,
        """
        train_sft   --dataset self-rewarding.jsonl --input_key input --output_key output      # no --apply_chat_template
        train_dpo   --dataset preferences.jsonl --prompt_key prompt --chosen_key chosen --rejected_key rejected
        train_ppo_ray --prompt_data prompts.jsonl --input_key input --label_key label --apply_chat_template
        """,
    )
    return counts


def to_verl(data: Path, folder: Path, codec: ChatCodec) -> dict[str, int]:
    """Write for verl: the prompts for RL, as parquet."""
    import pyarrow
    import pyarrow.parquet

    def row(problem: Row, index: int) -> dict[str, Any]:
        return {
            "data_source": problem["source"],
            "prompt": _asked(problem),
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": problem["gold"]},
            "extra_info": {"split": "train", "index": index, "id": problem["id"]},
        }

    rows = [row(problem, index) for index, problem in enumerate(_read(data / "prompts.jsonl"))]
    if not rows:
        raise RunFolderError(f"{data} has no prompts.jsonl, which is all that verl takes; gen with prompts=N makes one")
    with whole_file(folder / "prompts.parquet") as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    _readme(
        folder,
        """
        data.train_files=prompts.parquet
        data.prompt_key=prompt
        custom_reward_function.path=...    # data_source names the problem set; verl's own graders know few of them
        """,
    )
    return {"prompts.parquet": len(rows)}


WRITERS: dict[str, Callable[[Path, Path, ChatCodec], dict[str, int]]] = {
    "trl": to_trl,
    "axolotl": to_axolotl,
    "llama-factory": to_llama_factory,
    "openrlhf": to_openrlhf,
    "verl": to_verl,
}
"""The exports by name."""


# --- rows ---------------------------------------------------------------------------------------------------------


def _fine_tuning(data: Path) -> Iterator[tuple[str, Iterator[TrainingRow]]]:
    for path in sorted((data / "sft").glob("*.jsonl")):
        yield path.stem, (TrainingRow.from_json(row, str(path)) for row in read_rows(path))


def _read(path: Path) -> Iterator[Row]:
    return read_jsonl(path) if path.exists() else iter(())


def _runs(row: TrainingRow, codec: ChatCodec) -> list[tuple[bool, str]]:
    """Return a row's text in runs of spans that are learned, or not."""
    runs = groupby(row.tokens.spans, key=lambda span: span.learn)
    ends = [(learn, spans[0].start, spans[-1].end) for learn, spans in ((learn, list(found)) for learn, found in runs)]
    return [(learn, codec.decode(row.tokens.token_ids[start:end])) for learn, start, end in ends]


def _answers(row: TrainingRow, codec: ChatCodec) -> Iterator[tuple[str, str]]:
    """Yield (all the text before it, a learned run) for each learned run."""
    before = ""
    for learn, text in _runs(row, codec):
        if learn:
            yield before, text
        before += text


def _other_tokens(name: str, data: Path, codec: ChatCodec) -> dict[str, int]:
    """Count the rows whose text encodes to other tokens than its model sampled."""
    encode = lambda text: codec.tokenizer.encode(text, add_special_tokens=False)
    rows = read_training_rows(data / "sft" / f"{name}.jsonl")
    count = sum(tuple(encode(row.tokens.text)) != row.tokens.token_ids for row in rows)
    return {f"{name}: rows with other tokens than sampled": count} if count else {}


def _write_pairs(
    data: Path, folder: Path, codec: ChatCodec, shape: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> dict[str, int]:
    """Write ``preferences.jsonl`` of (prompt, chosen, rejected) texts; return its rows and the pairs left out."""
    path = data / "preferences" / "pairs.jsonl"
    if not path.exists():
        return {}
    left_out = 0

    def rows() -> Iterator[Mapping[str, Any]]:
        nonlocal left_out
        for pair in read_pairs(path):
            sides, shared = (pair.chosen, pair.rejected), pair.shared
            if any(_compares_a_user(side, shared) for side in sides):
                left_out += 1
                continue
            chosen, rejected = (codec.decode(side.token_ids[shared:]) for side in sides)
            prompt = codec.decode(pair.chosen.token_ids[:shared])
            yield shape({"prompt": prompt, "chosen": chosen, "rejected": rejected})

    counts = {"preferences.jsonl": write_jsonl(folder / "preferences.jsonl", rows())}
    return counts | ({"pairs left out (they compare a user's message)": left_out} if left_out else {})


def _compares_a_user(side: LearnedTokens, shared: int) -> bool:
    return any(span.start >= shared and not span.learn for span in side.spans)


def _write_prompts(data: Path, folder: Path, shape: Callable[[Row, int], Mapping[str, Any]]) -> dict[str, int]:
    path = data / "prompts.jsonl"
    if not path.exists():
        return {}
    rows = (shape(row, index) for index, row in enumerate(read_jsonl(path)))
    return {"prompts.jsonl": write_jsonl(folder / "prompts.jsonl", rows)}


def _asked(problem: Row) -> list[dict[str, str]]:
    return [dict(message) for message in prompts.solve_messages(problem["question"])]


def _without(row: Row, key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


def _readme(folder: Path, lines: str) -> None:
    body = "\n".join(line.removeprefix(" " * 8) for line in lines.strip("\n").splitlines()).rstrip()
    write_whole(folder / "README.md", [f"Made by `selfcorrect gen --export {folder.name}`.\n\n```\n{body}\n```\n"])


# --- the hub ------------------------------------------------------------------------------------------------------


def push_to_hub(run_folder: Path, repo: str, endpoint: str | None = None) -> str:
    """Upload a finished run's ``data`` folder, card and all, as a data set; return its address.

    A repository that does not exist is made, private. Raises InputError for a name that is none and for a refusal of
    the hub, RunFolderError where the run has no data set yet.
    """
    data = run_folder / "data"
    if not (data / "README.md").exists():
        raise RunFolderError(f"{data} has no data set yet; run `selfcorrect gen` to its end first")
    return push_files(files_of(data), repo, "dataset", endpoint=endpoint, message="selfcorrect gen")
