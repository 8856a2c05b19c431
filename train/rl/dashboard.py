"""Where the time of a run of RL goes: fields of ``metrics.jsonl``, the line of progress, the summary.

A row of a rollout has, beside what was measured on its trajectories:

- ``time/sampling``, ``time/grading``, ``time/update``, ``time/handover``: percent of the trainer's time since the
  rollout before. Sampling is what the trainer waited for (``off_policy: 1`` hides the remainder behind the update), the
  hand-over of the weights includes the canary's check of it;
- ``tokens_per_s/sampled``: sampled tokens by the seconds that their sampling took, waited for or not;
  ``tokens_per_s/trained``: tokens of the update by the seconds of the update;
- ``eta_s``: seconds until the last rollout is learned, at the mean rate since the run was begun or resumed.

Times are those of the main process, tokens those of all processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PARTS = {"sampling": "waited_s", "grading": "grading_s", "update": "update_s", "handover": "handover_s"}
"""The parts of a step, and the fields with their seconds; of ``update_s`` each optimizer step has its own."""

Rows = Sequence[Mapping[str, Any]]


def dashboard(rows: Rows, steps_per_rollout: int, eta_s: float | None) -> dict[str, float | None]:
    """Return the fields of the last of ``rows``, which is the first of its rollout."""
    row = rows[-1]
    before = next((place for place in range(len(rows) - 1, 0, -1) if is_of_rollout(rows[place - 1])), 0)
    fields: dict[str, float | None] = {f"time/{part}": share for part, share in shares(rows[before:]).items()}
    trained = row["trained_tokens"] / steps_per_rollout
    fields["tokens_per_s/trained"] = trained / row["update_s"] if row["update_s"] > 0 else None
    return fields | {"eta_s": eta_s}


def is_of_rollout(row: Mapping[str, Any]) -> bool:
    """True for the first row of a rollout, in which its measures stand."""
    return row.get("sampled_at") is not None


def shares(rows: Rows) -> dict[str, float | None]:
    """Return the percentage of each part in the time of some rows; None where no time was measured."""
    seconds = {part: sum(row.get(field) or 0.0 for row in rows) for part, field in PARTS.items()}
    whole = sum(seconds.values())
    return {part: 100 * value / whole if whole else None for part, value in seconds.items()}


def dashboard_line(row: Mapping[str, Any]) -> str:
    """Return ``2,130 tokens/s sampled, 5,400 trained; time: 54% sampling, 1% grading, 44% update, 1% hand-over``."""
    rates = [row.get(f"tokens_per_s/{what}") for what in ("sampled", "trained")]
    sampled, trained = ("–" if rate is None else f"{rate:,.0f}" for rate in rates)
    times = [(part, row.get(f"time/{part}")) for part in PARTS]
    shown = ", ".join(
        f"{share:.0f}% {part.replace('handover', 'hand-over')}" for part, share in times if share is not None
    )
    return f"{sampled} tokens/s sampled, {trained} trained" + (f"; time: {shown}" if shown else "")


def time_summary(rows: Rows) -> dict[str, Any]:
    """Return what a finished run says of its time: shares over all its rows, and tokens a second.

    {} where a version before this one, which measured less, wrote some of the rows.
    """
    of_rollouts = [row for row in rows if is_of_rollout(row)]
    if not of_rollouts or not all("waited_s" in row for row in of_rollouts):
        return {}
    found = {part: None if share is None else round(share, 1) for part, share in shares(rows).items()}
    sampling_s = sum(row["sampled_tokens"] / max(row["tokens_per_s/sampled"], 1e-9) for row in of_rollouts)
    update_s = sum(row["update_s"] for row in rows)
    rates = {
        "sampled": sum(row["sampled_tokens"] for row in of_rollouts) / max(sampling_s, 1e-9),
        "trained": sum(row["trained_tokens"] for row in of_rollouts) / max(update_s, 1e-9),
    }
    return {"time": found, "tokens_per_s": {what: round(rate, 1) for what, rate in rates.items()}}
