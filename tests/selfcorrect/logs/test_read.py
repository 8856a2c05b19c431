"""Logs as other tools wrote them (data/: by inspect_ai 0.3.285 and lighteval 0.13.0), and damaged ones."""

from __future__ import annotations

import json
import math
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.errors import DataError, InputError, SelfCorrectError
from selfcorrect.logs import read_log
from selfcorrect.logs.record import number, question_of, text_of

DATA = Path(__file__).parent / "data"
TRACES = DATA / "traces.jsonl"
LM_EVAL = Path(__file__).parents[2] / "eval" / "data" / "samples_word_problems.jsonl"
REFERENCES = {"lighteval_a.parquet": "The answer is {}.", "inspect_a.eval": "{}", "inspect_a.json": "{}"}


@pytest.mark.parametrize(
    ("name", "tool"),
    [("lighteval_a.parquet", "lighteval"), ("inspect_a.eval", "inspect"), ("inspect_a.json", "inspect")],
)
def test_a_log_of_five_sums_of_which_three_are_wrong(name: str, tool: str) -> None:
    log = read_log(DATA / name)
    assert (log.tool, log.task, len(log.responses), log.dropped) == (tool, "sums", 5, {})
    rows = sorted(log.responses, key=lambda response: response.question)
    assert [row.question for row in rows] == [f"What is {n}+{n}?" for n in range(1, 6)]
    assert [row.reference for row in rows] == [REFERENCES[name].format(2 * n) for n in range(1, 6)]
    assert [row.score for row in rows] == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert [f"boxed{{{2 * n + (n < 4)}}}" in row.text for n, row in enumerate(rows, 1)] == [True] * 5
    assert rows[0].meta == {"level": "easy"}


def test_a_log_of_lm_eval() -> None:
    log = read_log(LM_EVAL)
    assert (log.tool, log.task, log.metric) == ("lm_eval", "word_problems", "exact_match")
    first = log.responses[0]
    assert first.question.startswith("The school holds 1499 shells.")
    assert (first.reference, first.meta["level"]) == ("8586", "medium")
    assert {response.score for response in log.responses} <= {0.0, 1.0, None}


def sample(**changes: Any) -> dict[str, Any]:
    return {
        "id": 7,
        "epoch": 2,
        "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"text": "2+2?"}]}],
        "target": ["4"],
        "scores": {"exact": {"value": "I"}, "close": {"value": 1}},
        "output": {"choices": [{"stop_reason": "max_tokens", "message": {"content": [{"type": "text", "text": "4"}]}}]},
    } | changes


def json_log(folder: Path, *samples: dict[str, Any]) -> Path:
    place = folder / "log.json"
    place.write_text(json.dumps({"eval": {"task": "t", "model": "m"}, "samples": samples}))
    return place


def test_what_an_inspect_sample_may_look_like(tmp_path: Path) -> None:
    log = read_log(json_log(tmp_path, sample(), sample(id=8, error={"message": "no"}), sample(id=9, target=["4", "5"])))
    assert log.dropped == {"sample ended in an error": 1}
    one, other = log.responses
    assert (one.id, one.repeat, one.question, one.reference, one.text, one.cut) == ("7", 1, "2+2?", "4", "4", True)
    assert (one.score, log.metric, other.reference) == (0.0, "exact", "")
    assert read_log(json_log(tmp_path, sample()), "close").responses[0].score == 1.0


