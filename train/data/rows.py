"""Training rows for a model: chosen, checked against its tokenizer, and shown with their loss mask.

The ids of a row are those that were sampled; they are never rendered and encoded again (TRL#5145), unless the recipe
says ``retokenise``. `selfcorrect.training_row` owns the format; exactly the tokens whose span says ``learn`` are in
the loss.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from selfcorrect.chat import ChatCodec
from selfcorrect.correction.parsing import parse_path
from selfcorrect.engines import Sample
from selfcorrect.errors import DataError, ModelError
from selfcorrect.problems import ProblemsRecipe, load_problems
from selfcorrect.prompts import SELF_QUESTION
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.shipped import made_by
from selfcorrect.training_row import LearnedSpan, TrainingRow, read_card, read_rows
from selfcorrect.types import Problem, Role

_STYLES = {Role.ATTEMPT: "black on green", Role.EVALUATION: "black on cyan", Role.REVISION: "black on bright_green"}


@dataclass(frozen=True, slots=True)
class SftData:
    """The rows of one file, and what was left out or changed on the way."""

    rows: tuple[TrainingRow, ...]
    kinds: Mapping[str, int]
    too_long: int = 0
    not_chosen: int = 0
    retokenised: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, learned or not."""
        return sum(len(row.tokens.token_ids) for row in self.rows)

    @property
    def learned_tokens(self) -> int:
        """Tokens in the loss."""
        return sum(row.tokens.learned_tokens for row in self.rows)


def load_sft_data(
    path: Path,
    codec: ChatCodec,
    *,
    max_tokens: int,
    max_rows: int | None = None,
    seed: int = 0,
    retokenise: bool = False,
) -> SftData:
    """Read a file of SFT rows for a model's tokenizer.

    Rows longer than ``max_tokens`` are left out and counted, never cut. ``max_rows`` draws so many at random (the
    equal-sample option of the baselines). Raises DataError for a broken row, ModelError for an empty loss mask or
    for ids of another tokenizer.
    """
    raw = list(read_rows(path))
    if not raw:
        raise DataError(f"{path} has no rows: nothing to train on")
    foreign = made_by_another_tokenizer(path, codec)
    if foreign and not retokenise:
        raise ModelError(
            f"the token ids in {path} were made by another tokenizer ({foreign}) than the model's "
            f"({codec.fingerprint()}): training on them would teach noise. Use the model that sampled them, or set "
            "retokenise=true to encode the text again (token boundaries then differ from what was sampled)"
        )
    rows = [TrainingRow.from_json(encode_again(row, codec) if foreign else row, str(path)) for row in raw]
    short = [row for row in rows if len(row.tokens.token_ids) <= max_tokens]
    if not short:
        raise DataError(f"all {len(rows)} rows of {path} are longer than max_tokens={max_tokens}")
    chosen = short
    if max_rows is not None and len(short) > max_rows:
        places = sorted(random.Random(f"sft-rows-{seed}").sample(range(len(short)), max_rows))
        chosen = [short[place] for place in places]
    return SftData(
        rows=tuple(chosen),
        kinds=dict(sorted(Counter(row.kind for row in chosen).items())),
        too_long=len(rows) - len(short),
        not_chosen=len(short) - len(chosen),
        retokenised=len(rows) if foreign else 0,
    )


def read_problems(path: Path) -> list[Problem]:
    """Read the problems that `gen` set aside. Raises DataError where there are none, or rows of another kind."""
    try:
        found = [Problem(**row) for row in read_jsonl(path)]
    except TypeError as error:
        raise DataError(
            f"{path}: expected rows of id, question, gold and source, as gen writes them ({error})"
        ) from error
    if not found:
        raise DataError(f"{path} has no problems; gen sets them aside with prompts=<how many>")
    return found


def training_problems(prompts: str | None, source: ProblemsRecipe, run_folder: Path, model: str) -> list[Problem]:
    """Return the problems to sample paths of: those of a file in the run folder, or where that is None of a source."""
    if prompts is None:
        return load_problems(source).problems
    return read_problems(made_by_gen(prompts, run_folder, model))


def made_by_gen(name: str, run_folder: Path, model: str, pairs: bool = False) -> Path:
    """Return the place of a file that `gen` writes; DataError with the command that makes it where it is missing."""
    path = run_folder / Path(name).expanduser()  # an absolute path stays absolute
    if path.is_file():
        return path
    if (here := Path(name).expanduser()).is_file():
        raise DataError(f"no data at {path}: a path is looked up in the run folder; for yours give {here.resolve()}")
    raise DataError(made_by(path, model, run_folder, pairs))


