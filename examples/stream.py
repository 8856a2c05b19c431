"""Watch an answer being written, judged and revised: python examples/stream.py "Emma has 354 coins. …" """

import sys

from selfcorrect import SelfCorrectModel

with SelfCorrectModel.load("embedded") as model:
    for event in model.stream(sys.argv[1]):
        if hasattr(event, "verdict"):
            print(f"\n-> attempt {event.index + 1} judged {event.verdict}, P(correct) {event.p_correct:.2f}")
        elif not hasattr(event, "trajectory"):  # text of an attempt, a self-evaluation or a revision
            print(getattr(event, "text", ""), end="", flush=True)
    print(f"\nanswer: {event.answer}")
