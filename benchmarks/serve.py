"""What serving costs: streaming clients over loopback against the same loop without HTTP, in one run.

    python benchmarks/serve.py                                  # embedded, 200 clients, 2 rounds of 60 s of each side
    python benchmarks/serve.py --seconds 10 --rounds 1          # a look
    python benchmarks/serve.py --one-process                    # the engine in the server's process

Both sides use one engine, loaded as `selfcorrect serve` loads it (in a process of its own, with ``--threads`` threads
of PyTorch), and ask it the same questions for ``--seconds``, ``--clients`` at once, each client the next one as soon as
it has its answer. ``bare`` reads the events of `SelfCorrectModel.astream` in this process, each token as it comes.
``served`` is the server of `selfcorrect serve` in this process, asked by clients in another one that read
``/v1/chat/completions`` with ``stream: true``. Rounds interleave the sides in turning order; a ratio is the median over
rounds of served / bare: ``rate_ratio`` of sampled tokens a second, ``ttft_ratio`` of the median time to the first text.

The clients run on this machine, too, and take from it what clients elsewhere would not. So they do little: one process,
uvloop, httptools, and a ``json.loads`` for each event; ``cpu_us_per_token`` says how much that is, beside the engine's
processor time and that of this process. ``cpu_ratio`` leaves the clients out: served / bare of tokens a second of
processor time. The engine has one thread, so that on two cores the other one is left to server and clients.

At temperature 0 a question has one trajectory, whatever else is in the batch. So ``mixed`` counts answers that are not
what the same question got alone, ``lost`` streams that did not end whole, ``stalled`` those without a byte for 60 s,
and ``disordered`` those whose first text is content, or whose parts are not in order.

``standing`` is what the server holds (MiB of memory, open files, tasks of the event loop) before the load, after it,
and after a list of faults: clients that vanish, clients that do not read, bodies that are no requests. ``faults``
counts what they got. The last line is JSON for machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # beside this file, ``eval`` would be this file

STALLED_S = 60.0
NAME = "served"
CHANNELS = ("reasoning", "content")


# --- the clients: a process of their own, which loads nothing of ours


def request_of(question: str, **fields: Any) -> bytes:
    """Return a whole HTTP request for a streamed answer."""
    asked = {"model": NAME, "messages": [{"role": "user", "content": question}], "stream": True}
    return post(json.dumps(asked | {"stream_options": {"include_usage": True}} | fields).encode())


def post(body: bytes) -> bytes:
    """Return a whole HTTP request with a body."""
    fields = ["Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(["POST /v1/chat/completions HTTP/1.1", *fields]) + "\r\n\r\n").encode() + body


class Clients:
    """All clients: what they ask, until when, and what they found."""

    def __init__(self, port: int, questions: Sequence[str], wanted: Sequence[Any], count: int, seconds: float) -> None:
        self.port, self.wanted, self.count = port, wanted, count
        self.requests = [request_of(question) for question in questions]
        self.found: Counter[str] = Counter(dict.fromkeys(("lost", "mixed", "stalled", "disordered"), 0))
        self.first_s: list[float] = []
        self.ends_at = time.perf_counter() + seconds
        self.number = -1
        self.answered_at = time.perf_counter()
        self.open: set[Client] = set()

    def next(self) -> int | None:
        """Return the place of the next question; None once the time is over."""
        self.number += 1
        return self.number % len(self.requests) if time.perf_counter() < self.ends_at else None

    async def work(self) -> dict[str, Any]:
        """Ask until the time is over; return counts, and the times to the first text."""
        began = time.perf_counter()
        await asyncio.gather(*(self.connect() for _ in range(self.count)))
        while self.open:
            await asyncio.sleep(0.25)
            for client in list(self.open):
                client.look(time.perf_counter())
        return {**self.found, "first_s": self.first_s, "wall_s": self.answered_at - began, "cpu_s": time.process_time()}

    async def connect(self) -> None:
        """Open one more connection."""
        await asyncio.get_running_loop().create_connection(lambda: Client(self), "127.0.0.1", self.port)


class Client(asyncio.Protocol):
    """One connection: asks, checks the stream, asks again."""

    def __init__(self, clients: Clients) -> None:
        self.clients, self.place = clients, None

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport
        self.clients.open.add(self)
        self.ask()

    def ask(self) -> None:
        """Ask the next question, or leave."""
        import httptools

        self.place = self.clients.next()
        if self.place is None:
            self.transport.close()
            return
        self.parser = httptools.HttpResponseParser(self)
        self.rest, self.is_whole, self.is_done, self.first, self.tokens = b"", False, False, None, 0
        self.texts: dict[str, list[str]] = {channel: [] for channel in CHANNELS}
        self.began = self.heard = time.perf_counter()
        self.transport.write(self.clients.requests[self.place])

    def data_received(self, data: bytes) -> None:
        """Take bytes; a whole answer is checked and the next question asked."""
        self.heard = time.perf_counter()
        self.parser.feed_data(data)
        if self.is_whole:
            self.finish()
            self.ask()

    def on_body(self, body: bytes) -> None:
        """Take what the parser found of the body."""
        *events, self.rest = (self.rest + body).split(b"\n\n")
        for event in events:
            if event == b"data: [DONE]":
                self.is_done = True
            elif event.startswith(b"data: "):
                self.take(json.loads(event[6:]))

    def on_message_complete(self) -> None:
        """Note the end of the answer."""
        self.is_whole = True

    def take(self, event: Any) -> None:
        """Take one event."""
        if usage := event.get("usage"):
            self.tokens = usage["completion_tokens"]
        delta = event["choices"][0]["delta"] if event.get("choices") else {}
        for channel in CHANNELS:
            if text := delta.get(channel):
                if self.first is None:
                    self.first = self.heard - self.began
                    is_early = channel == "content" and bool(self.clients.wanted[self.place]["reasoning"])
                    self.clients.found["disordered"] += is_early
                self.texts[channel].append(text)

    def finish(self) -> None:
        """Count an answer."""
        found, wanted = self.clients.found, self.clients.wanted[self.place]
        if not self.is_done or self.first is None:
            found["lost"] += 1
            print(f"lost: {self.parser.get_status_code()} {self.rest[:200]!r}", file=sys.stderr)
            return
        found["mixed"] += any("".join(self.texts[channel]) != wanted[channel] for channel in CHANNELS)
        found["tokens"] += self.tokens
        found["answers"] += 1
        self.clients.answered_at = self.heard
        found["events"] += sum(map(len, self.texts.values()))
        self.clients.first_s.append(self.first)

    def look(self, now: float) -> None:
        """Leave a stream that has stalled."""
        if self.place is not None and now - self.heard > STALLED_S:
            self.clients.found["stalled"] += 1
            self.place = None
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Count a stream that was cut, and ask anew."""
        self.clients.open.discard(self)
        if self.place is not None:
            self.clients.found["lost"] += 1
            print(f"lost: the connection was cut ({error!r})", file=sys.stderr)
            self.reopened = asyncio.ensure_future(self.clients.connect())


