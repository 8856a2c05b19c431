"""The losses by name: what each of the papers defines, as settings of TRL and of ours. docs/training.md has the table.

``loss_type`` means a published method, so its settings are that method's where a recipe leaves them out, and what
would make it another method is refused; ``published: false`` mixes freely. Hyperparameters (clip ranges, the weight of
the KL) may be set to other values as long as the method stays what it is.

tests/train/rl/test_variants.py holds every row to a float64 loop written from the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from selfcorrect.errors import RecipeError, nearest
from selfcorrect.train.rl.advantages import Rule, Scale

ZeroVariance = Literal["keep", "skip", "drop"]
Level = Literal["token", "sequence"]

SETTINGS = ("scale_rewards", "epsilon", "epsilon_high", "zero_variance")
"""Keys of a GRPO recipe that a variant decides where they are null."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One loss. ``epsilon_high`` is the width above 1 of the clip range, under CISPO the cap of the ratio itself.

    ``aggregation`` is TRL's ``loss_type``: how tokens are averaged, and what is done with the ratio. ``zero_variance``
    is what the method does with groups of equal rewards (`rl.grpo_trainer`): where their advantage is 0, "skip" is
    the method's own mean without computing them.
    """

    source: str
    aggregation: str
    rule: Rule = "group"
    scale_rewards: Scale = "group"
    level: Level = "token"
    epsilon: float = 0.2
    epsilon_high: float = 0.2
    zero_variance: ZeroVariance = "skip"

    @property
    def positives_only(self) -> bool:
        """True where the other samples have no gradient and are counted, not computed."""
        return self.rule == "positive"


VARIANTS: dict[str, Variant] = {
    "grpo": Variant("arXiv 2402.03300, eq. 3", "grpo"),
    "dr_grpo": Variant("arXiv 2503.20783, section 3.2", "dr_grpo", scale_rewards="none"),
    "dapo": Variant("arXiv 2503.14476, eq. 8 to 12", "dapo", epsilon_high=0.28, zero_variance="drop"),
    "bnpo": Variant("TRL's documentation", "bnpo"),
    "cispo": Variant("arXiv 2506.13585, eq. 4 and 5; cap of 2510.13786", "cispo", epsilon_high=5.0),
    "gspo": Variant("arXiv 2507.18071, eq. 5 to 7", "grpo", level="sequence", epsilon=3e-4, epsilon_high=4e-4),
    "luspo": Variant("arXiv 2602.05261", "luspo", level="sequence", epsilon=2e-3, epsilon_high=2.5e-3),
    "sapo": Variant("arXiv 2511.20347", "sapo"),
    "vespo": Variant("arXiv 2602.10693", "vespo"),
    "rloo": Variant("arXiv 2402.14740, section 3.3", "dr_grpo", "leave-one-out", "none"),
    "raft++": Variant("arXiv 2504.11343, eq. 6", "grpo", "positive", "none", zero_variance="keep"),
    "reinforce-rej": Variant("arXiv 2504.11343, eq. 5, section 5", "grpo", "signed", "none", zero_variance="drop"),
}
"""Every ``loss_type``. GSPO, RLOO, RAFT++ and Reinforce-Rej are names of ours for what TRL can aggregate."""

_OURS = {
    "loss_type": "loss_type",
    "scale_rewards": "scale_rewards",
    "beta": "beta",
    "epsilon": "epsilon",
    "epsilon_high": "epsilon_high",
    "num_iterations": "passes",
    "steps_per_generation": "updates",
    "max_completion_length": "max_tokens",
    "mask_truncated_completions": "overlong=mask",
}
"""Settings of TRL that would go past a field of the recipe, and that field."""


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Raise RecipeError for a setting of TRL that would silently win over a field of the recipe."""
    for key in sorted(_OURS.keys() & trainer.keys()):
        raise RecipeError(f"trainer: {key!r} is a setting of the recipe itself: use {_OURS[key]}")


