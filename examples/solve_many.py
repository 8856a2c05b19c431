"""Solve the questions of a file, one a line, all at once: python examples/solve_many.py examples/questions.txt"""

import sys
from pathlib import Path

from selfcorrect import SelfCorrectModel

questions = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
with SelfCorrectModel.load("embedded") as model:
    for trajectory in model.solve_many(questions, progress=lambda done, of: print(f"{done}/{of}", file=sys.stderr)):
        print(trajectory.final.answer, trajectory.stop, trajectory.problem.question, sep="\t")
