"""Compare the first answer, the corrected one and a vote of eight: python examples/vote.py "Emma has 354 coins. …" """

import sys

from selfcorrect import SelfCorrectModel

with SelfCorrectModel.load("embedded") as model:
    once = model.solve(sys.argv[1])
    vote = model.vote(sys.argv[1], 8, temperature=0.7)
print("first", once.first.answer, "corrected", once.final.answer, "voted", vote.answer)
for share in vote.shares:
    print(f"{share.answer}: {share.weight:g} of {len(vote.trajectories)} votes")
