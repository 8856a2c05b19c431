"""What the page calls a logged figure of training (``metrics.jsonl``): a title, its unit, and what it means.

A key that is not here is shown as it is logged.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """One logged figure; ``unit`` is empty for a bare number."""

    title: str
    unit: str = ""
    meaning: str = ""


PERCENT = "percent"
OF_ROLLOUT = "of the rollout's trajectories"
MEASURES = {
    "turn1": Measure("Turn 1", PERCENT, f"first attempts that are correct, {OF_ROLLOUT}"),
    "final": Measure("Final", PERCENT, f"final answers that are correct, {OF_ROLLOUT}"),
    "delta": Measure("Δ", "points", "Final minus Turn 1"),
    "i2c": Measure("Δ i→c", PERCENT, "incorrect at turn 1, correct at the end: fixed"),
    "c2i": Measure("Δ c→i", PERCENT, "correct at turn 1, incorrect at the end: broken"),
    "reward": Measure("Reward", "", f"what RL receives, mean {OF_ROLLOUT}"),
    "verdict_rate": Measure("First attempts with a verdict", PERCENT, "those that the model judged, well-formed"),
    "rm_C": Measure("RM C", PERCENT, "judged correct, of the correct first attempts that have a verdict"),
    "rm_W": Measure("RM W", PERCENT, "judged wrong, of the wrong first attempts that have a verdict"),
    "revised": Measure("Revised", PERCENT, "trajectories with a revision"),
    "unchanged": Measure("Unchanged revisions", PERCENT, "revisions that repeat the attempt's answer"),
    "mean_length": Measure("Length", "sampled tokens", f"mean {OF_ROLLOUT}"),
    "loss": Measure("Loss", "", "what the optimiser lowers; in RL its sign and size mean little"),
    "eval_loss": Measure("Loss on held-out rows", "nats a token"),
    "token_accuracy": Measure("Learned tokens predicted", "share", "learned tokens that the model finds likeliest"),
    "kl": Measure("KL", "nats a token", "distance from the reference policy"),
    "entropy": Measure("Entropy", "nats a token", "how undecided the model is about the next token"),
    "grad_norm": Measure("Gradient norm", "", "before clipping"),
    "learning_rate": Measure("Learning rate"),
    "clipped": Measure("Clipped", "share", "tokens whose probability ratio lies outside the clip range"),
    "zero_variance": Measure("Groups without variance", "share", "all rewards alike: they teach nothing"),
    "used_rows": Measure("Trajectories in the update"),
    "logprob_gap": Measure(
        "Canary, mean", "nats a token", "difference of the trainer's log-probabilities from the sampler's"
    ),
    "logprob_gap_max": Measure("Canary, largest", "nats a token", "the same, of the worst token"),
}


def measure(key: str) -> Measure:
    """Return what a logged figure is called; its key where it has no name here."""
    return MEASURES.get(key, Measure(key))