def written(name: str, content: bytes | str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return write


def archive(**members: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "x.eval", "w") as file:
            for name, text in members.items():
                file.writestr(name.replace("__", "/") + ".json", text)
        return folder / "x.eval"

    return write


def half(name: str) -> Callable[[Path], Path]:
    return written(name, (DATA / name).read_bytes()[: (DATA / name).stat().st_size // 2])


ODD = {
    "nothing there": (lambda folder: folder / "none.jsonl", "no log at"),
    "a run": (lambda folder: folder, "no log in this folder; of a run give one row"),
    "empty": (written("a.jsonl", ""), "its first line is no JSON"),
    "another tool": (written("a.jsonl", '{"prompt": 1, "completion": 2}\n'), "has completion, prompt"),
    "a journal": (written("trajectories.jsonl", '{"key": "a", "trajectory": {}}\n'), "give the folder of the row"),
    "binary": (written("a.bin", b"\x00\xff\x00"), "a log of none of"),
    "JSON of something else": (written("a.json", '{"a": 1}'), "has no 'samples'"),
    "broken JSON": (written("a.json", '{"a": '), "not JSON"),
    "an archive of something else": (archive(header="{}"), "has no samples/"),
    "a sample that is no JSON": (archive(header="{}", samples__a="nothing"), "samples/a.json cannot be read"),
    "a sample that is a list": (archive(header="{}", samples__a="[]"), "samples/a.json is no JSON object"),
    "a sample that is a number": (written("a.json", '{"samples": [7]}'), "sample 1 is no JSON object"),
    "an epoch that is text": (
        written("a.json", '{"samples": [{"epoch": "1"}]}'),
        "sample 1: expected epoch as a whole",
    ),
    "a long nest": (written("a.json", '{"samples": ' + "[" * 100_000), "not JSON"),
    "a nest in an archive": (archive(header="{}", samples__a="[" * 100_000), "samples/a.json cannot be read"),
    "no samples": (written("a.json", '{"samples": []}'), "no response to grade; the log is empty"),
    "half a parquet": (half("lighteval_a.parquet"), "not a readable parquet file"),
    "half an archive": (half("inspect_a.eval"), "by its first bytes it is a ZIP archive"),
    "choices": (written("samples_a.jsonl", '{"resps": [[[-1.0, "False"]]], "doc": {}}\n'), "no generated text"),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_log_is_one_clear_message(case: str, tmp_path: Path) -> None:
    make, said = ODD[case]
    with pytest.raises((DataError, InputError), match=said.replace("(", r"\(")) as caught:
        read_log(make(tmp_path))
    assert isinstance(caught.value, SelfCorrectError)
    assert str(tmp_path) in str(caught.value)


def test_scores_and_texts_of_other_tools() -> None:
    values = ["C", "I", "N", "P", True, 0, 0.25, "0", None, "x", math.nan, 10**400]
    assert [number(value) for value in values] == [1, 0, 0, 0.5, 1, 0, 0.25, None, None, None, None, None]
    assert text_of([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "a"}, "b"]) == "ab"
    assert text_of({"text": "a"}) == ""
    assert question_of(None) == ""
    chat = [{"role": "user", "content": "a"}, {"role": "assistant"}, {"role": "user", "content": "b"}]
    assert question_of(chat) == "b"


def test_of_a_response_in_long_cot_the_last_attempt_answers(tmp_path: Path) -> None:
    """Graded as a whole, the box of the last self-evaluation was taken for the answer."""
    said = (
        "2+2=5 \\boxed{5}\n\nCheck: no.\n[VERIFY] wrong.\n\nSo \\boxed{4}\n\nCheck: not \\boxed{0}.\n[VERIFY] correct."
    )
    rows = [
        {"doc_id": n, "doc": {"question": "2+2?", "answer": "4"}, "resps": [[text]], "exact_match": 1.0}
        for n, text in enumerate([said, "no mark \\boxed{4}", "[VERIFY] wrong."])
    ]
    place = tmp_path / "samples_x.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [response.text for response in read_log(place).responses]
    assert texts == ["So \\boxed{4}", "no mark \\boxed{4}", ""]


VALUES: list[Any] = [
    None,
    True,
    3,
    -1,
    10**400,
    math.inf,
    math.nan,
    "",
    "x\ud800\x1b",
    [],
    ["a"],
    [None],
    {},
    {"value": {}},
]


def altered(value: Any, chance: random.Random) -> Any:
    """Return a JSON value of which one part is missing or another."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        others = {name: part for name, part in value.items() if name != key}
        return others if chance.random() < 0.15 else others | {key: altered(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], altered(value[place], chance), *value[place + 1 :]]
    return chance.choice(VALUES)


def test_a_log_of_any_shape_is_read_or_refused_in_words(tmp_path: Path) -> None:
    chance, outcomes = random.Random(0), Counter[str]()
    lines = {name: place.read_text().splitlines()[:2] for name, place in (("a.jsonl", LM_EVAL), ("b.jsonl", TRACES))}
    inspect = json.loads((DATA / "inspect_a.json").read_bytes())
    packed = (DATA / "inspect_a.eval").read_bytes()
    for _ in range(100):
        for name, rows in lines.items():
            odd = [json.dumps(altered(json.loads(row), chance)) for row in rows]
            (tmp_path / name).write_text("\n".join(odd))
        samples = [altered(sample, chance) for sample in inspect["samples"]]
        (tmp_path / "c.json").write_text(json.dumps(inspect | {"samples": samples}))
        place = chance.randrange(len(packed))
        (tmp_path / "d.eval").write_bytes(packed[:place] + bytes([chance.randrange(256)]) + packed[place + 1 :])
        for name in (*lines, "c.json", "d.eval"):
            try:
                outcomes[read_log(tmp_path / name).tool] += 1
            except SelfCorrectError:
                outcomes["refused"] += 1
    assert min(outcomes[name] for name in ("lm_eval", "verifiers", "inspect", "refused")) > 10
