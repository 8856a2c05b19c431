"""Reinforcement learning: what `train grpo` and `train ppo` share, from rollouts to guards."""
