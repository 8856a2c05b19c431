r"""`read_problem`: one row of any published form -> question, reference answer, and under which keys they stood.

The question is the first of `QUESTIONS` that a row has, the reference the first of `ANSWERS` or, where a row has none
of those, the final answer of the first of `SOLUTIONS`; the letter case of keys does not matter, an empty value counts
as absent. So one row may name its answer and the next only its solution.

What is read of the values:

- a question may be a list of chat messages: its one user message counts, the system's and the assistant's do not;
- what a question cannot be understood without (`PREAMBLES`, multiple-choice options) is put into it;
- an instruction that a trainer added to every question (`INSTRUCTIONS`) is taken off: ours is added again;
- an answer that shows its work is read for its last ``####``, ``\boxed{}`` or "the answer is", in that order;
- the reference of a multiple-choice row is a letter: an index and an option's own text become one.

A row that cannot be a problem raises `OddRow`, which the loader counts.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
import string
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from selfcorrect import prompts
from selfcorrect.problems.files import is_messages

Row = Mapping[str, Any]

QUESTIONS = (
    "problem", "question", "query", "prompt", "instruction", "input", "content", "problem_statement", "question_text",
    "messages", "conversations", "conversation", "0",
)  # fmt: skip
"""Keys of the question, in the order asked; ``0`` is ORZ's first message."""
ANSWERS = (
    "expected_answer", "final_answer", "answer_number", "gold", "golden", "gold_answer", "ground_truth",
    "reward_model.ground_truth", "reference_answer", "correct_answer", "correct answer", "gt", "answer", "answerkey",
    "label", "correct", "answer_index", "answer_idx", "correct_option", "target", "1.ground_truth.value",
    "messages[1].ground_truth.value", "answers", "verification_info.ground_truth", "extra_info.answer",
)  # fmt: skip
"""Keys of the reference answer alone."""
SOLUTIONS = (
    "solution",
    "gt_cot",
    "cot",
    "rationale",
    "response",
    "output",
    "completion",
    "1",
    "messages",
    "conversations",
)
"""Keys of a text that ends in the reference answer."""
PREAMBLES = ("context", "passage", "body")
OPTIONS = ("options", "choices")
LETTERS = string.ascii_uppercase
MAX_WRITTEN = 100_000
"""Longest Python literal that is read out of a cell."""

INSTRUCTIONS: tuple[tuple[str, str], ...] = (
    ("", "\n" + prompts.SOLVE),
    ("", ' Let\'s think step by step and output the final answer after "####".'),  # verl: GSM8K
    ("", " Let's think step by step and output the final answer within \\boxed{}."),  # verl: MATH; Skywork-OR1
    (  # DAPO
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n",
        '\n\nRemember to put your answer on its own line after "Answer:".',
    ),
    ("", "\nPlease reason step by step, and put your final answer within \\boxed{}."),  # DeepSeek, Qwen, open-r1
    ("Please reason step by step, and put your final answer within \\boxed{}.\n", ""),
    ("", "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"),  # Eurus-2-RL
)
"""What trainers put around every question, as (before, after)."""


class OddRow(Exception):
    """The row is no problem that can be asked and graded; the message is the reason it is counted under."""


class Read(NamedTuple):
    """What a row says, with the keys that said it. ``gold`` is empty where the row has no reference answer."""

    question: str
    gold: str
    keys: str
    form: str
    tolerance: str = ""


def read_problem(row: Any, fields: Mapping[str, str] | None = None) -> Read:
    """Return what a row says; ``fields`` names the keys of ``question``, ``gold`` and perhaps ``options`` itself.

    Raises OddRow where it cannot be a problem, and KeyError(key) where it has none of the keys.
    """
    if is_messages(row):
        row = {"messages": row}
    if not isinstance(row, Mapping):
        raise OddRow(f"row is no object but {_named(row)}")
    fields = fields or {}
    asked = (fields["question"],) if fields else QUESTIONS
    answered = (fields["gold"],) if fields else ANSWERS + SOLUTIONS
    for what, keys in (("question", asked), ("reference answer", answered)):
        if not any(has(row, key) for key in possible(row, keys)):
            raise KeyError(what)
    if text_of(_or_none(row, "question_type")).lower() == "proof":  # NuminaMath-1.5 marks some that have an answer
        raise OddRow("asks for a proof")
    question_key, question = _first(row, asked)
    if question_key is None:
        raise OddRow("no question")
    answer_key, answer = _first(row, answered[:1] if fields else _answers(row))
    works_it_out = answer_key is None and not fields
    if works_it_out:
        answer_key, answer = _first(row, SOLUTIONS)
    if question_key == "instruction" and not is_blank(_or_none(row, "input")):  # Alpaca's rows
        question = f"{text_of(question)}\n{text_of(get(row, 'input'))}"
    text = _question(row, question)
    if "number0" in text and has(row, "Numbers"):  # SVAMP's own tables
        text = _with_numbers(text, text_of(get(row, "Numbers")))
    options = _options(row, fields.get("options"))
    if options:
        text = _with_options(text, options)
        gold = _letter(answer, options)
    else:
        gold = _solution_answer(answer) if works_it_out else _answer(answer, answer_key)
    form = "mapped" if fields else _form(row, question_key, answer_key, answer)
    return Read(text, gold, f"{question_key} and {answer_key}", form, _tolerance(row, answer_key))


