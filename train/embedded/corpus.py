"""The embedded model's pre-training corpus: phases of conversations, in skills and then in styles.

python -m selfcorrect.train.embedded.corpus --count 3          # look at problems and conversations
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from selfcorrect.printing import show
from selfcorrect.problems.arithmetic import OUT_OF_DISTRIBUTION, PRODUCTS, REWORDED, SOURCE, problems
from selfcorrect.runs.jsonl import write_whole
from selfcorrect.train.embedded.skills import Mix, Turn, conversation
from selfcorrect.train.embedded.styles import Styles, styled_conversation


@dataclass(frozen=True, slots=True)
class Phase:
    """So many conversations: of skills with these overrides of `Mix`, or in styles with these of `Styles`."""

    conversations: int
    mix: Mapping[str, float] = field(default_factory=dict)
    styles: Mapping[str, float] | None = None

    def writer(self) -> Callable[[random.Random], list[Turn]]:
        """Return what draws one conversation of the phase."""
        if self.styles is None:
            return partial(conversation, mix=Mix(**self.mix))
        return partial(styled_conversation, styles=Styles(**self.styles))


def write_corpus(path: Path, phases: Sequence[Phase], seed: int) -> None:
    """Write the conversations of all phases as JSON lines, each a list of ``[role, text, learn]``."""
    rng = random.Random(f"{SOURCE} corpus {seed}")
    writers = ((phase.writer(), phase.conversations) for phase in phases)
    written = (write(rng) for write, count in writers for _ in range(count))
    write_whole(path, (json.dumps([[turn.role, turn.text, turn.learn] for turn in turns]) + "\n" for turns in written))


def examples(split: str, count: int, seed: int, phase: Phase) -> str:
    """Return a few problems of a split and a few conversations of a phase as text; what is learned has a ``*``."""
    lines = [
        f"{problem.id} | {problem.meta['level']} | {problem.question} | {problem.gold}"
        for problem in problems(split, count, seed)
    ]
    rng = random.Random(seed)
    for _ in range(count):
        lines.append("-" * 80)
        turns = phase.writer()(rng)
        lines += [f"[{turn.role or 'text'}{' *' if turn.learn else ''}] {turn.text}" for turn in turns]
    return "\n".join(lines)


def main() -> None:
    """Print a few problems of a split and a few conversations, or write the corpus."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    splits = [*PRODUCTS, OUT_OF_DISTRIBUTION, REWORDED]
    parser.add_argument("--split", choices=splits, default="train", help="the split to show")
    parser.add_argument("--count", type=int, default=3, help="how many problems and conversations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="write the corpus to this JSONL file and print nothing")
    parser.add_argument("--phases", type=json.loads, default=[{"conversations": 1000}], help="of the corpus, as JSON")
    options = parser.parse_args()
    phases = [Phase(**phase) for phase in options.phases]
    if options.corpus:
        write_corpus(options.corpus, phases, options.seed)
    else:
        show(examples(options.split, options.count, options.seed, phases[-1]))


if __name__ == "__main__":
    main()
