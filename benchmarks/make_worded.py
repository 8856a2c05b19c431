"""Make ``.models/worded``: problems of small steps, and what the start model of `reproduce --scale smollm` learns.

python benchmarks/make_worded.py [FOLDER]

``train``, ``validation`` and ``test`` are problems; ``unseen`` are those of ``test`` whose sum is told, in whatever
order of its numbers, neither in ``train`` nor in what the start model learns of such sums (``asked``, ``drilled``).
``parts`` and ``drills`` are rows for `train sft`: the start model is tuned on the first, chats about larger sums in
which each part is asked for by itself, then on the second, such chats about sums like the problems', and drills
(benchmarks/gpu/worded_parts.py). Needs ``.models/smollm2`` for its tokenizer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.gpu import worded, worded_parts
from selfcorrect.chat import ChatCodec

FIRST = slice(2800, 3440)
"""The problems, of the draw of larger ones, that the chats of the first stretch are about."""
SIZES = {"train": 800, "validation": 200, "test": 500, "asked": 160, "drilled": 720}
SEED = 0


def make(folder: Path, codec: ChatCodec) -> dict[str, int]:
    """Write problems and rows; return how many of each."""
    first = list(worded.Drawn(SEED, worded.LEVELS).take(FIRST.stop))[FIRST]
    problems = worded.write(folder, SIZES, worded.Drawn(SEED, worded.SMALL, avoid=first))
    told = {problem.sum_in_any_order for name in ("train", "asked", "drilled") for problem in problems[name]}
    unseen = [problem for problem in problems["test"] if problem.sum_in_any_order not in told]
    worded.write_problems(folder / "unseen.jsonl", unseen)
    shares = worded_parts.Shares()
    return {
        **SIZES,
        "unseen": len(unseen),
        "parts": worded_parts.write_parts(folder / "parts.jsonl", first, [], codec, SEED, shares),
        "drills": worded_parts.write_parts(
            folder / "drills.jsonl", problems["asked"], problems["drilled"], codec, SEED, shares
        ),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".models/worded")
    written = make(folder, ChatCodec.load(".models/smollm2"))
    print(f"{folder}: " + ", ".join(f"{name} {count:,}" for name, count in written.items()))
