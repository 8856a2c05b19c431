"""What a checkpoint, or a data set, is published with: on the Hugging Face hub, or in a folder (docs/doors.md).

    selfcorrect push runs/mine/checkpoints/grpo owner/name
    selfcorrect push runs/mine/data --folder out/data

A checkpoint goes with its card (how it is used, what it scored, whether its P(correct) is to be believed, recipe) and,
for rows on a benchmark of the hub, ``.eval_results/*.yaml``: the first attempt and the final answer as two results.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from selfcorrect.correction.stop_rule import CALIBRATION_FILE
from selfcorrect.errors import InputError, RunFolderError
from selfcorrect.eval.results import EvaluatedRow, find_rows
from selfcorrect.eval.tables.columns import JUDGED, REACHED, headings
from selfcorrect.eval.tables.demo_table import result_table
from selfcorrect.eval.tables.paper_tables import QUALITY, believed, calibration_table, quality_cells
from selfcorrect.hub import Files, Kind, files_of
from selfcorrect.markdown import code, fenced, inline
from selfcorrect.problems.known_sets import HUB_SETS, PUBLISHED_COUNTS
from selfcorrect.runs.folder import finished, is_done
from selfcorrect.runs.jsonl import read_json
from selfcorrect.runs.recipes import read_yaml
from selfcorrect.table import Table
from selfcorrect.train.common.model_card import base_on_hub

KEPT_HERE = ("DONE", "inputs.json", "start.json", "guard-samples.jsonl", "README.md")
"""Files of a checkpoint folder that only its run needs, and the card, which is written anew."""

QUESTION = "Mia has 40 shells and buys 12 more. How many shells now?"


@dataclass(frozen=True, slots=True)
class Publication:
    """The files that go out. ``notes`` say what was found and what could not be said."""

    kind: Kind
    files: Files
    notes: tuple[str, ...] = ()

    @property
    def card(self) -> str:
        """The text of the card."""
        card = self.files["README.md"]
        return card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")


def publication(folder: Path, name: str, rows: Sequence[Path] = ()) -> Publication:
    """Return what a finished checkpoint or data folder is published with; ``name`` is what users will load it by.

    ``rows`` are evaluations of the checkpoint (default: those of its run). Raises InputError for a folder that is
    neither, RunFolderError where it is not finished or lost something since.
    """
    if (folder / "sft").is_dir() and any((folder / "sft").glob("*.card.json")):
        if not (folder / "README.md").is_file():
            raise RunFolderError(f"{folder} has no card yet; run `selfcorrect gen` to its end first")
        if rows:
            raise InputError("--row goes with a checkpoint: a data set has no scores")
        return Publication("dataset", files_of(folder))
    if not (folder / "config.json").is_file() or not (folder / "recipe.yaml").is_file():
        near = [path for path in (folder / "data", *sorted(folder.glob("checkpoints/*"))) if path.is_dir()]
        meant = f"; of this run, one of: {', '.join(map(str, near))}" if near else ""
        raise InputError(
            f"{folder} is neither a checkpoint of `selfcorrect train` (config.json, recipe.yaml) nor a data folder of "
            f"`selfcorrect gen` (sft/*.card.json){meant}"
        )
    if not is_done(folder):
        raise RunFolderError(f"the training in {folder} has not come to its end: run the same training command again")
    finished(folder)
    measured = [read for place in rows for read in find_rows([place])] if rows else rows_of(folder)
    results, notes = eval_results(measured)
    held = {name: path for name, path in files_of(folder).items() if name not in KEPT_HERE}
    card = model_card(folder, name, measured).encode()
    said = [f"{len(measured)} evaluated rows: {', '.join(row.name for row in measured) or 'none'}", *notes]
    return Publication("model", {"README.md": card, **results, **held}, tuple(said))


def rows_of(folder: Path) -> list[EvaluatedRow]:
    """Return the evaluations of a checkpoint in its run folder; no upper bounds, none that a threshold was tuned on."""
    run = folder.resolve().parent.parent
    if not (run / "eval").is_dir():
        return []
    found = [row for row in find_rows([run]) if row.result.is_result and not row.result.sees_references]
    return [row for row in found if row.result.checkpoint == folder.resolve().name]


# --- results ------------------------------------------------------------------------------------------------------


def eval_results(rows: Sequence[EvaluatedRow]) -> tuple[dict[str, bytes], list[str]]:
    """Return ``.eval_results/*.yaml`` of the rows on test sets that the hub has, and why others have none.

    One file a result, as the hub asks for variants: the first attempt, and the final answer. Values are percent.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    files, without = dict[str, bytes](), list[str]()
    for row in rows:
        known = HUB_SETS.get(row.result.benchmark)
        if known is None or row.result.split != "test":
            without.append(row.name)
            continue
        started = read_json(row.folder / "provenance.json", missing_ok=True).get("started")
        for part, meant in (("turn1", "first attempt, before self-correction"), ("final", "after self-correction")):
            measure = getattr(row.result.scores, part)
            entry = EvalResultEntry(
                known.hub_id,
                known.config or "default",
                measure.value,
                date=started if isinstance(started, str) else None,
                notes=f"{meant}; {_how(row)}; {_interval(measure.interval)}",
            )
            text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
            files[f".eval_results/{row.name}.{part}.yaml"] = text.encode()
    notes = [f"no .eval_results for {', '.join(without)}: not the test split of a set that the hub has"] * bool(without)
    return files, notes


def _how(row: EvaluatedRow) -> str:
    """Return how a row was measured, in words: what a reader needs beside the number."""
    result, sampling = row.result, row.result.sampling
    problems = result.scores.problems or result.scores.n
    whole = PUBLISHED_COUNTS.get(result.benchmark)
    part = f" of {whole:,}" if whole and whole != problems else ""
    samples = f", mean of {len(sampling.seeds)} samples each" if len(sampling.seeds) > 1 else ""
    temperature = "" if sampling.temperature is None else f", temperature {sampling.temperature:g}"
    horizon = f", at most {sampling.horizon} attempts" if sampling.horizon and result.method != "single-turn" else ""
    stop = "" if result.stop == "sampled" else f", stop={result.stop}"
    return f"method {result.method}{stop}{horizon}, {problems:,}{part} problems{samples}{temperature}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "no interval" if interval is None else f"95% interval {interval[0]:g} to {interval[1]:g}"


# --- the card -----------------------------------------------------------------------------------------------------


def model_card(folder: Path, name: str, rows: Sequence[EvaluatedRow]) -> str:
    """Return the card of a checkpoint: what stands in its README.md, which is the user's, with our sections anew."""
    from huggingface_hub import ModelCard

    recipe = read_yaml(folder / "recipe.yaml")
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {inline(str(recipe['name']))}\n"
    try:
        card = ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{readme}: its front matter cannot be read ({reason}); mend or remove it") from error
    is_judge = _is_judge(folder)
    about: Any = card.data
    about.library_name = "transformers"
    about.base_model = base_on_hub(recipe, folder)
    about.pipeline_tag = "text-classification" if is_judge else "text-generation"
    about.tags = list(dict.fromkeys([*(about.tags or []), "selfcorrect"]))
    card.text = _with_section(card.text, "Use", _use_of_a_judge(name) if is_judge else _use(folder, name, rows))
    card.text = _with_section(card.text, "Evaluation", _evaluation(rows))
    card.text = _with_section(card.text, "Calibration", _calibration(folder, rows))
    return str(card)


def _with_section(text: str, title: str, body: str) -> str:
    """Return Markdown in which a section of this title says ``body``: in its place, or else before ``Data``."""
    section = f"## {title}\n\n{body.strip()}\n\n"
    places = _sections(text)
    if title in places:
        start, end = places[title]
        return text[:start] + section + text[end:]
    start = places.get("Data", (len(text), 0))[0]
    before = text[:start].rstrip("\n")
    return f"{before}\n\n{section}{text[start:]}"


def _sections(text: str) -> dict[str, tuple[int, int]]:
    """Return where the sections of a page begin and end, by title; what stands in a block of code is no heading."""
    heads, fence, place = list[tuple[str, int]](), "", 0
    for line in text.splitlines(keepends=True):
        if marks := re.match(r"(`{3,}|~{3,})", line):
            if not fence:
                fence = marks[1]
            elif line.rstrip().startswith(fence) and not line.strip(f"{fence[0]}\r\n "):
                fence = ""
        elif not fence and line.startswith("## "):
            heads.append((line[3:].strip(), place))
        place += len(line)
    ends = [start for _, start in heads[1:]] + [len(text)]
    return {title: (start, end) for (title, start), end in zip(heads, ends, strict=True)}


def _is_judge(folder: Path) -> bool:
    architectures = read_json(folder / "config.json").get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def _method(folder: Path, rows: Sequence[EvaluatedRow]) -> str:
    """Return the method that the model is used by: that of its trained format."""
    recipe = read_yaml(folder / "recipe.yaml")
    measured = {row.result.method for row in rows}
    is_two_turn = recipe.get("format") == "two-turn" or ("two-turn" in measured and "self-rewarding" not in measured)
    return "two-turn" if is_two_turn else "self-rewarding"


def _use(folder: Path, name: str, rows: Sequence[EvaluatedRow]) -> str:
    method = _method(folder, rows)
    stop = ', stop="threshold"' if (folder / CALIBRATION_FILE).is_file() else ""
    ours = f'''from selfcorrect import SelfCorrectModel

with SelfCorrectModel.load({name!r}, method="{method}"{stop}) as model:
    print(model.solve({QUESTION!r}).final.answer)'''
    plain = f"""from selfcorrect.prompts import solve_messages
from transformers import pipeline

chat = pipeline("text-generation", {name!r})
print(chat(solve_messages({QUESTION!r}), max_new_tokens=512, do_sample=False)[0]["generated_text"][-1]["content"])"""
    in_one = (
        "The model writes an attempt, judges it (`[VERIFY] correct.` or `[VERIFY] wrong.`) and, where it is wrong, "
        "revises it, all in one message: the answer is the last attempt."
    )
    asked = (
        "The model judges its attempt at the end of its message; a user message that depends on the verdict follows, "
        "which `SelfCorrectModel` writes."
    )
    served = "Behind vLLM, with the last attempt as the content that chat clients see:\n\n" + fenced(
        f"vllm serve {name} --reasoning-parser selfcorrect --reasoning-parser-plugin selfcorrect.adapters.vllm_parser",
        "bash",
    )
    return "\n\n".join(
        [
            in_one if method == "self-rewarding" else asked,
            fenced(ours, "python"),
            "With transformers alone:",
            fenced(plain, "python"),
            *([served] if method == "self-rewarding" else []),
        ]
    )


def _use_of_a_judge(name: str) -> str:
    command = f"selfcorrect eval embedded method=judged judge.kind=orm judge.engine.model={name} row=judged"
    return "A classifier of attempts: it judges in the place of a model.\n\n" + fenced(command, "bash")


def _evaluation(rows: Sequence[EvaluatedRow]) -> str:
    if not rows:
        return "Not evaluated: its run folder holds no evaluation of it (`selfcorrect eval` makes one)."
    table = result_table([row.result for row in rows], ("n", *REACHED, *JUDGED))
    meaning = "; ".join(f"{head}: {head.meaning}" for head in headings((*REACHED, *JUDGED)))
    lines = [f"- {inline(row.title)}: {code(_set(row))}, {_how(row)}{_ungraded(row)}" for row in rows]
    return "\n\n".join([table.to_markdown(), f"{meaning}; with 95% intervals.", "\n".join(lines)])


def _set(row: EvaluatedRow) -> str:
    return ", ".join(part for part in (row.result.benchmark, row.result.split) if part)


def _ungraded(row: EvaluatedRow) -> str:
    scores = row.result.scores
    counts = {
        "without a readable answer": scores.unanswered,
        "cut": scores.truncated,
        "not gradable": scores.ungradable,
    }
    said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"; {said}" if said else ""


def _calibration(folder: Path, rows: Sequence[EvaluatedRow]) -> str:
    """Return whether P(correct) is to be believed: what the saved stop rule was tuned on, and what the rows show."""
    parts = list[str]()
    if (folder / CALIBRATION_FILE).is_file():
        tuned = read_json(folder / CALIBRATION_FILE)
        kinds = (("before", "as the model says"), ("after", f"{tuned['fit']}, cross-fitted"))
        lines = [(title, f"{tuned[key]['n']:,}", *quality_cells(tuned[key])) for key, title in kinds]
        parts += [
            Table("", ("P(correct)", *headings(("n", *QUALITY))), lines).to_markdown(),
            f'On validation problems. `stop="threshold"` stops where the calibrated P(correct) is at least '
            f"{tuned['rule']['threshold']:.3f} (`{CALIBRATION_FILE}`); cross-fitted, that ends with "
            f"{tuned['expected']['final']:.1f}% correct.",
        ]
    else:
        parts += [f"No calibrated stop rule is saved with it (`selfcorrect eval calibrate` makes {CALIBRATION_FILE})."]
    if measured := believed(rows):
        table = calibration_table(measured, folder)
        parts += ["On the evaluated rows, as the model says it:", replace(table, title="").to_markdown()]
    return "\n\n".join(parts)
