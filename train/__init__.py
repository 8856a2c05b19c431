"""Stages 1 and 2: fine-tuning, preference learning and reinforcement learning."""
