"""Make ``.models/worded``: worded sums of small steps, for `selfcorrect reproduce --scale smollm`.

python benchmarks/make_worded.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.gpu import worded

SIZES = {"train": 3000, "validation": 500, "test": 1000}

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".models/worded")
    worded.write(folder, SIZES, seed=0)
    print(f"{folder}: " + ", ".join(f"{name} {size:,}" for name, size in SIZES.items()))
