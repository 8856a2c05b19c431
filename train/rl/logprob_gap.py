"""`Gap`: how far the sampler's log-probabilities are from the trainer's; the canary of every rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from selfcorrect.errors import GuardError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Gap:
    """Running difference between the sampler's and the trainer's log-probabilities of the same tokens."""

    total: float = 0.0
    tokens: int = 0
    largest: float = 0.0

    @property
    def mean(self) -> float:
        """Mean absolute difference in nats."""
        return self.total / max(1, self.tokens)

    def add(self, difference_BT: Tensor, mask_BT: Tensor) -> None:
        """Take in a micro-batch. Raises GuardError where a difference under the mask is not finite."""
        compared = difference_BT.float().abs()[mask_BT.bool()]
        unknown = int((~compared.isfinite()).sum())
        if unknown:
            raise GuardError(
                f"the sampler and the trainer cannot be compared: the difference of their log-probabilities is not "
                f"finite for {unknown} of {len(compared)} tokens; one of the two computes with broken weights"
            )
        self.total += compared.sum().item()
        self.tokens += len(compared)
        self.largest = max(self.largest, compared.max().item() if len(compared) else 0.0)

    def hold(self, limit: float, step: int) -> None:
        """Raise GuardError where the mean is above the limit (``max_logprob_gap``)."""
        if self.mean > limit:
            raise GuardError(
                f"step {step}: the sampler's log-probabilities differ from the trainer's by "
                f"{self.mean:.3f} nats a token (max_logprob_gap {limit}): it samples from other "
                "weights, at another temperature, or in a precision too low to train on"
            )
