"""LoRA: train a low-rank update of the linear layers, sample from it live, save it merged.

Adapters are layers in the place of those that they adapt, so an engine that reads the module samples from the adapted
weights, and the reference policy is the same module with the adapters off. A finished checkpoint is a whole model
(base + update, in float32) that any engine loads; the update alone lies in its folder ``adapter/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selfcorrect.errors import RecipeError

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True, slots=True)
class LoraRecipe:
    """W + (alpha / rank) B A in the place of W, with A and B learned (Hu et al., arXiv 2106.09685, section 4.1).

    Without dropout, which would set the trainer's log-probabilities apart from the sampler's.
    """

    rank: int = 16  # of the update's two matrices
    alpha: int = 32  # the update is scaled by alpha / rank
    targets: str = "all-linear"  # every linear layer but the head; or names with commas: q_proj,v_proj

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise RecipeError("lora: rank is at least 1, alpha at least 1")


def peft_config(lora: LoraRecipe | None) -> LoraConfig | None:
    """Return PEFT's configuration, None where all weights are trained."""
    if lora is None:
        return None
    from peft import LoraConfig

    targets: Any = lora.targets
    if targets != "all-linear":
        targets = [name.strip() for name in lora.targets.split(",")]
    return LoraConfig(task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)


@contextmanager
def named_targets() -> Iterator[None]:
    """Turn PEFT's complaint about ``lora.targets`` that the model has not into a RecipeError."""
    from peft.utils.error import NoMatchingPeftModuleError

    try:
        yield
    except NoMatchingPeftModuleError as error:
        raise RecipeError(f"lora.targets: {error}") from error


def unwrapped(model: Any) -> Any:
    """Return the language model inside PEFT's wrapper, adapters in place; one without a wrapper as it is."""
    return model.get_base_model() if is_adapted(model) else model


def is_adapted(model: Any) -> bool:
    """True for a model that PEFT wraps."""
    return hasattr(model, "get_base_model")