async def faults(port: int, questions: Sequence[str]) -> dict[str, int]:
    """Do to the server what clients should not; return what it answered, counted."""
    chance, got = random.Random(0), Counter[str]()

    async def sent(data: bytes, reads: int, pause_s: float = 0.0) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
        writer.write(data)
        await asyncio.sleep(pause_s)
        answer = await asyncio.wait_for(reader.read(reads), STALLED_S) if reads else b""
        writer.transport.abort()
        return answer

    async def vanishes() -> None:
        whole = request_of(chance.choice(questions))
        cut = whole[: chance.randrange(1, 2 * len(whole))]  # half of them before the request is whole
        await sent(cut, 0 if len(cut) < len(whole) else chance.randrange(4000), chance.random())
        got["vanished"] += 1

    async def reads_late() -> None:
        answer = await sent(request_of(chance.choice(questions), n=8), 4096, pause_s=3.0)
        got["read late: " + answer[9:12].decode()] += 1

    async def misspeaks(body: bytes) -> None:
        got["no request: " + (await sent(post(body), 64))[9:12].decode()] += 1

    bodies = [b"{", b"null", b"[1, 2]", b"\xff\xfe{}", b'{"model": ' + b"[" * 100_000, b" " * 2_000_000]
    work = [vanishes() for _ in range(200)] + [reads_late() for _ in range(16)]
    await asyncio.gather(*work, *(misspeaks(body) for body in bodies * 10))
    return dict(got)


def asked_by(file: Path) -> None:
    """Be the clients' process: do what a file says, print what was found."""
    import uvloop

    asked = json.loads(file.read_text())

    async def work() -> Any:
        return await (faults(**asked) if "wanted" not in asked else Clients(**asked).work())

    print(json.dumps(uvloop.run(work())))


# --- the server's process


