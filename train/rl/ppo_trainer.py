"""`PpoTrainer`: PPO on `TrajectoryTrainer`'s rollouts, rewards, checks and micro-batches, with a value model.

What GRPO takes from a group of trajectories, PPO takes from a value model; all else is shared. Each equation:

- policy: the clipped surrogate of PPO (Schulman et al., arXiv 1707.06347, eq. 7), TRL's own code, mean over tokens;
- reward of a token: -beta (log pi_old - log pi_ref), and the trajectory's reward on its last token (Ziegler et al.,
  arXiv 1909.08593, eq. 2, spread over tokens as in Stiennon et al., 2009.01325);
- advantages: GAE(gamma, lambda) over the policy's own tokens (Schulman et al., arXiv 1506.02438, eq. 16), whitened;
- value: 1/2 max((V - R)^2, (clip(V, V_old ± c) - R)^2), R = advantage + V_old (the clipping of OpenAI's baselines;
  Engstrom et al., arXiv 2005.12729, section 3); its head starts at zero.

The value of a token is that of the state before it. Tokens of the user are state, not steps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selfcorrect.train.common.distributed import deepspeed_asked, fsdp_asked
from selfcorrect.train.common.lora import is_adapted, unwrapped
from selfcorrect.train.common.sharding import through_root
from selfcorrect.train.rl.advantages import gae, whiten
from selfcorrect.train.rl.grpo_trainer import TrajectoryTrainer
from selfcorrect.train.rl.recipe import Critic
from selfcorrect.train.rl.scored_rollout import ScoredRollout

_VALUES = "value_model.safetensors"


class ValueModel(nn.Module):
    """The value of each state: a scalar head on a trunk of its own, or on the policy's (``trunk`` None)."""

    def __init__(self, trunk: nn.Module | None, hidden_size: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, policy_trunk: Any, ids: Tensor, mask: Tensor, kept: int) -> Tensor:
        """Return the values before each of the last ``kept`` tokens, (B, kept), float32."""
        trunk = self.trunk if self.trunk is not None else policy_trunk
        hidden = trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, -kept - 1 : -1]
        return self.head(hidden.to(self.head.weight.dtype))[..., 0].float()


