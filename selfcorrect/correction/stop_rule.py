"""The stop decision: what turns a self-evaluation into "stop" or "revise".

| ``stop`` | a path stops when |
| --- | --- |
| ``sampled`` | the model wrote that it is correct (the paper) |
| ``argmax`` | P(correct) is at least one half |
| ``threshold`` | the calibrated P(correct) reaches the threshold (`StopRule`) |
| ``never`` | it is at its horizon: every judged attempt is revised; what a threshold is tuned on |
| ``gold`` | the checker says so, in place of the model's own verdict |
| ``judge`` | another model says so (`selfcorrect.correction.judges`) |

A `StopRule` is tuned on a validation split by ``selfcorrect eval calibrate`` and lies beside the checkpoint as
``calibration.json``; evaluation and `SelfCorrectModel` both read it there. Pure Python.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selfcorrect.errors import DataError, InputError
from selfcorrect.types import SelfEvaluation, Verdict, to_json

Stop = Literal["sampled", "argmax", "threshold", "never", "gold", "judge"]
CALIBRATION_FILE = "calibration.json"
MOST_CERTAIN = 1e-6  # P(correct) is cut to [MOST_CERTAIN, 1 - MOST_CERTAIN] before a log-odds is taken of it


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A monotone map from the model's P(correct) to a calibrated one.

    ``temperature``: log-odds over ``values[0]``. ``platt``: ``values[0]`` times the log-odds plus ``values[1]``.
    ``isotonic``: linear between knots, P(correct) in the first half of ``values`` and what it becomes in the second.
    """

    kind: Literal["none", "temperature", "platt", "isotonic"] = "none"
    values: tuple[float, ...] = ()

    def __call__(self, p_correct: float) -> float:
        """Return the calibrated probability, in [0, 1]."""
        if self.kind == "none":
            return p_correct
        if self.kind == "isotonic":
            return self._between_knots(p_correct)
        scale, shift = (1 / self.values[0], 0.0) if self.kind == "temperature" else (self.values[0], self.values[1])
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, scale * log_odds(p_correct) + shift))))

    def _between_knots(self, p: float) -> float:
        half = len(self.values) // 2
        xs, ys = self.values[:half], self.values[half:]
        right = bisect.bisect_left(xs, p)
        if right == 0 or right == half:
            return ys[min(right, half - 1)]
        share = (p - xs[right - 1]) / (xs[right] - xs[right - 1])
        return ys[right - 1] + share * (ys[right] - ys[right - 1])


def log_odds(p: float) -> float:
    """Return log(p / (1 - p)), with p cut away from 0 and 1."""
    p = min(1 - MOST_CERTAIN, max(MOST_CERTAIN, p))
    return math.log(p / (1 - p))


@dataclass(frozen=True, slots=True)
class StopRule:
    """Stop where the calibrated P(correct) is at least ``threshold``."""

    calibrator: Calibrator = Calibrator()
    threshold: float = 0.5

    def verdict(self, evaluation: SelfEvaluation) -> Verdict:
        """Return the decision on a judged attempt; raises InputError where the engine gave no P(correct)."""
        if evaluation.p_correct is None:
            raise InputError(
                "the self-evaluation has a verdict but no P(correct): this engine gives no log-probabilities of the "
                "verdict tokens; use stop=sampled"
            )
        return Verdict.CORRECT if self.calibrator(evaluation.p_correct) >= self.threshold else Verdict.WRONG

    def to_json(self) -> dict[str, Any]:
        """Return the rule as JSON values."""
        return to_json(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> StopRule:
        """Rebuild a rule; raises DataError where a field is missing or of the wrong kind."""
        try:
            calibrator = Calibrator(row["calibrator"]["kind"], tuple(map(float, row["calibrator"]["values"])))
            rule = cls(calibrator, float(row["threshold"]))
            rule.calibrator(0.5)
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise DataError(f"not a stop rule ({error!r}): {str(row)[:200]}") from error
        return rule


def rule_file(path: str | Path) -> Path:
    """Return the calibration file that a path names: itself, the one in a checkpoint folder, or of a hub's model.

    Of a hub's model without one it is the path where a folder would have it, which does not exist.
    """
    if Path(path).suffix == ".json":
        return Path(path)
    parts = Path(path).parts
    is_hub_id = len(parts) == 2 and parts[0] not in ("/", ".", "..", "~", "runs") and not Path(parts[0]).is_dir()
    return (_rule_on_hub(str(path)) if is_hub_id else None) or Path(path) / CALIBRATION_FILE


def _rule_on_hub(model: str) -> Path | None:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        return None
    try:
        return Path(hf_hub_download(model, CALIBRATION_FILE))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def load_rule(path: str | Path) -> StopRule:
    """Return the rule in a calibration file, or in the checkpoint folder that holds one.

    Raises DataError with the command that makes it where there is none.
    """
    path, file = Path(path), rule_file(path)
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"no calibration at {file}; make it with: selfcorrect eval calibrate engine.model={path.with_suffix('')}"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    if not isinstance(row, dict) or "rule" not in row:
        raise DataError(f"{file}: expected a JSON object with a 'rule'; make it again with: selfcorrect eval calibrate")
    return StopRule.from_json(row["rule"])