def variant_of(
    loss_type: str, chosen: Mapping[str, Any], trainer: Mapping[str, Any], normalise: str, beta: float, published: bool
) -> Variant:
    """Return the variant with a recipe's own settings in it; ``chosen`` has `SETTINGS`, null where left to the variant.

    Raises RecipeError for an unknown name, for settings that make it no method at all, and, where ``published``, for
    those that make it another one than its name says.
    """
    if loss_type not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise RecipeError(f"loss_type: expected one of {known}; got {loss_type!r}{nearest(loss_type, VARIANTS)}")
    named = VARIANTS[loss_type]
    level = trainer.get("importance_sampling_level", named.level)
    settings = {name: getattr(named, name) if chosen[name] is None else chosen[name] for name in SETTINGS}
    if chosen["zero_variance"] is None:
        settings["zero_variance"] = _zero_variance(named, trainer, normalise, beta)
    found = Variant(named.source, named.aggregation, named.rule, level=level, **settings)
    _check_sense(loss_type, found, normalise)
    if published:
        _check_published(loss_type, named, found, normalise)
    return found


def _zero_variance(named: Variant, trainer: Mapping[str, Any], normalise: str, beta: float) -> ZeroVariance:
    """Return what to do with groups of equal rewards where the recipe does not say.

    They are in a KL or entropy term although their advantage is 0, so "skip" would not be the loss. Advantages by role
    are no method of a paper's: there such groups are dropped.
    """
    if normalise == "role":
        return "drop"
    return "keep" if named.zero_variance == "skip" and (beta or trainer.get("entropy_coef")) else named.zero_variance


def _check_sense(loss_type: str, found: Variant, normalise: str) -> None:
    """Refuse settings under which the loss does not do what any of them says."""
    if normalise == "role" and found.rule != "group":
        raise RecipeError(f"loss_type={loss_type} names its own advantages; normalise=role needs a loss of TRL")
    if found.aggregation == "cispo" and found.epsilon_high < 1:
        raise RecipeError(
            f"cispo caps the ratio itself, so epsilon_high={found.epsilon_high} would make nearly every weight "
            f"{found.epsilon_high} whatever the policy did: clip(r, ., 1 + {found.epsilon_high}) is "
            f"epsilon_high={1 + found.epsilon_high:g}; null is 5.0 (ScaleRL)"
        )
    if found.rule in ("positive", "signed") and found.zero_variance == "skip":
        raise RecipeError(
            f"zero_variance=skip leaves the loss as it is only where groups of equal rewards have advantage 0; under "
            f"{loss_type} they have not: use keep or drop"
        )


def _check_published(loss_type: str, named: Variant, found: Variant, normalise: str) -> None:
    """Refuse what is not the method of that name."""

    def refuse(key: str, value: object, instead: object, why: str) -> None:
        raise RecipeError(
            f"loss_type={loss_type} with {key}={value} is not {loss_type} ({named.source}): {why}; leave {key} out or "
            f"set {instead}, or set published=false to train on this mixture"
        )

    if normalise == "path" and found.scale_rewards != named.scale_rewards:
        how = "by nothing" if named.scale_rewards == "none" else f"by the {named.scale_rewards}'s deviation"
        refuse("scale_rewards", found.scale_rewards, named.scale_rewards, f"it divides advantages {how}")
    if found.level != named.level:
        more = "; the ratio of a sequence in GRPO's loss is loss_type=gspo" if loss_type == "grpo" else ""
        refuse("importance_sampling_level", found.level, named.level, f"its ratios are those of a {named.level}{more}")
    if named.level == "sequence" and max(found.epsilon, found.epsilon_high) > 0.1:
        widest = max(found.epsilon, found.epsilon_high)
        why = f"ratios of whole sequences hardly leave 1 ± {widest}, so nothing would be clipped"
        refuse("epsilon", f"{found.epsilon}, {found.epsilon_high}", f"{named.epsilon}, {named.epsilon_high}", why)
    if named.rule == "positive" and found.zero_variance != "keep":
        refuse("zero_variance", found.zero_variance, "keep", "it learns from all right paths, also where all are right")
    if named.rule == "signed" and found.zero_variance != "drop":
        refuse("zero_variance", found.zero_variance, "drop", "it leaves out the groups that are all right or all wrong")
