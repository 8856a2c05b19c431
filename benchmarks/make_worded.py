"""Make ``.models/worded``: problems of small steps, and what the start model of `reproduce --scale smollm` learns.

python benchmarks/make_worded.py [FOLDER]

``train``, ``validation`` and ``test`` are problems; ``parts`` are chats about further problems, in which each part is
asked for by itself, and drills (benchmarks/gpu/worded_parts.py). Needs ``.models/smollm2`` for its tokenizer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.gpu import worded, worded_parts
from selfcorrect.chat import ChatCodec

SIZES = {"train": 800, "validation": 200, "test": 500, "start": 360, "drilled": 960}
SEED = 0

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".models/worded")
    problems = worded.write(folder, SIZES, SEED, worded.SMALL)
    codec = ChatCodec.load(".models/smollm2")
    worded_parts.write_parts(
        folder / "parts.jsonl", problems["start"], problems["drilled"], codec, SEED, worded_parts.Shares()
    )
    print(f"{folder}: " + ", ".join(f"{name} {size:,}" for name, size in SIZES.items()))