class Sides:
    """The two sides, on one engine in one event loop."""

    def __init__(self, source: Any, questions: Sequence[str], count: int, seconds: float) -> None:
        self.source, self.questions, self.count, self.seconds = source, questions, count, seconds
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
        round_began, number = time.perf_counter(), 0

        async def client() -> None:
            nonlocal number
            while (began := time.perf_counter()) < round_began + self.seconds:
                asked, first = self._asked(self.questions[number % len(self.questions)]), None
                number += 1
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
        asked = {"questions": self.questions, "wanted": self.wanted, "count": self.count, "seconds": self.seconds}
        async with self.listening() as port:
            return await in_another_process(asked | {"port": port})

    async def misused(self) -> dict[str, Any]:
        """Serve the source to clients that do what they should not; return what they got and what is left of them."""
        async with self.listening() as port:
            got = await in_another_process({"port": port, "questions": self.questions})
            for _ in range(100):  # the work of those that left ends with the next step of the engine
                await asyncio.sleep(0.1)
                if not self.server.places.taken:
                    break
            return got | {"places still taken": self.server.places.taken.total()}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Serve on a free port."""
        from selfcorrect.serving.app import Server
        from selfcorrect.serving.run import Listener, bound
        from selfcorrect.serving.settings import Limits, ServeRecipe

        with bound("127.0.0.1", 0, 60.0) as socket:
            socket.listen(2048)
            self.server = Server(self.source, NAME, ServeRecipe(name=NAME, limits=Limits(per_client=1024)))
            listener = Listener(self.server)
            serving = asyncio.create_task(listener.serve(sockets=[socket]))
            yield socket.getsockname()[1]
            listener.should_exit = True
            await serving

    def processes(self) -> list[int]:
        """Return the ids of the processes that serve: this one, and the engine's where it has its own."""
        own = getattr(self.source.model.engine, "process", None)
        return [os.getpid(), *([own.pid] if own else [])]

    async def standing(self) -> dict[str, Any]:
        """Return what the processes hold."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.processes()]
        return {
            "rss_mib": [round(count * os.sysconf("SC_PAGE_SIZE") / 2**20) for count in pages],
            "open_files": [len(os.listdir(f"/proc/{pid}/fd")) for pid in self.processes()],
            "tasks": len(asyncio.all_tasks()),
        }

    def cpu_s(self) -> list[float]:
        """Return the processor time of the processes that serve."""
        ticks = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13] for pid in self.processes()]
        return [sum(map(int, one)) / os.sysconf("SC_CLK_TCK") for one in ticks]


async def in_another_process(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what clients in a process of their own found."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "asked.json"
        file.write_text(json.dumps(asked))
        asking = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--ask", str(file), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await asking.communicate()
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
    engine = EngineRecipe(options.model, max_batch=max(256, options.clients), threads=options.threads)
    settings = {"method": options.method} if options.method else {}
    model = SelfCorrectModel.load(options.model, engine=engine, own_process=not options.one_process, **settings)
    source = ModelSource(model, NAME)
    sides = Sides(source, [problem.question for problem in problems], options.clients, options.seconds)
    rounds: dict[str, list[dict[str, Any]]] = {"bare": [], "served": []}
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(sides.learn())
        standing = {"before": runner.run(sides.standing())}
        for place in range(options.rounds):
            for name in ("bare", "served") if place % 2 == 0 else ("served", "bare"):
                before = sides.cpu_s()
                found = runner.run(getattr(sides, name)())
                used = [after - one for after, one in zip(sides.cpu_s(), before, strict=True)]
                rounds[name].append(found | {"clients_cpu_s": found.get("cpu_s", 0.0), "cpu_s": used})
            standing[f"after round {place + 1}"] = runner.run(sides.standing())
        misused = runner.run(sides.misused())
        standing["after faults"] = runner.run(sides.standing())
        runner.run(source.close())
    return figures(rounds, options) | {"standing": standing, "faults": misused}


def figures(rounds: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    """Return what the rounds say."""

    def ratios(value: Any) -> list[float]:
        return [round(value(s) / value(b), 3) for s, b in zip(rounds["served"], rounds["bare"], strict=True)]

    def cpu(name: str) -> dict[str, int]:
        per_token = lambda seconds: round(statistics.median(1e6 * seconds(r) / r["tokens"] for r in rounds[name]))
        parts = {"server": per_token(lambda r: r["cpu_s"][0]), "clients": per_token(lambda r: r["clients_cpu_s"])}
        return parts | {"engine": per_token(lambda r: sum(r["cpu_s"][1:]))}

    rate = ratios(lambda one: one["tokens"] / one["wall_s"])
    first = ratios(lambda one: statistics.median(one["first_s"]))
    first_s = {name: [s for one in found for s in one["first_s"]] for name, found in rounds.items()}
    total = lambda key: sum(one[key] for one in rounds["served"])
    rates = {name: round(statistics.median(o["tokens"] / o["wall_s"] for o in r)) for name, r in rounds.items()}
    return {
        "rate_ratio": round(statistics.median(rate), 3),
        "ttft_ratio": round(statistics.median(first), 3),
        "cpu_ratio": round(statistics.median(ratios(lambda one: one["tokens"] / sum(one["cpu_s"]))), 3),
        "lost": total("lost"),
        "mixed": total("mixed"),
        "stalled": total("stalled"),
        "disordered": total("disordered"),
        "clients": options.clients,
        "answers": total("answers"),
        "tokens_per_event": round(total("tokens") / max(1, total("events")), 2),
        "tokens_per_s": rates,
        "cpu_us_per_token": {name: cpu(name) for name in rounds},
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
    parser.add_argument("--seconds", type=float, default=60.0, help="of each side in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch in the engine, on both sides")
    parser.add_argument("--one-process", action="store_true", help="the engine in the server's process")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        asked_by(options.ask)
        return
    found = measure(options)
    table = Table("what", "value")
    for key, value in found.items():
        table.add_row(key, str(value))
    Console().print(table)
    said = {key: getattr(options, key) for key in ("model", "rounds", "seconds", "threads", "one_process")}
    print(json.dumps(found | said))


if __name__ == "__main__":
    main()
