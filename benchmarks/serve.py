"""What serving costs: streaming clients over loopback against the same loop without HTTP, in one run.

    python benchmarks/serve.py                                  # embedded, 200 clients, 3 rounds of 800 answers
    python benchmarks/serve.py --model runs/demo/checkpoints/ift --clients 50

Both sides use one engine and ask it the same ``--answers`` questions, ``--clients`` at once, each client the next one
as soon as it has its answer. ``bare`` reads the events of `SelfCorrectModel.astream` in this process. ``served`` is
`selfcorrect serve` in this process, asked by clients in another one that read ``/v1/chat/completions`` with
``stream: true``.
Rounds interleave the sides in turning order; a ratio is the median over rounds of served / bare. ``rate_ratio`` is of
sampled tokens a second, ``ttft_ratio`` of the median time to the first text, ``cpu_ratio`` of tokens a second of this
process's processor time (the clients' is not in it: on two cores they take from the server what a client elsewhere
would not).

At temperature 0 a question has one trajectory, whatever else is in the batch. So ``mixed`` counts answers that are not
what the same question got alone, ``lost`` streams that did not end whole, ``stalled`` those without a byte for 60 s,
and ``disordered`` those whose first text is content, or whose parts are not in order. The
last line is JSON for machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # beside this file, ``eval`` would be this file

STALLED_S = 60.0
NAME = "served"


# --- the clients: a process of their own, which loads nothing of ours


async def clients(port: int, questions: Sequence[str], wanted: Sequence[Any], count: int, answers: int) -> Any:
    """Ask so many questions from ``count`` connections; return counts, and the times to the first text."""
    found: dict[str, Any] = {"tokens": 0, "answers": 0, "pieces": 0, "first_s": []}
    found |= dict.fromkeys(("lost", "mixed", "stalled", "disordered"), 0)
    turn = iter(range(answers))
    began = time.perf_counter()

    async def client() -> None:
        line = None
        for number in turn:
            place = number % len(questions)
            try:
                line = line or await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
                await one(*line, questions[place], wanted[place], found)
            except TimeoutError:
                found["stalled"], line = found["stalled"] + 1, None
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                found["lost"], line = found["lost"] + 1, None
                print(f"lost: {error!r:.200}", file=sys.stderr)

    await asyncio.gather(*(client() for _ in range(count)))
    return found | {"wall_s": time.perf_counter() - began}


async def one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, question: str, wanted: Any, found: dict[str, Any]
) -> None:
    """Ask one question and check its stream."""
    asked = {"model": NAME, "messages": [{"role": "user", "content": question}], "stream": True}
    body = json.dumps(asked | {"stream_options": {"include_usage": True}}).encode()
    fields = ["Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    head = "\r\n".join(["POST /v1/chat/completions HTTP/1.1", *fields]) + "\r\n\r\n"
    began = time.perf_counter()
    writer.write(head.encode() + body)
    status = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), STALLED_S)
    if b" 200 " not in status.split(b"\r\n")[0]:
        raise ValueError(status)
    texts: dict[str, list[str]] = {"reasoning": [], "content": []}
    first = total = None
    while (line := await asyncio.wait_for(reader.readline(), STALLED_S)) != b"data: [DONE]\n":
        if not line:
            raise ValueError("the stream was cut")
        if not line.startswith(b"data: "):
            continue
        event = json.loads(line[6:])
        total = event.get("usage") or total
        delta = event["choices"][0]["delta"] if event["choices"] else {}
        for channel in texts:
            if text := delta.get(channel):
                if first is None:
                    first = time.perf_counter() - began
                    found["disordered"] += channel == "content" and bool(wanted["reasoning"])
                texts[channel].append(text)
    await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), STALLED_S)
    found["mixed"] += any("".join(texts[channel]) != wanted[channel] for channel in texts)
    found["tokens"] += total["completion_tokens"] if total else 0
    found["answers"] += 1
    found["pieces"] += sum(map(len, texts.values()))
    found["first_s"].append(first)


# --- the server's process


class Sides:
    """The two sides, on one engine in one event loop."""

    def __init__(self, source: Any, questions: Sequence[str], count: int, answers: int) -> None:
        self.source, self.questions, self.count, self.answers = source, questions, count, answers
        self.wanted: list[Any] = []

    async def learn(self) -> None:
        """Ask each question alone of others' streams, to know its answer; warms the engine, too."""
        from selfcorrect.serving.answers import Reader

        async def alone(question: str) -> Any:
            reader = Reader(self.source.settings.horizon)
            async with aclosing(self.source.stream(*self._asked(question))) as events:
                async for event in events:
                    reader.take(event)
            return {"reasoning": reader.reasoning, "content": reader.content}

        self.wanted = list(await asyncio.gather(*map(alone, self.questions)))

    def _asked(self, question: str) -> tuple[Any, Any]:
        from selfcorrect.serving.sources import Asked

        return [{"role": "user", "content": question}], Asked(horizon=self.source.settings.horizon, budget=8192)

    async def bare(self) -> dict[str, Any]:
        """Read the events of the source, ``count`` trajectories at once."""
        from selfcorrect.serving.sources import Finished

        found: dict[str, Any] = {"tokens": 0, "answers": 0, "first_s": []}
        turn = iter(range(self.answers))
        round_began = time.perf_counter()

        async def client() -> None:
            for number in turn:
                began, first = time.perf_counter(), None
                asked = self._asked(self.questions[number % len(self.questions)])
                async with aclosing(self.source.stream(*asked)) as events:
                    async for event in events:
                        first = first or time.perf_counter() - began
                        if isinstance(event, Finished):
                            found["tokens"] += event.usage.completion
                            found["answers"] += 1
                            found["first_s"].append(first)

        await asyncio.gather(*(client() for _ in range(self.count)))
        return found | {"wall_s": time.perf_counter() - round_began}

    async def served(self) -> dict[str, Any]:
        """Serve the source to clients in another process."""
        from selfcorrect.serving.app import Server
        from selfcorrect.serving.run import Listener, bound
        from selfcorrect.serving.settings import ServeRecipe

        with bound("127.0.0.1", 0, 60.0) as listening, tempfile.TemporaryDirectory() as folder:
            listening.listen(2048)
            listener = Listener(Server(self.source, NAME, ServeRecipe(name=NAME)))
            serving = asyncio.create_task(listener.serve(sockets=[listening]))
            asked = {"port": listening.getsockname()[1], "questions": self.questions, "wanted": self.wanted}
            file = Path(folder) / "asked.json"
            file.write_text(json.dumps(asked | {"count": self.count, "answers": self.answers}))
            asking = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--ask", str(file), stdout=asyncio.subprocess.PIPE
            )
            said, _ = await asking.communicate()
            listener.should_exit = True
            await serving
        found: dict[str, Any] = json.loads(said)
        return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile in milliseconds."""
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else float("nan")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all rounds."""
    from selfcorrect.engines import EngineRecipe
    from selfcorrect.model import SelfCorrectModel
    from selfcorrect.problems import ProblemsRecipe, load_problems
    from selfcorrect.serving.run import loop_factory
    from selfcorrect.serving.sources import ModelSource

    problems = load_problems(ProblemsRecipe("arithmetic", split="test", count=options.questions)).problems
    engine = EngineRecipe(options.model, max_batch=options.clients)
    settings = {"method": options.method} if options.method else {}
    source = ModelSource(SelfCorrectModel.load(options.model, engine=engine, **settings), NAME)
    sides = Sides(source, [problem.question for problem in problems], options.clients, options.answers)
    rounds: dict[str, list[dict[str, Any]]] = {"bare": [], "served": []}
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(sides.learn())
        for place in range(options.rounds):
            for name in ("bare", "served") if place % 2 == 0 else ("served", "bare"):
                cpu = time.process_time()
                found = runner.run(getattr(sides, name)())
                rounds[name].append(found | {"cpu_s": time.process_time() - cpu})
        runner.run(source.close())

    def ratios(value: Any) -> list[float]:
        return [round(value(s) / value(b), 3) for s, b in zip(rounds["served"], rounds["bare"], strict=True)]

    rate, cpu_rate = ratios(lambda one: one["tokens"] / one["wall_s"]), ratios(lambda one: one["tokens"] / one["cpu_s"])
    first = ratios(lambda one: statistics.median(one["first_s"]))
    first_s = {name: [s for one in found for s in one["first_s"]] for name, found in rounds.items()}
    total = lambda key: sum(one[key] for one in rounds["served"])
    return {
        "rate_ratio": statistics.median(rate),
        "ttft_ratio": statistics.median(first),
        "cpu_ratio": statistics.median(cpu_rate),
        "lost": total("lost"),
        "mixed": total("mixed"),
        "stalled": total("stalled"),
        "disordered": total("disordered"),
        "clients": options.clients,
        "answers": total("answers"),
        "tokens_per_event": round(total("tokens") / max(1, total("pieces")), 2),
        "tokens_per_s": {
            name: round(statistics.median(o["tokens"] / o["wall_s"] for o in r)) for name, r in rounds.items()
        },
        "cpu_us_per_token": {
            name: round(statistics.median(1e6 * one["cpu_s"] / one["tokens"] for one in found))
            for name, found in rounds.items()
        },
        "ttft_p50_ms": {name: percentile(found, 0.5) for name, found in first_s.items()},
        "ttft_p99_ms": {name: percentile(found, 0.99) for name, found in first_s.items()},
        "rate_ratios": rate,
        "ttft_ratios": first,
    }


def main() -> None:
    """Parse the arguments, measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="model folder, hub id, or 'embedded'")
    parser.add_argument("--method", default="", help="a method of selfcorrect.correction.loop")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--answers", type=int, default=800, help="of each side in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        asked = json.loads(options.ask.read_text())
        print(json.dumps(asyncio.run(clients(**asked))))
        return
    figures = measure(options)
    table = Table("what", "value")
    for key, value in figures.items():
        table.add_row(key, str(value))
    Console().print(table)
    print(json.dumps(figures | {"model": options.model, "rounds": options.rounds}))


if __name__ == "__main__":
    main()