def _form(row: Row, question: str, answer: str | None, value: Any) -> str:
    """Return the name of a row's form, which the grader's rules go by where the data set has no name."""
    if isinstance(value, str) and "####" in value:
        return "gsm8k"
    if answer == "final_answer" and (has(row, "subfield") or has(row, "context") or has(row, "is_multiple_answer")):
        return "olympiadbench"
    if answer == "expected_answer":
        return "openmathinstruct2"
    if answer == "solution" and question == "problem":
        return "math"
    if answer == "gold" and isinstance(row.get("source"), str):
        return str(row["source"])  # our own files say which rules are theirs
    return f"{question} and {answer}"


def _answers(row: Row) -> tuple[str, ...]:
    """Return the answer keys to ask: ``correct: true`` says how somebody's answer was judged."""
    return tuple(key for key in ANSWERS if key != "correct" or not isinstance(_or_none(row, key), bool))


# --- values -------------------------------------------------------------------------------------------------------


_MISSING = object()


def get(row: Any, path: str) -> Any:
    """Return what stands at a path such as ``reward_model.ground_truth`` or ``prompt[0].content``.

    A key that is written with dots is found first; letter case does not matter where the exact key is absent. Raises
    KeyError where there is nothing.
    """
    found = _at(row, path)
    if found is _MISSING:
        raise KeyError(path)
    return found


def has(row: Any, path: str) -> bool:
    """True where something stands at a path, be it null."""
    return _at(row, path) is not _MISSING


def _at(row: Any, path: str) -> Any:
    if isinstance(row, Mapping):
        if path in row:
            return row[path]
        key = _folded(tuple(row)).get(path.casefold())
        if key is not None:
            return row[key]
    if "." not in path and "[" not in path:
        return _MISSING
    here = row
    for part in re.findall(r"[^.\[\]]+|\[-?\d+\]", path):
        if part[0] == "[":
            index, here = int(part[1:-1]), _unwritten(here)
            if not isinstance(here, Sequence) or isinstance(here, str) or not -len(here) <= index < len(here):
                return _MISSING
            here = here[index]
        elif isinstance(here := _unwritten(here), Mapping):
            here = _at(here, part)
        else:
            return _MISSING
        if here is _MISSING:
            return _MISSING
    return here


