"""Training stops at the first optimizer step that is not finite, and says which it was and what was not.

A loss that is not a number makes every weight one, and nothing downstream would say so: weights are saved, the last
finite loss stands in the summary. So loss, gradient norm (before clipping) and weights are looked at in every step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from selfcorrect.errors import GuardError
from selfcorrect.train.common.distributed import gathered
from selfcorrect.train.common.weights import is_sharded, local_part

if TYPE_CHECKING:
    from torch import Tensor


def require_finite(step: int, what: str, value: float, learning_rate: float) -> None:
    """Raise GuardError where ``value`` is infinite or not a number; ``step`` counts from 1."""
    if not math.isfinite(value):
        raise GuardError(
            f"step {step}: the {what} is {value}; training stops here and its weights are not kept. learning_rate is "
            f"{learning_rate:g}: try a lower one in another folder, or look at the data of that step"
        )


def largest(weights: Iterable[Tensor]) -> float:
    """Return the largest absolute value among the weights; NaN where one is not a number.

    Of sharded weights each process looks at its own part, and all learn what each found.
    """
    import torch

    weights = list(weights)
    parts = [local_part(weight) for weight in weights]
    found = [part for part in parts if part.numel()]
    value = float(torch.nn.utils.get_total_norm(found, norm_type=math.inf)) if found else 0.0
    values = gathered([value]) if any(map(is_sharded, weights)) else [value]
    return max(values, key=lambda each: (math.isnan(each), each))


def stop_where_not_finite(trainer: Any) -> None:
    """Make a trainer of transformers raise GuardError at the first step that is not finite, before it is saved."""
    from transformers import TrainerCallback

    training_step, grad_norm = trainer.training_step, trainer._get_grad_norm
    rate = trainer.args.learning_rate

    def checked_step(*args: Any, **kwargs: Any) -> Any:
        loss = training_step(*args, **kwargs)
        require_finite(trainer.state.global_step + 1, "loss", float(loss), rate)
        return loss

    def checked_norm(*args: Any, **kwargs: Any) -> Any:
        norm = grad_norm(*args, **kwargs)
        if not trainer.args.fp16:  # whose loss scaling finds its range by overflowing
            require_finite(trainer.state.global_step + 1, "gradient norm", float(norm), rate)
        return norm

    class Checked(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            trained = (weight for weight in model.parameters() if weight.requires_grad)
            require_finite(state.global_step, "largest weight", largest(trained), rate)

    trainer.training_step, trainer._get_grad_norm = checked_step, checked_norm
    trainer.add_callback(Checked())
