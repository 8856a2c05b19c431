"""The correction loop: attempt, judge, revise, stop. What evaluation, `SelfCorrectModel` and RL have in common.

`loop` is the loop and its table of methods, `parsing` reads what a model wrote, `stop_rule` says what becomes of the
model's own verdict, `judges` are others that give one, `decided_verdicts` writes a verdict in place of the sampled one.
"""

from selfcorrect.correction.loop import METHODS, LoopSettings, Method, grade_trajectories, solve
from selfcorrect.correction.stop_rule import StopRule, load_rule

__all__ = ["METHODS", "LoopSettings", "Method", "StopRule", "grade_trajectories", "load_rule", "solve"]