def possible(row: Row, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the wanted paths that a row's own keys allow, in their order."""
    return _possible(tuple(row), wanted)


@lru_cache(maxsize=1024)
def _possible(keys: tuple[Any, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    folded = _folded(keys)
    heads = {path: re.split(r"[.\[]", path, maxsplit=1)[0] for path in wanted}
    return tuple(path for path, head in heads.items() if {path.casefold(), head.casefold()} & folded.keys())


def _unwritten(value: Any) -> Any:
    """Return the messages or the object that a table's cell holds as text, in JSON or as Python writes it."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[{", "{")):
        return value
    read: Any = None
    with suppress(ValueError, RecursionError):
        read = json.loads(value)
    if read is None and len(value) <= MAX_WRITTEN:
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            read = ast.literal_eval(value.strip())  # reads literals alone, runs nothing
    return read if isinstance(read, Mapping) or is_messages(read) else value


@lru_cache(maxsize=64)
def _folded(keys: tuple[Any, ...]) -> dict[str, str]:
    """Return the keys by their casefolded form: the rows of a file share them."""
    return {key.casefold(): key for key in reversed(keys) if isinstance(key, str)}


def _or_none(row: Row, path: str) -> Any:
    found = _at(row, path)
    return None if found is _MISSING else found


def _first(row: Row, keys: Sequence[str]) -> tuple[str | None, Any]:
    """Return the first key whose value says something, and that value; (None, None) where none does."""
    for key in possible(row, tuple(keys)):
        value = _at(row, key)
        if value is not _MISSING and not is_blank(value):
            return key, value
    return None, None


def is_blank(value: Any) -> bool:
    """True for null, NaN, infinities, empty text and empty lists."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return True
    return isinstance(value, (str, bytes, list, tuple, Mapping)) and not (
        value.strip() if isinstance(value, (str, bytes)) else value
    )


def text_of(value: Any) -> str:
    """Return a value as text: 27.0 is written 27, a list joins its items, half a surrogate becomes U+FFFD."""
    if is_blank(value):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else format(Decimal(str(value)), "f")
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text_of, value))
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise OddRow("bytes that are no text") from error
    if isinstance(value, Mapping):
        raise OddRow("an object where text belongs")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _named(value: Any) -> str:
    return "null" if value is None else type(value).__name__


# --- the question -------------------------------------------------------------------------------------------------


def _question(row: Row, value: Any) -> str:
    """Return the question alone, with what it cannot be understood without."""
    written = _unwritten(value)
    value = written if is_messages(written) else value
    if is_messages(value):
        text = _user(value)
    elif isinstance(value, Mapping) and is_messages([value]):
        text = _user([value])
    elif isinstance(value, Mapping):
        raise OddRow("question is an object")
    elif isinstance(value, (list, tuple, bool)):  # a column of questions, say
        raise OddRow(f"question is {_named(value)} where text belongs")
    else:
        text = text_of(value)
    text = _without_instruction(text)
    before = [text_of(_or_none(row, key)).strip() for key in possible(row, PREAMBLES)]
    return "\n".join([*(part for part in before if part and part not in text), text]).strip()


def _user(messages: Any) -> str:
    said = [message for message in messages if _role(message) in ("user", "human")]
    if len(said) != 1:
        raise OddRow(f"question has {'no' if not said else 'several'} user messages")
    content = _or_none(said[0], "content")
    content = _or_none(said[0], "value") if content is None else content
    if isinstance(content, list):
        parts = [part if isinstance(part, Mapping) else {"type": "text", "text": part} for part in content]
        if any(part.get("type", "text") != "text" for part in parts):
            raise OddRow("question has images")
        content = "".join(text_of(part.get("text")) for part in parts)
    return text_of(content)


def _role(message: Row) -> str:
    return str(message.get("role", message.get("from"))).lower()


def _without_instruction(question: str) -> str:
    for before, after in INSTRUCTIONS:
        end = question.rstrip()
        if question.startswith(before) and end.endswith(after.rstrip()) and len(before) + len(after) < len(end):
            return end[len(before) : len(end) - len(after.rstrip())].strip()
    return question.strip()


def _with_numbers(question: str, numbers: str) -> str:
    values = [text_of(float(number)) if _is_float(number) else number for number in numbers.split()]
    return re.sub(r"\bnumber(\d+)\b", lambda m: values[int(m[1])] if int(m[1]) < len(values) else m[0], question)


def _is_float(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


# --- multiple choice ----------------------------------------------------------------------------------------------


def _options(row: Row, key: str | None) -> dict[str, str] | str:
    """Return the options by letter, the text that lists them, or nothing."""
    keys = (key,) if key else OPTIONS
    _, given = _first(row, keys)
    if given is None and not key:
        return _options_in_columns(row)
    if isinstance(given, Mapping) and isinstance(given.get("text"), (list, tuple)):  # ARC
        given = given["text"]
    if isinstance(given, Mapping):
        return {str(letter).strip("(). "): text_of(text) for letter, text in given.items()}
    if isinstance(given, str):
        return given.strip()
    is_list = isinstance(given, (list, tuple)) and not any(isinstance(item, (Mapping, list)) for item in given)
    return _lettered(given) if is_list else {}


def _options_in_columns(row: Row) -> dict[str, str]:
    if "A" not in row and not has(row, "correct answer"):
        return {}
    lettered = {letter: text_of(row[letter]) for letter in LETTERS[:10] if not is_blank(row.get(letter))}
    if len(lettered) > 1 and list(lettered) == list(LETTERS[: len(lettered)]):  # MMLU's and C-Eval's tables
        return lettered
    wrong = [key for key in row if isinstance(key, str) and re.fullmatch(r"incorrect answer \d", key.casefold())]
    if wrong and has(row, "correct answer"):  # GPQA: in an order of their own, the same every time
        texts = [text_of(get(row, "correct answer")), *(text_of(row[key]) for key in wrong)]
        return _lettered(sorted(texts, key=lambda text: hashlib.blake2b(text.encode()).digest()))
    return {}


_LABEL = re.compile(r"\(?([A-Z])[).:．、]\s*")


def _lettered(options: Any) -> dict[str, str]:
    texts = [text_of(option).strip() for option in options]
    if len(texts) > len(LETTERS):
        raise OddRow("more options than letters")
    labels = [_LABEL.match(text) for text in texts]
    if all(label and label[1] == letter for label, letter in zip(labels, LETTERS, strict=False)):
        texts = [text[label.end() :] for text, label in zip(texts, labels, strict=True) if label]
    return dict(zip(LETTERS, texts, strict=False))


def _with_options(question: str, options: dict[str, str] | str) -> str:
    if isinstance(options, str):
        return question if _levelled(options) in _levelled(question) else f"{question}\n{options}"
    lines = [f"({letter}) {text}" for letter, text in options.items()]
    told = _levelled(question)
    stand = lambda letter, text: any(
        _levelled(letter + mark + text) in told for mark in (".", ")", ":", " ", "、", "．")
    )
    return question if all(stand(*option) for option in options.items()) else "\n".join([question, *lines])


def _levelled(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _letter(answer: Any, options: dict[str, str] | str) -> str:
    """Return the letter of the right option; raises OddRow where the answer names none, or two."""
    if isinstance(options, str):
        return text_of(answer).strip()
    if is_blank(answer):
        return ""
    letters = list(options)
    is_number = isinstance(answer, (int, float)) and not isinstance(answer, bool)
    if is_number and float(answer).is_integer() and 0 <= answer < len(letters):
        return letters[int(answer)]  # MMLU and the hub's class labels count from 0
    text = _answer(answer, None).strip()
    bare = text.strip("()[]. ")
    if bare in options:
        return bare
    if bare.upper() in options and len(bare) == 1:
        return bare.upper()
    by_text = [letter for letter, option in options.items() if _levelled(option) == _levelled(text)]
    by_index = (
        letters[int(bare)] if not is_number and bare.isascii() and bare.isdigit() and int(bare) < len(letters) else None
    )
    named = {*by_text, *([by_index] if by_index else [])}
    if len(named) == 1:
        return named.pop()
    label = _LABEL.match(text)
    if label and label[1] in options:
        return label[1]
    raise OddRow("reference answer names several options" if named else "reference answer names none of the options")


# --- the reference answer -----------------------------------------------------------------------------------------


_STATED = re.compile(r"(?:^|[\s.*])(?:the|final)\s+answer\s+is\s*:?\s*(.{1,200}?)[.\s*]*$", re.IGNORECASE)
SHORT = 60
"""A "solution" of one line up to this long, without a mark, is the answer itself (DAPO-Math-17k-Processed)."""


def _answer(value: Any, key: str | None) -> str:
    """Return the reference answer that an answer's value states."""
    if isinstance(value, (list, tuple)) and not is_messages(value):
        return _several(value, key)
    if isinstance(value, str) and value.startswith('["') and value.endswith('"]'):  # Skywork: a JSON list in text
        with suppress(ValueError):
            return _several(json.loads(value), key)
    if isinstance(value, Mapping):
        raise OddRow("reference answer is an object")
    text = text_of(value).strip()
    return _marked(text) or text


def _several(values: Sequence[Any], key: str | None) -> str:
    """Return the parts of one answer joined; several reference answers that each would do are one too many."""
    texts = list(dict.fromkeys(text_of(value).strip() for value in values))
    if len(texts) > 1 and key is not None and ("ground_truth" in key or key == "answers"):
        raise OddRow("several reference answers")
    return ", ".join(texts)


def _solution_answer(value: Any) -> str:
    """Return the final answer of a worked solution, empty where it marks none."""
    if is_messages(value):
        said = [message for message in value if _role(message) in ("assistant", "gpt")]
        value = (_or_none(said[-1], "content") or _or_none(said[-1], "value")) if said else ""
    if isinstance(value, Mapping):
        value = _or_none(value, "content") or _or_none(value, "value")
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    text = text_of(value).strip()
    marked = _marked(text)
    if marked is not None:
        return marked
    return text if len(text) <= SHORT and "\n" not in text and "\\boxed" not in text else ""


def _marked(text: str) -> str | None:
    """Return what a text marks as its answer, None where it marks nothing."""
    if "####" in text:
        return text.rsplit("####", 1)[1].strip().split("\n", 1)[0].strip()
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    stated = _STATED.search(text.rsplit("\n", 1)[-1])
    return stated[1].strip() if stated else None


def _boxed(solution: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}`` or ``\boxed 7``, None where there is none."""
    starts = [match.end() for match in re.finditer(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*", solution)]
    for start in reversed(starts):
        if solution[start : start + 1] != "{":
            bare = re.match(r"[^\s$]+", solution[start:])
            if bare and (found := bare[0].rstrip(".,;:")):
                return found
            continue
        depth = 0
        for place in range(start, len(solution)):
            depth += {"{": 1, "}": -1}.get(solution[place], 0) if solution[place - 1] != "\\" else 0
            if depth == 0:
                return solution[start + 1 : place]
    return None


def _tolerance(row: Row, key: str | None) -> str:
    """Return the absolute error that OlympiadBench allows (its ``error`` column), as written; empty for none."""
    error = text_of(_or_none(row, "error")).strip() if key == "final_answer" else ""
    return error if _is_float(error) and float(error) > 0 else ""