class PpoTrainer(TrajectoryTrainer):
    """See the module's text. ``beta`` of the configuration is the KL's weight in the reward; the loss has none."""

    def __init__(
        self,
        *,
        critic: Critic,
        gamma: float,
        lam: float,
        value_clip: float,
        value_weight: float,
        value_learning_rate: float,
        critic_warmup: int,
        **shared: Any,
    ) -> None:
        self.critic = critic
        super().__init__(**shared)
        self.kl_weight, self.beta = self.beta, 0.0
        self.gamma, self.lam = gamma, lam
        self.value_clip, self.value_weight = value_clip, value_weight
        self.value_learning_rate, self.critic_warmup = value_learning_rate, critic_warmup
        if not hasattr(self.model, "value_model"):
            self._add_value_model(self.model)

    def _add_value_model(self, policy: Any) -> None:
        """Make it a submodule of the policy: optimizer, checkpoints and gradient synchronisation then include it."""
        trunk = copy.deepcopy(unwrapped(policy).base_model) if self.critic == "separate" else None
        hidden_size = policy.config.get_text_config().hidden_size
        policy.value_model = ValueModel(trunk, hidden_size).to(policy.device)

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        if fsdp_asked():  # what is sharded is sharded together, and cannot be copied after
            self._add_value_model(model)
        super()._move_model_to_device(model, device)

    def release(self) -> None:
        """Take the value model off the policy."""
        del self.model.value_model

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save a checkpoint; PEFT's holds the adapters alone, so what else is trained is put beside them.

        DeepSpeed's has its own file of all that learns.
        """
        super()._save(output_dir, state_dict)
        if is_adapted(self.model) and hasattr(self.model, "value_model") and not deepspeed_asked():
            trained = {name: p for name, p in self.model.value_model.named_parameters() if p.requires_grad}
            save_file(trained, Path(output_dir or self.args.output_dir) / _VALUES)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if is_adapted(self.model) and hasattr(self.model, "value_model") and not fsdp_asked():
            self.model.value_model.load_state_dict(load_file(Path(resume_from_checkpoint) / _VALUES), strict=False)

    def create_optimizer(self, model: Any = None) -> Any:
        """Give the value model's parameters their own learning rate."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(model)
        critics = {id(parameter) for parameter in self.model.value_model.parameters()}
        for group in list(optimizer.param_groups):
            theirs = [parameter for parameter in group["params"] if id(parameter) in critics]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in critics]
            settings = {name: value for name, value in group.items() if name != "params"}
            if theirs:
                optimizer.add_param_group(settings | {"params": theirs, "lr": self.value_learning_rate})
        if fsdp_asked():  # the settings of a group are saved with its parameters, so an empty one would lose them
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def _values(self, ids: Tensor, mask: Tensor, kept: int) -> Tensor:
        policy = self.accelerator.unwrap_model(self.model)
        with self.accelerator.autocast():
            values = through_root(policy, _values_of, ids, mask, kept)
        return values

    def weigh(self, scored: ScoredRollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return every learned token's advantage, and the value and value target that the critic learns from."""
        rewards = [float("nan") if reward is None else reward for reward in scored.rewards]
        rewards_B = torch.tensor(rewards, device=batch["completion_ids"].device)
        mask_BT = (batch["completion_mask"] * batch.get("tool_mask", 1)).float()
        mask_BT = mask_BT * ~rewards_B.isnan()[:, None]
        with torch.no_grad():
            values_BT = torch.cat([self._values(*part) for part in self._chunks(batch)]) * mask_BT
            gap_BT = torch.zeros_like(mask_BT)
            if self.kl_weight:
                parts = [self._reference_log_probs(*part) for part in self._chunks(batch)]
                gap_BT = (batch["sampling_per_token_logps"] - torch.cat(parts)) * mask_BT
        token_rewards_BT = -self.kl_weight * gap_BT
        last_B = (mask_BT * torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)).argmax(1)
        rows = torch.arange(len(last_B), device=last_B.device)
        token_rewards_BT[rows, last_B] += rewards_B.nan_to_num(0.0)
        advantages_BT, returns_BT = gae(token_rewards_BT, values_BT, mask_BT, self.gamma, self.lam)
        white_BT = whiten(advantages_BT, mask_BT, self._sum_over_processes)
        if self.state.global_step < self.critic_warmup:
            white_BT = torch.zeros_like(white_BT)
        self.figures = {**self._measured(gap_BT, values_BT, returns_BT, mask_BT)}
        return {"advantages": white_BT, "old_values": values_BT, "returns": returns_BT}

    def _chunks(self, batch: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield ids, mask and completion width of a few rows at a time."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        size = self.args.per_device_train_batch_size
        for start in range(0, len(ids), size):
            yield ids[start : start + size], mask[start : start + size], batch["completion_ids"].shape[1]

    def _measured(self, gap_BT: Tensor, values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> dict[str, float]:
        """Return the KL in nats a token, and the share of the returns' variance that the values explain."""
        learned = mask_BT.bool()
        left = (returns_BT - values_BT)[learned].var()
        explained = 1 - (left / returns_BT[learned].var().clamp(min=1e-8)).item()
        return {"kl": (gap_BT.sum() / mask_BT.sum().clamp(min=1)).item(), "explained_variance": explained}

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if "completion_ids" not in inputs or not self.model.training:
            return loss
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        values_BT = self._values(ids, mask, inputs["completion_ids"].shape[1])
        learned_BT = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        errors_BT = value_errors(values_BT, inputs["old_values"], inputs["returns"], self.value_clip)
        # The mean over the update's learned tokens, as TRL's DAPO loss takes it for the policy.
        share = self.current_gradient_accumulation_steps / self.args.steps_per_generation
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes * share
        value_loss = (errors_BT * learned_BT).sum() / tokens
        self.figures["value_loss"] = value_loss.item()
        return loss + self.value_weight * value_loss


def _values_of(policy: Any, ids: Tensor, mask: Tensor, kept: int) -> Tensor:
    values: Tensor = policy.value_model(unwrapped(policy).base_model, ids, mask, kept)
    return values


def value_errors(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, clip: float) -> Tensor:
    """Return half the larger of the squared errors of the values and of the values clipped around the old ones."""
    clipped_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    return 0.5 * torch.max((values_BT - returns_BT) ** 2, (clipped_BT - returns_BT) ** 2)