def encode_again(row: Mapping[str, Any], codec: ChatCodec) -> dict[str, Any]:
    """Return the row with its messages encoded by another tokenizer, the same parts learned.

    The parts are found in the text as the correction loop finds them. Raises DataError where they are not the parts
    that the row's spans name.
    """
    try:
        messages, source = row["messages"], row["source"]
        learned = [(span["role"], span["learn"]) for span in row["spans"] if span["role"] != Role.EXTERNAL]
        first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    except (KeyError, TypeError, StopIteration) as error:
        raise DataError(f"row {row.get('id')!r} cannot be encoded again: {error!r}") from error
    opening = codec.opening(messages[:first])
    ids, spans = list(opening), [LearnedSpan(Role.EXTERNAL, 0, len(opening), sampled=False, learn=False)]
    for message in messages[first:]:
        if message["role"] == "assistant":
            parts = _parts(message["content"], len(spans) > 1, source, codec)
            for role, part in parts:
                spans.append(LearnedSpan(role, len(ids), len(ids) + len(part), sampled=False, learn=False))
                ids += part
            ids.append(codec.turn_end)
            spans[-1] = replace(spans[-1], end=len(ids))
        else:
            reply = codec.reply(message["content"])[1:]  # the end of the turn before stands already
            spans.append(LearnedSpan(Role.EXTERNAL, len(ids), len(ids) + len(reply), sampled=False, learn=False))
            ids += reply
    found = [span.role for span in spans if span.role is not Role.EXTERNAL]
    if found != [role for role, _ in learned]:
        raise DataError(f"row {row['id']!r}: its text has the parts {found}, its spans {[role for role, _ in learned]}")
    learns = iter(learn for _, learn in learned)
    named = [span if span.role is Role.EXTERNAL else replace(span, learn=next(learns)) for span in spans]
    return {**row, "token_ids": ids, "spans": [asdict(span) for span in named]}


def _parts(text: str, later: bool, source: str, codec: ChatCodec) -> list[tuple[Role, tuple[int, ...]]]:
    """Split an assistant message into its parts, in order; a two-turn message ends with its question to itself."""
    asks = text.rfind(SELF_QUESTION)
    if asks >= 0:
        end = len(text[:asks].rstrip())
        role = Role.REVISION if later else Role.ATTEMPT
        return [(role, codec.encode(text[:end])), (Role.EVALUATION, codec.encode(text[end:]))]
    ids = codec.encode(text)
    sample = Sample(ids, (0.0,) * len(ids), "stop")
    path = parse_path(Problem("", "", "", source), codec, (), sample, horizon=1_000)
    spans = [span for span in path.spans if span.role is not Role.EXTERNAL]
    if spans[-1].end != len(ids):
        raise DataError(f"text goes on after its stop decision: {text[-80:]!r}")
    first = {Role.ATTEMPT: Role.REVISION} if later else {}
    return [(first.get(span.role, span.role), ids[span.start : span.end]) for span in spans]


@dataclass(frozen=True, slots=True)
class Mask:
    """A row's text with what is learned on colour; where there is no colour, in brackets that name its part."""

    row: TrainingRow
    codec: ChatCodec

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        row, tokens = self.row, self.row.tokens
        in_colour = console.color_system is not None and not console.no_color
        count = f"{tokens.learned_tokens} of {len(tokens.token_ids)}"
        yield Text(f"{row.id} · kind {row.kind} · {count} tokens in the loss", "bold")
        yield self._key(in_colour)
        yield Text()
        text, position = Text(), 0
        for span in tokens.spans:
            text.append(self.codec.decode(tokens.token_ids[position : span.start]), style="dim italic")
            said = self.codec.decode(tokens.token_ids[span.start : span.end])
            if not span.learn:
                text.append(said, style="dim" if span.sampled else "dim italic")
            elif in_colour:
                text.append(said, style=_STYLES.get(span.role, "black on yellow"))
            else:
                text.append(f"[{span.role}: {said}]")
            position = span.end
        text.append(self.codec.decode(tokens.token_ids[position:]), style="dim italic")
        yield text

    @staticmethod
    def _key(in_colour: bool) -> Text:
        if not in_colour:
            return Text("learned: [attempt: ...], [self-evaluation: ...], [revision: ...]; the rest is not learned")
        key = Text("learned: ")
        for role, style in _STYLES.items():
            key.append(f" {role} ", style=style)
            key.append(" ")
        key.append("  context", style="dim")
        key.append("  external", style="dim italic")
        return key


def show_mask(row: TrainingRow, codec: ChatCodec) -> RenderableType:
    """Return a row's text with learned tokens on colour, context dim, external tokens dim and italic."""
    return Mask(row, codec)


def made_by_another_tokenizer(path: Path, codec: ChatCodec) -> str | None:
    """Return the sampler's tokenizer hash where the card beside the rows names another one than the model's."""
    made_by = read_card(path).get("tokenizer")
    return str(made_by) if made_by and made_by != codec.fingerprint() else None
