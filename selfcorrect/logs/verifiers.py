"""``traces.jsonl`` of verifiers v1 and prime-rl: an episode a line, in it a trace for each run of an agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError
from selfcorrect.logs.record import Log, Response, mapping, number, question_of, text_of
from selfcorrect.problems import MATCHED, OddRow, read_problem
from selfcorrect.prompts import EVALUATE
from selfcorrect.runs.jsonl import read_jsonl


def read(place: Path, metric: str = "") -> Log:
    """Read the traces that were scored; ``metric`` names a reward or a metric (empty: the weighted sum of rewards).

    A response is what the agent said last; an answer to `prompts.EVALUATE` is a self-evaluation, not the response.
    """
    responses, dropped, repeats = list[Response](), Counter[str](), Counter[str]()
    task = model = ""
    for count, episode in enumerate(read_jsonl(place), 1):
        if not isinstance(episode.get("traces"), list) or not isinstance(episode.get("task"), Mapping):
            raise DataError(f"{place}:{count}: not an episode of verifiers v1: it has no 'task' and 'traces'")
        if not episode.get("ok"):
            dropped["episode ended in an error"] += 1
            continue
        scored = [trace for trace in episode["traces"] if isinstance(trace, Mapping) and trace.get("rewards")]
        dropped["episode without a reward"] += not scored
        task = task or str(mapping(episode.get("env")).get("id") or "")
        for trace in scored:
            model = model or str(mapping(mapping(trace.get("agent")).get("config")).get("model") or "")
            found = _response(episode["task"], trace, metric)
            responses.append(Response(**found, repeat=repeats[found["id"]]))
            repeats[found["id"]] += 1
    return Log(place, "verifiers", task, model, metric or "reward", tuple(responses), dict(+dropped))


def _response(task: Mapping[str, Any], trace: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return the fields of a response out of one trace."""
    data = mapping(task.get("data"))
    question, reference = question_of(data.get("prompt")), ""
    with suppress(OddRow, KeyError):
        problem = read_problem(data)
        question, reference = problem.question, problem.gold
    node, text = next(_said_last(trace), (-1, ""))
    ended = {call.get("node"): call.get("finish_reason") for call in map(mapping, trace.get("calls") or ())}
    return {
        "id": str(next((name for name in (data.get("id"), task.get("key"), data.get("idx")) if name is not None), "")),
        "question": question,
        "reference": reference,
        "text": text,
        "score": _score(trace, metric),
        "cut": ended.get(node) == "length",
        "meta": {key: data[key] for key in MATCHED if isinstance(data.get(key), (str, int, float))},
    }


def _said_last(trace: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield the model's messages with their numbers, the last first, without answers to `prompts.EVALUATE`."""
    nodes = list(map(mapping, trace.get("nodes") or ()))
    for place in range(len(nodes) - 1, -1, -1):
        parent = nodes[place].get("parent")
        asked = nodes[parent] if isinstance(parent, int) and 0 <= parent < len(nodes) else {}
        if nodes[place].get("sampled") and _text(asked) != EVALUATE:
            yield place, _text(nodes[place])


def _score(trace: Mapping[str, Any], metric: str) -> float | None:
    """Return a named reward or metric, or the weighted sum of the rewards; None where a reward was not computed."""
    rewards = mapping(trace.get("rewards"))
    if metric:
        named = rewards.get(metric, mapping(trace.get("metrics")).get(metric))
        return number(named.get("score") if isinstance(named, Mapping) else named)
    total = 0.0
    for reward in map(mapping, rewards.values()):
        score, weight = number(reward.get("score")), number(reward.get("weight", 1.0))
        if score is None or weight is None:
            return None
        total += score * weight
    return total


def _text(node: Mapping[str, Any]) -> str:
    return text_of(mapping(node.get("message")).get("content"))
